"""Which rows of a large table of prototypes a step looks at, and what each of them stands for.

The softmax over all P prototypes has the denominator Z = sum of exp(l_j). A step looks at

- rows that are certain: the neighbours of the batch's cells and hard rows, which look like the batch's cells;
- one row of each of K strata, drawn uniformly. The strata are runs of the table, which is sorted along the S2 curve, so that
  every part of the region is there in every step.

A drawn row stands for its whole stratum: its term counts n times, n being the length of the stratum, and not at all
if the row is certain already. So the expectation of the sum is Z exactly, whatever the certain rows are. The loss takes the
logarithm of the sum, which is below log Z by about var / (2 Z^2), and its gradient is a self-normalised importance estimate:
its bias falls as 1 / K, and it is exact when K = P. Hard rows make the variance small: the large terms of Z are
counted, not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


def strata(count: int, drawn: int, rng: np.random.Generator) -> tuple[Rows, Float32]:
    """Draw one row of each of `drawn` runs of `count` rows, nearly equal in length.

    Returns:
        rows (K,) int64, ascending, and the lengths of their runs (K,) float32; every row with length 1 where K = count.
    """
    edges = np.arange(min(drawn, count) + 1, dtype=np.int64) * count // min(drawn, count)
    lengths = np.diff(edges)
    return edges[:-1] + rng.integers(0, lengths), lengths.astype(np.float32)


def with_certain(certain: Rows, drawn: Rows, lengths: Float32) -> tuple[Rows, Float32]:
    """Join certain rows, which stand for themselves, and drawn ones; rows ascending and distinct, and what each stands for."""
    certain = np.unique(certain)
    new = ~np.isin(drawn, certain, assume_unique=True)
    rows = np.concatenate([certain, drawn[new]])
    stands_for = np.concatenate([np.ones(len(certain), np.float32), lengths[new]])
    order = np.argsort(rows)
    return rows[order], stands_for[order]


@dataclass(frozen=True)
class Clusters:
    """Prototypes that look alike: the cluster of each row, and the rows of each cluster.

    Attributes:
        of_row: (P,) int32.
        order: (P,) int32, rows sorted by cluster.
        start, count: (C,) int64, slices of `order`.
    """

    of_row: npt.NDArray[np.int32]
    order: npt.NDArray[np.int32]
    start: Rows
    count: Rows

    @classmethod
    def of(cls, of_row: npt.NDArray[np.int32], clusters: int) -> Clusters:
        """Sort the rows by their clusters 0..clusters - 1."""
        count = np.bincount(of_row, minlength=clusters)
        order = np.argsort(of_row, kind="stable").astype(np.int32)
        return cls(of_row, order, np.cumsum(count) - count, count)

    def alike(self, rows: Rows, each: int, rng: np.random.Generator) -> Rows:
        """Draw `each` rows of the cluster of every given row, with repetitions; (N * each,)."""
        own = self.of_row[rows]
        at = self.start[own][:, None] + rng.integers(0, self.count[own][:, None], (len(rows), each))
        return np.asarray(self.order[at], np.int64).ravel()


def centroids(vectors: Float32, clusters: int, seed: int) -> Float32:
    """Return unit centroids (C, D) of unit vectors (N, D), by spherical k-means."""
    kmeans = faiss.Kmeans(vectors.shape[1], clusters, niter=8, seed=seed, spherical=True, min_points_per_centroid=1)
    kmeans.train(np.ascontiguousarray(vectors))
    return np.asarray(kmeans.centroids, np.float32)
