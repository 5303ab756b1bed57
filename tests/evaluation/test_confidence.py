from dataclasses import replace

import numpy as np
import pytest

from cellcode import Locator
from cellcode.database import Database
from cellcode.evaluation import confidence
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels


def test_probabilities_that_come_true_have_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    promised = rng.random(20_000)
    true = rng.random(20_000) < promised
    honest = confidence.reliability(promised, true)
    assert confidence.calibration_error(honest) < 0.015
    assert [each["photos"] for each in honest] == [2000] * 10
    proud = confidence.reliability(np.minimum(promised + 0.2, 1), true)
    assert confidence.calibration_error(proud) == pytest.approx(0.18, abs=0.02)


def test_accuracy_at_full_coverage_is_the_share_of_right_answers_and_doubt_sorts() -> None:
    sure = np.linspace(0, 1, 1000)
    right = sure > 0.7
    curve = confidence.accuracy_at(sure, right)
    assert curve["accuracy"][-1] == pytest.approx(right.mean())
    assert curve["accuracy"][curve["coverage"].index(0.3)] == 1
    assert curve["accuracy"][curve["coverage"].index(0.6)] == pytest.approx(0.5, abs=0.01)


def test_answers_are_checked_against_a_posterior_by_hand(town_cells: Database, town_photos: PhotoTable) -> None:
    tested = town_photos.of_split("test")
    locator = Locator(town_cells)
    queries = locator.embed(load_pixels(tested.files, town_cells.config.photo)[0])
    told = confidence.ask(locator, queries, 200.0)
    scores = (
        queries.astype(np.float64) @ np.asarray(town_cells.codes, np.float64).T / town_cells.calibration.temperature
    )
    posterior = np.exp(scores - scores.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    lat, lon = s2.cell_centers(town_cells.ids)
    at = np.searchsorted(town_cells.ids, told.cell)
    np.testing.assert_allclose(told.probability, posterior[np.arange(len(at)), at], rtol=2e-3)
    near = distance.haversine_m(lat[at, None], lon[at, None], lat, lon) <= 200
    np.testing.assert_allclose(told.near, (posterior * near).sum(axis=1), rtol=2e-3)
    checked = confidence.check(told, tested, town_cells.level)
    own = s2.cell_ids(tested.lat_deg, tested.lon_deg, town_cells.level)
    np.testing.assert_array_equal(checked.right_cell, own == told.cell)
    groups = {"some": np.arange(len(tested)) % 2 == 0}
    found = confidence.summary(checked, groups, 200.0, None)
    assert found["auroc"] is None
    error_m = distance.haversine_m(tested.lat_deg, tested.lon_deg, lat[at], lon[at])
    answers = locator.answers([""] * len(queries), queries, 1, None)
    inside = np.array([error <= answer.radius_90_m for error, answer in zip(error_m, answers, strict=True)])
    assert found["coverage_90"] == pytest.approx(inside.mean(), abs=1e-4)
    assert found["coverage"]["some"]["90"] == pytest.approx(inside[groups["some"]].mean(), abs=1e-4)
    unknown = replace(
        told, radius_50_m=told.radius_50_m + np.nan, radius_90_m=told.radius_90_m + np.nan
    )  # not measured
    bare = confidence.summary(replace(checked, stated=unknown), groups, 200.0, None)
    assert bare["coverage_90"] is bare["coverage"]["some"]["50"] is bare["median_radius_90_m"] is None
    assert bare["ece"] == found["ece"]


def test_photos_from_elsewhere_are_told_apart_by_their_scores(town_cells: Database) -> None:
    """Embeddings along codes of the database against random ones."""
    rng = np.random.default_rng(0)
    codes = np.asarray(town_cells.codes, np.float32)
    inside = codes[rng.integers(0, len(codes), 60)]
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    outside = -inside
    locator = Locator(town_cells)
    told, elsewhere = (confidence.ask(locator, each, 200.0) for each in (inside, outside))
    lat, lon = s2.cell_centers(told.cell)
    checked = confidence.Checked(told, np.zeros(60), np.zeros(60), np.ones(60, bool))
    found = confidence.summary(checked, {}, 200.0, elsewhere)
    assert found["auroc"] > 0.95
    assert found["refused"]["elsewhere"] > found["refused"]["inside"]
    assert len(lat) == len(lon) == 60
