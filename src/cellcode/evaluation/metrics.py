"""The numbers of every table, per photo first: recall@K within r, error, and intervals over positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellcode.types import Bools, Float64, Ids, Int64

RESAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """How one system did on N photos.

    Attributes:
        hits: for each K and r_m, (N,) 1 where one of the top K answers lies within r; chance gives probabilities.
        error_m: (N,), distance of the first answer from the truth.
        database_bytes: what has to be kept to search.
        cells: (N, K) uint64, the first K cells of each photo; None where answers are no cells of the database.
        ms_per_query: of a search, encoder excluded; None where it was not timed.
    """

    name: str
    hits: dict[int, dict[float, Float64]]
    error_m: Float64
    database_bytes: int
    cells: Ids | None = None
    ms_per_query: float | None = None


def ranked(
    name: str, distances_m: Float64, ranks: tuple[int, ...], radii_m: tuple[float, ...], database_bytes: int, *,
    cells: Ids | None = None, ms_per_query: float | None = None,
) -> Result:  # fmt: skip
    """Score the ranked answers of any system, also of another program.

    Args:
        distances_m: (N, K) of the answers from the truth, best answer first; K may be smaller than the largest rank.
        cells: (N, K), the answers, where they are cells.
    """
    nearest_m = np.minimum.accumulate(distances_m, axis=1)
    last = distances_m.shape[1]
    hits = {
        k: {radius: (nearest_m[:, min(k, last) - 1] <= radius).astype(np.float64) for radius in radii_m} for k in ranks
    }
    return Result(name, hits, np.asarray(distances_m[:, 0], np.float64), database_bytes, cells, ms_per_query)


def by_chance(distances_m: npt.NDArray[np.floating], ranks: tuple[int, ...], radii_m: tuple[float, ...]) -> Result:
    """Expected score of K distinct cells drawn at random: 1 - C(N - m, K) / C(N, K), m of N cells within the radius.

    `distances_m` is (photos, N), of all cells from the truth.
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


class Bootstrap:
    """Intervals by resampling positions, (N,) numbers, not photos: those of one place succeed or fail together (Efron 1979).

    The resamples are drawn once, and every interval, of whatever system or slice, is of the same ones.
    """

    def __init__(self, position: Int64, seed: int = 0) -> None:
        _, self._place = np.unique(position, return_inverse=True)
        self._places = int(self._place.max()) + 1 if len(position) else 0
        rng = np.random.default_rng([seed, 20])
        self._weights = rng.multinomial(self._places, np.full(self._places, 1 / self._places), RESAMPLES)

    def intervals_95(self, hits: Float64, mask: Bools | None = None) -> Float64:
        """Return the bounds of the mean of each column of hits, (N, M), as (M, 2).

        A mask, (N,), selects photos of a slice. Resamples without any of them say nothing and are left out.
        """
        of = slice(None) if mask is None else mask
        place, hits = self._place[of], hits[of]
        used, place = np.unique(place, return_inverse=True)
        weights = self._weights[:, used].astype(np.float64)
        sums = np.stack([np.bincount(place, column, len(used)) for column in hits.T], axis=1)
        photos = weights @ np.bincount(place, minlength=len(used))
        kept = photos > 0
        means = (weights @ sums)[kept] / photos[kept, None]
        return np.asarray(np.quantile(means, [0.025, 0.975], axis=0).T)


def interval_95(hits: Float64, position: Int64, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of hits, (N,), over positions, (N,); see `Bootstrap`."""
    low, high = Bootstrap(position, seed).intervals_95(hits[:, None])[0]
    return float(low), float(high)


def difference_95(hits_a: Float64, hits_b: Float64, position: Int64, seed: int = 0) -> tuple[float, float]:
    """Return the interval of mean(hits_a) - mean(hits_b), both (N,) of the same photos, as a paired bootstrap.

    Photos that are hard are hard for both systems: the difference is known better than either mean.
    """
    return interval_95(hits_a - hits_b, position, seed)


def summary(result: Result, mask: Bools, places: Bootstrap) -> dict[str, Any]:
    """Return what report.json says of a system on the photos of a mask, (N,), at least one."""
    columns = [(k, radius) for k, by_radius in result.hits.items() for radius in by_radius]
    hits = np.stack([result.hits[k][radius] for k, radius in columns], axis=1)
    recall: dict[str, dict[str, float]] = {str(k): {} for k in result.hits}
    interval: dict[str, dict[str, list[float]]] = {str(k): {} for k in result.hits}
    for (k, radius), share, ends in zip(columns, hits[mask].mean(axis=0), places.intervals_95(hits, mask), strict=True):
        recall[str(k)][f"{radius:g}"] = round(float(share), 6)
        interval[str(k)][f"{radius:g}"] = [round(float(end), 4) for end in ends]
    return {
        "recall": recall,
        "interval_95": interval,
        "median_error_m": round(float(np.median(result.error_m[mask])), 2),
        "photos": int(mask.sum()),
    }


def auroc(positive: npt.NDArray[np.floating], negative: npt.NDArray[np.floating]) -> float:
    """Return the chance that a positive score is above a negative one, ties counted half (Mann and Whitney 1947)."""
    _, inverse, counts = np.unique(np.concatenate([positive, negative]), return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of equal scores, from 1
    above = rank[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(positive) * len(negative)))


def middle_radius_m(radii_m: Sequence[float]) -> float:
    """Return the radius that slices, confidence and maps use: the second of three, the third of four."""
    return radii_m[len(radii_m) // 2]
