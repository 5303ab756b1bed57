"""The numbers of every table, per photo first: recall@K within r, error, and intervals over positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """How one system did on N photos.

    Attributes:
        name: of the system.
        hits: for each K and r_m, (N,) 1 where one of the top K answers lies within r; chance gives probabilities.
        error_m: (N,), distance of the first answer from the truth.
        database_bytes: what has to be kept to search.
    """

    name: str
    hits: dict[int, dict[float, Float64]]
    error_m: Float64
    database_bytes: int


def ranked(
    name: str, distances_m: Float64, ranks: tuple[int, ...], radii_m: tuple[float, ...], database_bytes: int
) -> Result:
    """Score ranked answers.

    Args:
        distances_m: (N, K) of the answers from the truth, best answer first; K may be smaller than the largest rank.
    """
    nearest_m = np.minimum.accumulate(distances_m, axis=1)
    last = distances_m.shape[1]
    hits = {
        k: {radius: (nearest_m[:, min(k, last) - 1] <= radius).astype(np.float64) for radius in radii_m} for k in ranks
    }
    return Result(name, hits, distances_m[:, 0], database_bytes)


def by_chance(distances_m: Float64, ranks: tuple[int, ...], radii_m: tuple[float, ...]) -> Result:
    """Expected score of K distinct cells drawn at random: 1 - C(N - m, K) / C(N, K), m of N cells within the radius.

    Args:
        distances_m: (photos, N) of all cells from the truth.
    """
    count = distances_m.shape[1]
    hits: dict[int, dict[float, Float64]] = {k: {} for k in ranks}
    for radius in radii_m:
        others = count - (distances_m <= radius).sum(axis=1)
        missed = np.ones(len(distances_m))
        for drawn in range(max(ranks)):
            # The next draw misses as well: (others - drawn) of the (count - drawn) cells that are left.
            missed *= np.clip(others - drawn, 0, None) / max(count - drawn, 1)
            if drawn + 1 in hits:
                hits[drawn + 1][radius] = 1 - missed
    return Result("chance", hits, np.median(distances_m, axis=1), 0)


def interval_95(hits: Float64, position: npt.NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean, resampling positions, not photos: photos of one place succeed or fail together.

    Args:
        hits: (N,).
        position: (N,) number of the place of each photo.
    """
    _, place = np.unique(position, return_inverse=True)
    photos, found = np.bincount(place), np.bincount(place, hits)
    rng = np.random.default_rng([seed, 20])
    weights = rng.multinomial(len(photos), np.full(len(photos), 1 / len(photos)), RESAMPLES)
    low, high = np.quantile(weights @ found / (weights @ photos), [0.025, 0.975])
    return float(low), float(high)
