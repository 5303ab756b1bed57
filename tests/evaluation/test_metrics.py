from itertools import combinations

import numpy as np
import pytest

from cellcode.evaluation.metrics import Bootstrap, auroc, by_chance, difference_95, interval_95, ranked

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


def test_intervals_of_a_slice_are_those_of_its_photos_alone() -> None:
    rng = np.random.default_rng(1)
    place, mask = rng.integers(0, 150, 2000), rng.random(2000) < 0.3
    hits = (rng.random((2000, 2)) < [0.2, 0.7]).astype(float)
    ends = Bootstrap(place).intervals_95(hits, mask)
    for column in range(2):
        alone = interval_95(hits[mask, column], place[mask])
        np.testing.assert_allclose(ends[column], alone, atol=0.02)


def test_a_difference_of_two_systems_on_the_same_photos_is_known_better_than_either() -> None:
    """b is right where a is, and in a few more: as if of independent photos, the interval would be more than twice as wide."""
    rng = np.random.default_rng(0)
    place = np.arange(1000)
    a = (rng.random(1000) < 0.5).astype(float)
    b = np.maximum(a, rng.random(1000) < 0.1)
    low, high = difference_95(b, a, place)
    assert 0 < low < b.mean() - a.mean() < high
    (a_low, a_high), (b_low, b_high) = interval_95(a, place), interval_95(b, place)
    assert high - low < 0.5 * np.hypot(a_high - a_low, b_high - b_low)
    assert difference_95(a, a, place) == (0, 0)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    for digits in (8, 1):  # with one digit most scores have equals
        inside, outside = rng.normal(1, 1, 70).round(digits), rng.normal(0, 1, 50).round(digits)
        pairs = [float(a > b) + 0.5 * (a == b) for a in inside for b in outside]
        assert auroc(inside, outside) == pytest.approx(np.mean(pairs))
