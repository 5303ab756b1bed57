from itertools import combinations

import numpy as np
import pytest

from cellcode.evaluation.metrics import by_chance, interval_95, ranked

RANKS, RADII = (1, 2, 5), (100.0, 200.0)


def test_recall_counts_photos_with_one_of_the_first_k_answers_within_the_radius() -> None:
    rng = np.random.default_rng(0)
    distances = rng.uniform(0, 600, (50, 4))
    result = ranked("any", distances, RANKS, RADII, 7)
    for k in RANKS:
        for radius in RADII:
            expected = [any(d <= radius for d in row[:k]) for row in distances]
            np.testing.assert_array_equal(result.hits[k][radius], np.array(expected, float))
    np.testing.assert_array_equal(result.error_m, distances[:, 0])


def test_chance_is_the_share_of_draws_that_hit() -> None:
    """Against the list of all ways to draw K of six cells."""
    distances = np.array([[50, 150, 250, 350, 120, 900.0], [500, 500, 500, 500, 500, 500.0]])
    result = by_chance(distances, RANKS, RADII)
    for k in RANKS:
        for radius in RADII:
            for photo in range(2):
                draws = list(combinations(distances[photo], k))
                expected = np.mean([min(draw) <= radius for draw in draws])
                assert result.hits[k][radius][photo] == pytest.approx(expected)


def test_the_interval_is_as_wide_as_the_number_of_places_tells() -> None:
    """A hundred photos of one place are one observation: resampling photos would claim ten times the precision."""
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(40), 100)
    found = np.repeat(rng.random(40) < 0.5, 100).astype(float)
    low, high = interval_95(found, place)
    mean, deviation = found.mean(), np.sqrt(0.25 / 40)
    assert low == pytest.approx(mean - 1.96 * deviation, abs=0.05)
    assert high == pytest.approx(mean + 1.96 * deviation, abs=0.05)
    independent = interval_95(found, np.arange(4000))
    assert independent[1] - independent[0] < 0.25 * (high - low)
