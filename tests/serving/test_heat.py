"""Aggregation of the posterior: nothing is lost, nothing overlaps, and what has mass stays fine."""

from __future__ import annotations

import numpy as np
import pytest

from cellcode.geography import Region, s2
from cellcode.serving.maps import aggregate

LEVEL = 16


@pytest.fixture(scope="module")
def posterior() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    ids = Region.bbox(3.0, 52.0, 3.3, 52.15).cells(LEVEL)
    mass = np.exp(6 * rng.standard_normal(len(ids)))
    shuffled = rng.permutation(len(ids))
    return ids[shuffled], mass[shuffled] / mass.sum()


@pytest.mark.parametrize("most", [6, 100, 1000, 5000])
def test_cells_are_few_disjoint_and_hold_all_mass(posterior: tuple[np.ndarray, np.ndarray], most: int) -> None:
    ids, mass = posterior
    shown, sums = aggregate(ids, mass, most)
    assert most / 8 < len(shown) <= most
    assert (s2.range_min(shown)[1:] > s2.range_max(shown)[:-1]).all()
    assert sums.sum() == pytest.approx(mass.sum())
    for cell, share in list(zip(shown, sums, strict=True))[:50]:
        inside = (ids >= s2.range_min([cell])[0]) & (ids <= s2.range_max([cell])[0])
        assert share == pytest.approx(mass[inside].sum())


def test_the_best_cells_are_shown_as_they_are(posterior: tuple[np.ndarray, np.ndarray]) -> None:
    ids, mass = posterior
    shown, _ = aggregate(ids, mass, 1000)
    best = ids[np.argsort(-mass)[:20]]  # each keeps its siblings apart on every level above it
    assert np.isin(best, shown).all()


def test_few_cells_are_left_alone(posterior: tuple[np.ndarray, np.ndarray]) -> None:
    ids, mass = posterior
    shown, sums = aggregate(ids[:50], mass[:50], 50)
    assert np.array_equal(shown, np.sort(ids[:50]))
    assert sums.sum() == pytest.approx(mass[:50].sum())


def test_equal_masses_and_zeros_end() -> None:
    ids = Region.bbox(3.0, 52.0, 3.1, 52.05).cells(LEVEL)
    for mass in (np.full(len(ids), 1 / len(ids)), np.zeros(len(ids))):
        shown, sums = aggregate(ids, mass, 64)
        assert len(shown) <= 64
        assert sums.sum() == pytest.approx(mass.sum())
