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

Rows that look alike are found by spherical k-means over a table that several processes hold. Centroids come from rows spread
over the table, so that their cost does not grow with it; then every row takes the nearest one. The clusters give hard rows,
and hard batches their places (`training.data.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor

from cellcode.distributed import collectives
from cellcode.types import Float32, Int32, Int64

SAMPLED = 1 << 16  # rows that centroids are made from, at most
SCORED = 1 << 13  # rows compared with all centroids at a time


@dataclass(frozen=True)
class Clusters:
    """The cluster of each row, and the rows of each cluster. Clusters with near numbers are more similar than others."""

    of_row: Int32  # (P,)
    order: Int32  # (P,) rows sorted by cluster
    start: Int64  # (C,) with `count` the slices of `order`
    count: Int64

    @classmethod
    def of(cls, of_row: Int32, clusters: int) -> Clusters:
        """Sort the rows by their clusters 0..clusters - 1."""
        count = np.bincount(of_row, minlength=clusters)
        order = np.argsort(of_row, kind="stable").astype(np.int32)
        return cls(of_row, order, np.cumsum(count) - count, count)

    def hard_rows(self, rows: Int64, each: int, rng: np.random.Generator) -> Int64:
        """Draw `each` rows of the cluster of every given row, with repetitions; (N * each,)."""
        own = self.of_row[rows]
        at = self.start[own][:, None] + rng.integers(0, self.count[own][:, None], (len(rows), each))
        return np.asarray(self.order[at], np.int64).ravel()


@torch.no_grad()
def find(unit_rows: Callable[[Tensor], Tensor], start: int, stop: int, count: int, seed: int) -> Clusters:
    """Cluster the rows of a table into about the square root of their number; all processes together, with the same result.

    This process looks at the rows `start` to `stop` of `count`; `unit_rows` gives rows by number, (N, D) at unit length.
    """
    sample, _ = strata(count, min(count, SAMPLED), np.random.default_rng([seed, 6]))
    held = (sample >= start) & (sample < stop)
    own_rows = unit_rows(torch.from_numpy(sample[held]))
    vectors = own_rows.new_zeros(len(sample), own_rows.shape[1])
    vectors[torch.from_numpy(held)] = own_rows
    vectors = collectives.total_(vectors)
    found = vectors.new_zeros(min(max(1, round(count**0.5)), len(sample)), vectors.shape[1])
    if collectives.rank() == 0:
        made = centroids(vectors.cpu().numpy(), len(found), seed)
        found += torch.from_numpy(made[_chain(made)]).to(found)
    found = collectives.total_(found)
    own = torch.zeros(count, dtype=torch.int32, device=found.device)
    for first in range(start, stop, SCORED):
        last = min(first + SCORED, stop)
        own[first:last] = (unit_rows(torch.arange(first, last)) @ found.T).argmax(dim=1).int()
    return Clusters.of(collectives.total_(own).cpu().numpy(), len(found))


def centroids(vectors: Float32, clusters: int, seed: int) -> Float32:
    """Return unit centroids (C, D) of unit vectors (N, D), by spherical k-means."""
    kmeans = faiss.Kmeans(vectors.shape[1], clusters, niter=8, seed=seed, spherical=True, min_points_per_centroid=1)
    kmeans.train(np.ascontiguousarray(vectors))
    return np.asarray(kmeans.centroids, np.float32)


def _chain(found: Float32) -> Int64:
    """Order centroids (C, D) so that each is followed by the one of the rest that is most like it, (C,)."""
    similar = found @ found.T  # C x C
    order = np.zeros(len(found), np.int64)
    for at in range(1, len(found)):
        similar[:, order[at - 1]] = -np.inf
        order[at] = similar[order[at - 1]].argmax()
    return order


def strata(count: int, drawn: int, rng: np.random.Generator) -> tuple[Int64, Float32]:
    """Draw one row of each of `drawn` runs of `count` rows, nearly equal in length; every row where there are no more.

    Returns rows (K,) int64, ascending, and the lengths of their runs (K,) float32.
    """
    edges = np.arange(min(drawn, count) + 1, dtype=np.int64) * count // min(drawn, count)
    lengths = np.diff(edges)
    return edges[:-1] + rng.integers(0, lengths), lengths.astype(np.float32)


def with_certain(certain: Int64, drawn: Int64, lengths: Float32) -> tuple[Int64, Float32]:
    """Join certain rows, which stand for themselves, and drawn ones; rows ascending and distinct, and what each stands for."""
    certain = np.unique(certain)
    new = ~np.isin(drawn, certain, assume_unique=True)
    rows = np.concatenate([certain, drawn[new]])
    stands_for = np.concatenate([np.ones(len(certain), np.float32), lengths[new]])
    order = np.argsort(rows)
    return rows[order], stands_for[order]
