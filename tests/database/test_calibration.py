import json
from dataclasses import replace

import numpy as np
import pytest

from cellcode.database.building.fusion import fuse
from cellcode.database.calibration.fit import Calibration, fit
from cellcode.database.calibration.similarity import Terms
from cellcode.geography import Region, s2
from cellcode.runs import Validation

IDS = Region.bbox(3.0, 52.0, 3.06, 52.04).cells(16)
DIM = 32


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def _world(aerial_noise: float, prototype_noise: float, unvisited_share: float = 0.3) -> tuple[Validation, Terms]:
    """Queries that resemble both terms of their cell, each blurred by its own noise; some cells have no prototype."""
    rng = np.random.default_rng(0)
    meaning = _unit(rng.standard_normal((len(IDS), DIM)))
    aerial = _unit(meaning + aerial_noise * rng.standard_normal(meaning.shape))
    prototypes = _unit(meaning + prototype_noise * rng.standard_normal(meaning.shape))
    has_prototype = rng.random(len(IDS)) > unvisited_share
    prototypes[~has_prototype] = 0
    rows = rng.integers(0, len(IDS), 600)
    lat, lon = s2.cell_centers(IDS[rows])
    queries = _unit(meaning[rows] + 0.25 * rng.standard_normal((600, DIM)))
    return Validation(lat, lon, queries), Terms(aerial, prototypes, np.ones(len(IDS), bool), has_prototype)


def _log_mass(validation: Validation, terms: Terms, calibration: Calibration) -> float:
    """Mean log posterior mass within 100 m of the truth: what the fit maximises, by its definition."""
    codes = fuse(terms.aerial, terms.prototypes, terms.has_aerial, terms.has_prototype, calibration)
    logits = (validation.queries @ codes.T).astype(np.float64) / calibration.temperature
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    from cellcode.geography import distance

    near = distance.haversine_m(validation.lat_deg[:, None], validation.lon_deg[:, None], *s2.cell_centers(IDS)) <= 100
    return float(np.log(np.maximum((share * near).sum(axis=1), 1e-300)).mean())


def test_no_other_figures_explain_the_validation_photos_better() -> None:
    """With every photo counting the same, as `_log_mass` has it."""
    validation, terms = _world(0.2, 0.2)
    share = float((~terms.has_prototype[_rows(validation)]).mean())
    made, _ = fit(validation, IDS, terms, radius_m=100, unvisited_weight=share)
    best = _log_mass(validation, terms, made)
    assert made.imputed > 0
    for name in ("kappa", "aerial_only", "temperature", "imputed"):
        for factor in (0.7, 0.9, 1.1, 1.4):
            other = replace(made, **{name: getattr(made, name) * factor})
            assert _log_mass(validation, terms, other) <= best + 2e-3, (name, factor)


def test_kappa_follows_the_better_term() -> None:
    good_prototypes, _ = fit(*_arguments(_world(0.5, 0.1)), radius_m=100)
    good_aerial, _ = fit(*_arguments(_world(0.1, 0.5)), radius_m=100)
    assert good_prototypes.kappa > 1.5 * good_aerial.kappa


def test_photos_of_unvisited_cells_are_not_sacrificed() -> None:
    """The trap of a plain sum: cells with two terms outscore cells with one. The fit keeps most of both."""
    validation, terms = _world(0.15, 0.15)
    _, report = fit(validation, IDS, terms, radius_m=100)
    recall = report["recall"]
    assert recall["calibrated"]["without_prototype"] >= 0.9 * recall["aerial"]["without_prototype"]
    assert recall["calibrated"]["without_prototype"] > recall["plain sum"]["without_prototype"]
    assert recall["calibrated"]["with_prototype"] >= recall["prototypes"]["with_prototype"] - 0.01


def test_a_given_kappa_is_kept() -> None:
    made, _ = fit(*_arguments(_world(0.2, 0.2)), radius_m=100, kappa=0.37)
    assert made.kappa == pytest.approx(0.37)


def test_without_validation_photos_it_says_so_and_stays_neutral(caplog: pytest.LogCaptureFixture) -> None:
    _, terms = _world(0.2, 0.2)
    nobody = Validation(np.empty(0), np.empty(0), np.empty((0, DIM), np.float32))
    made, _ = fit(nobody, IDS, terms, radius_m=100)
    assert made.kappa == 1
    assert made.outside_score is None
    assert made.photos == 0
    assert "too few" in caplog.text


def test_most_validation_photos_count_as_inside() -> None:
    validation, terms = _world(0.2, 0.2)
    made, _ = fit(validation, IDS, terms, radius_m=100)
    codes = fuse(terms.aerial, terms.prototypes, terms.has_aerial, terms.has_prototype, made)
    top = (validation.queries @ codes.T).max(axis=1)
    assert made.outside_score is not None
    assert (top >= made.outside_score).mean() == pytest.approx(0.95, abs=0.01)


def _rows(validation: Validation) -> np.ndarray:
    return np.searchsorted(IDS, s2.cell_ids(validation.lat_deg, validation.lon_deg, 16))


def _arguments(world: tuple[Validation, Terms]) -> tuple[Validation, np.ndarray, Terms]:
    return world[0], IDS, world[1]


def test_guessed_prototypes_help_where_no_photo_was_taken() -> None:
    """Tiles say where they are in another language than photos; the cells with both terms are the dictionary."""
    validation, terms = _world(0.05, 0.05, unvisited_share=0.4)
    assert terms.aerial is not None
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0].astype(np.float32)
    terms = terms._replace(aerial=_unit(terms.aerial @ (turn + 0.3 * np.eye(DIM, dtype=np.float32))))
    found = {}
    for impute in (False, True):
        made, report = fit(validation, IDS, terms, radius_m=100, impute=impute)
        assert (made.imputed > 0) is impute
        assert (made.imputation is not None) is impute
        found[impute] = report["recall"]["calibrated"]
    assert found[True]["without_prototype"] > 0.2 + found[False]["without_prototype"]
    assert found[True]["with_prototype"] > found[False]["with_prototype"] - 0.05


def test_too_few_cells_to_guess_from_are_said(caplog: pytest.LogCaptureFixture) -> None:
    validation, terms = _world(0.05, 0.05, unvisited_share=0.9)
    both = int(terms.has_prototype.sum())
    assert both < 200
    made, _ = fit(validation, IDS, terms, radius_m=100)
    assert made.imputation is None
    assert f"{both} cells have both terms, 200 are needed" in caplog.text


def test_figures_survive_the_manifest_and_those_of_earlier_versions_are_read() -> None:
    validation, terms = _world(0.2, 0.2)
    made, _ = fit(validation, IDS, terms, radius_m=100)
    kept = json.loads(json.dumps(made.to_json()))
    assert Calibration.from_json(kept, made.imputation) == made
    with pytest.raises(ValueError, match="of another database"):
        Calibration.from_json(kept, None)
    earlier = {
        "kappa": 0.7,
        "aerial_only": 1.2,
        "prototype_only": 1.0,
        "temperature": 0.04,
        "outside_score": 0.3,
        "photos": 9,
    }
    old = Calibration.from_json(earlier)
    assert (old.kappa, old.imputed, old.share_50, old.share_90, old.inside) == (0.7, 0, 0.5, 0.9, None)


def test_the_temperature_makes_probabilities_come_true() -> None:
    """Of the mass within 100 m of the best cell, about as much is right as it says, photos of both kinds together."""
    validation, terms = _world(0.2, 0.2)
    made, _ = fit(validation, IDS, terms, radius_m=100)
    codes = fuse(terms.aerial, terms.prototypes, terms.has_aerial, terms.has_prototype, made)
    logits = validation.queries @ codes.T / made.temperature
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = (share / share.sum(axis=1, keepdims=True)).max(axis=1)
    right = logits.argmax(axis=1) == _rows(validation)
    assert best.mean() == pytest.approx(right.mean(), abs=0.05)


@pytest.mark.parametrize("found", [True, False])
def test_few_photos_that_are_all_found_or_all_missed_leave_finite_figures(found: bool) -> None:
    validation, terms = _world(0.0, 0.0)
    rows = _rows(validation)[:12]
    queries = terms.aerial[rows] if found else -terms.aerial[rows]
    few = Validation(validation.lat_deg[:12], validation.lon_deg[:12], queries)
    made, _ = fit(few, IDS, terms, radius_m=100)
    assert 1e-3 < made.temperature < 100
    assert all(1e-2 < factor < 100 for factor in (made.kappa, made.aerial_only))
