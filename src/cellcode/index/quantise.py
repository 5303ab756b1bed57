"""Codes in fewer bytes: int8 with one step for all, product quantisation, and the coordinates that are quantised."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cellcode.types import Float16, Float32, Float64, Int8, Int64, UInt8

FLOOR = 1e-2  # share of the queries' mean energy that every direction is given: later photos may use it more
TRAINING_ROWS, CENTROIDS = 65536, 256


class Directions(NamedTuple):
    """Linear maps, (d, D), that keep products: (for_queries q) . (for_codes c) = q . c, if no component is dropped."""

    for_codes: Float32
    for_queries: Float32


def find_directions(sample: Float32, queries: Float32 | None, keep: int, pieces: int) -> Directions:
    """Find the coordinates for product quantisation.

    The mean square error of scores is e' M e, with e the error of a code and M the second moment of queries. So codes
    are multiplied with the square root of M: the euclidean error that k-means minimises is then that of scores. Of the
    principal components of the result the `keep` largest are dealt out to the pieces so that each holds about the same
    product of variances (the parametric solution of Ge et al., Optimized Product Quantization, CVPR 2013).

    The sample is (M, D), `keep` is divisible by `pieces`. Queries are (V, D); without them, or with fewer than half of D, all
    directions have the same weight.
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


def int8_step(largest: float) -> float:
    """Return the step that brings values up to `largest` in size into -127..127."""
    return max(largest, 1e-12) / 127


def to_int8(codes: Float16, step: float) -> tuple[Int8, float]:
    """Round codes to multiples of a step, (n, D), and return the largest euclidean distance of `step * int8` from its code."""
    exact = torch.from_numpy(codes).float()
    narrow = (exact / step).round_().clamp_(-127, 127)
    error = float((exact - narrow * step).norm(dim=1).max()) if len(codes) else 0.0
    return narrow.to(torch.int8).numpy(), error


@dataclass(frozen=True)
class Codebook:
    """Product quantisation: a code in the coordinates of `directions` is cut into pieces, each the nearest of 256 centroids."""

    centroids: Float32  # (pieces, 256, D / pieces)
    directions: Directions  # (D, D) each

    @property
    def pieces(self) -> int:
        """Bytes per code."""
        return len(self.centroids)

    def encode(self, codes: npt.NDArray[np.floating]) -> UInt8:
        """Return the numbers of the nearest centroids, (n, pieces) uint8."""
        turned = np.ascontiguousarray(codes.astype(np.float32) @ self.directions.for_codes.T)
        return np.asarray(self._quantiser.compute_codes(turned), np.uint8)

    def decode(self, numbers: UInt8) -> Float16:
        """Return the codes that the numbers stand for, (n, D) float16.

        Multiplied in float64: a float32 sum depends on how many rows are decoded at once, and so would the rounded code.
        """
        turned = np.asarray(self._quantiser.decode(np.ascontiguousarray(numbers)))
        # for_codes' for_queries = 1, so for_queries' is the way back.
        return (torch.from_numpy(turned).double() @ self._back).half().numpy()

    @cached_property
    def _back(self) -> torch.Tensor:
        return torch.from_numpy(self.directions.for_queries).double()

    @cached_property
    def _quantiser(self) -> Any:
        return product_quantiser(self.centroids)


def train(sample: Float32, pieces: int, queries: Float32 | None = None, seed: int = 0) -> Codebook:
    """Find a codebook of `pieces` bytes per code from codes (M, D); see `find_directions` for the photos, (V, D)."""
    directions = find_directions(sample, queries, sample.shape[1], pieces)
    return Codebook(centroids(sample @ directions.for_codes.T, pieces, CENTROIDS, seed), directions)


def product_quantiser(centroids: Float32) -> Any:
    """Return faiss's product quantiser with given centroids, (pieces, a power of two, width)."""
    import faiss

    pieces, count, width = centroids.shape
    quantiser = faiss.ProductQuantizer(pieces * width, pieces, count.bit_length() - 1)
    faiss.copy_array_to_vector(np.ascontiguousarray(centroids).ravel(), quantiser.centroids)
    return quantiser


def centroids(sample: Float32, pieces: int, count: int, seed: int) -> Float32:
    """Return `count` centroids of each piece of some rows (M, d), by k-means; (pieces, count, d / pieces)."""
    import faiss

    dim = sample.shape[1]
    quantiser = faiss.ProductQuantizer(dim, pieces, count.bit_length() - 1)
    quantiser.cp.seed, quantiser.cp.max_points_per_centroid = seed, TRAINING_ROWS // count
    quantiser.cp.min_points_per_centroid = 1  # a small database has few codes; the recall check says what came of it
    # faiss wants as many rows as centroids.
    quantiser.train(np.resize(np.asarray(sample, np.float32), (max(len(sample), count), dim)))
    return np.asarray(faiss.vector_to_array(quantiser.centroids).reshape(pieces, count, dim // pieces), np.float32)


class PackedCodes:
    """Codes kept as bytes of a codebook, read like a (N, D) float16 array: rows are decoded when they are taken."""

    def __init__(self, numbers: UInt8, codebook: Codebook) -> None:
        self.numbers, self.codebook = numbers, codebook
        self.shape = (len(numbers), codebook.directions.for_queries.shape[1])
        self.dtype = np.dtype(np.float16)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice | Int64) -> Float16:
        return self.codebook.decode(self.numbers[rows])
