"""The coordinates in which codes are quantised: chosen for the error of scores, not of codes."""

from typing import NamedTuple

import numpy as np

from cellcode.types import Float32, Float64, Int64

FLOOR = 1e-2  # share of the queries' mean energy that every direction is given: later photos may use it more


class Directions(NamedTuple):
    """Linear maps that keep products: (for_queries q) . (for_codes c) = q . c, if no component is dropped.

    Attributes:
        for_codes: (d, D) float32.
        for_queries: (d, D) float32.
    """

    for_codes: Float32
    for_queries: Float32


def find(sample: Float32, queries: Float32 | None, keep: int, pieces: int) -> Directions:
    """Find the coordinates for product quantisation.

    The mean square error of scores is e' M e, with e the error of a code and M the second moment of queries. So codes
    are multiplied with the square root of M: the euclidean error that k-means minimises is then that of scores. Of the
    principal components of the result the `keep` largest are dealt out to the pieces so that each holds about the same
    product of variances (the parametric solution of Ge et al., Optimized Product Quantization, CVPR 2013).

    Args:
        sample: (M, D) codes.
        queries: (V, D); None, or fewer than half of D: all directions have the same weight.
        keep: d, divisible by `pieces`.
    """
    dim = sample.shape[1]
    weigh = np.eye(dim)
    if queries is not None and len(queries) >= dim // 2:
        moment = queries.astype(np.float64).T @ queries.astype(np.float64) / len(queries)
        values, vectors = np.linalg.eigh(moment + FLOOR * np.trace(moment) / dim * np.eye(dim))
        weigh = (vectors * np.sqrt(values)) @ vectors.T
    weighed = sample.astype(np.float64) @ weigh
    # Not centred: components that are dropped should be small, not just constant.
    values, vectors = np.linalg.eigh(weighed.T @ weighed / len(weighed))
    order = np.argsort(-values)[:keep]
    order = order[_balanced(np.maximum(values[order], 1e-12), pieces)]
    for_codes, for_queries = vectors[:, order].T @ weigh, vectors[:, order].T @ np.linalg.inv(weigh)
    return Directions(for_codes.astype(np.float32), for_queries.astype(np.float32))


def _balanced(variances: Float64, pieces: int) -> Int64:
    """Deal components to pieces, largest first, always to the piece of the smallest product that is not full."""
    size = len(variances) // pieces
    dealt: list[list[int]] = [[] for _ in range(pieces)]
    product = np.zeros(pieces)  # as logarithms
    for component in np.argsort(-variances):
        piece = min((p for p in range(pieces) if len(dealt[p]) < size), key=lambda p: float(product[p]))
        dealt[piece].append(int(component))
        product[piece] += np.log(variances[component] / variances.min()) + 1e-9
    return np.array([component for piece in dealt for component in piece], np.int64)
