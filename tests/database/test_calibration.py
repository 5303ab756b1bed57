import numpy as np
import pytest

from cellcode.database.calibration import Calibration, fit
from cellcode.database.similarity import Terms
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
    on_aerial, on_prototypes = calibration.factors(terms.has_aerial, terms.has_prototype)
    assert terms.aerial is not None
    assert terms.prototypes is not None
    codes = on_aerial[:, None] * terms.aerial + on_prototypes[:, None] * terms.prototypes
    logits = (validation.queries @ codes.T).astype(np.float64) / calibration.temperature
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    from cellcode.geography import distance

    near = distance.haversine_m(validation.lat_deg[:, None], validation.lon_deg[:, None], *s2.cell_centers(IDS)) <= 100
    return float(np.log(np.maximum((share * near).sum(axis=1), 1e-300)).mean())


def test_no_other_figures_explain_the_validation_photos_better() -> None:
    validation, terms = _world(0.2, 0.2)
    made, _ = fit(validation, IDS, terms, radius_m=100)
    best = _log_mass(validation, terms, made)
    for name in ("kappa", "aerial_only", "temperature"):
        for factor in (0.7, 0.9, 1.1, 1.4):
            values = {"kappa": made.kappa, "aerial_only": made.aerial_only, "temperature": made.temperature}
            values[name] *= factor
            other = Calibration(prototype_only=made.prototype_only, **values)
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


def test_without_validation_photos_it_says_so_and_stays_neutral(capsys: pytest.CaptureFixture[str]) -> None:
    _, terms = _world(0.2, 0.2)
    nobody = Validation(np.empty(0), np.empty(0), np.empty((0, DIM), np.float32))
    made, _ = fit(nobody, IDS, terms, radius_m=100)
    assert made.kappa == 1
    assert made.outside_score is None
    assert made.photos == 0
    assert "too few" in capsys.readouterr().err


def test_most_validation_photos_count_as_inside() -> None:
    validation, terms = _world(0.2, 0.2)
    made, _ = fit(validation, IDS, terms, radius_m=100)
    on_aerial, on_prototypes = made.factors(terms.has_aerial, terms.has_prototype)
    assert terms.aerial is not None
    assert terms.prototypes is not None
    codes = on_aerial[:, None] * terms.aerial + on_prototypes[:, None] * terms.prototypes
    top = (validation.queries @ codes.T).max(axis=1)
    assert made.outside_score is not None
    assert (top >= made.outside_score).mean() == pytest.approx(0.95, abs=0.01)


def _arguments(world: tuple[Validation, Terms]) -> tuple[Validation, np.ndarray, Terms]:
    return world[0], IDS, world[1]
