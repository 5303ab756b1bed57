"""Which rows of a large table of prototypes a step looks at, and what each of them stands for.

The softmax over all P prototypes has the denominator Z = sum of exp(l_j). A step looks at

- rows that are certain: the neighbours of the batch's cells and hard rows, which look like the batch's cells (`clusters`);
- one row of each of K strata, drawn uniformly. The strata are runs of the table, which is sorted along the S2 curve, so that
  every part of the region is there in every step.

A drawn row stands for its whole stratum: its term counts n times, n being the length of the stratum, and not at all
if the row is certain already. So the expectation of the sum is Z exactly, whatever the certain rows are. The loss takes the
logarithm of the sum, which is below log Z by about var / (2 Z^2), and its gradient is a self-normalised importance estimate:
its bias falls as 1 / K, and it is exact when K = P. Hard rows make the variance small: the large terms of Z are
counted, not drawn.
"""

import numpy as np

from cellcode.types import Float32, Int64


def strata(count: int, drawn: int, rng: np.random.Generator) -> tuple[Int64, Float32]:
    """Draw one row of each of `drawn` runs of `count` rows, nearly equal in length.

    Returns:
        rows (K,) int64, ascending, and the lengths of their runs (K,) float32; every row with length 1 where K = count.
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
