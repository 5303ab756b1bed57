"""Codes of cells as search needs them, and the last step of every search."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from cellcode.errors import InputError
from cellcode.types import Float16, Float32, Float64, Ids, Int8, Int64


class CodeTable(Protocol):
    """Codes that rows can be taken from: a float16 array, or packed codes that are decoded then."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice | Int64, /) -> Float16:
        """Return some rows, (M, D)."""


@dataclass(frozen=True)
class CodeSet:
    """Codes of N cells; row i of every array is the same cell. Arrays may be memory-mapped."""

    ids: Ids  # (N,), sorted
    exact: CodeTable  # (N, D) float16: what every score is computed from
    coarse: Int8 | None = None  # (N, D); `scale * coarse` is close to `exact`; None: `exact` is scanned instead
    scale: float = 1.0
    coarse_error: float = 0.0  # largest euclidean distance of a row of `scale * coarse` from `exact`
    longest: float = 0.0  # largest euclidean length of a row of `exact`, or a bound of it; 0: it is measured

    def __post_init__(self) -> None:
        """Measure what was not given: bounds of errors rest on it."""
        if not self.longest:
            blocks = (self.exact[first : first + 65536] for first in range(0, len(self), 65536))
            lengths = [float(torch.from_numpy(np.array(block)).float().norm(dim=1).max()) for block in blocks]
            object.__setattr__(self, "longest", max(lengths, default=0.0) * (1 + 1e-6))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.exact.shape[1])

    @property
    def everything(self) -> Int64:
        """All rows, as slices."""
        return np.array([[0, len(self)]], np.int64)


class Found(NamedTuple):
    """The best rows of B queries, (B, K), best first; equal scores go to the smaller row."""

    rows: Int64
    scores: Float32
    log_mass: Float64 | None  # (B,), of exp(score / temperature) over the rows searched; None without a temperature


def checked(queries: npt.ArrayLike, dim: int) -> Float32:
    """Return queries as (B, D) float32; InputError: another shape or width, or values that are not finite, or all 0."""
    try:
        made = np.array(queries, np.float32, order="C")  # a copy: torch does not know read-only arrays
    except (TypeError, ValueError):
        raise InputError("queries must be a table of numbers, one row per photo") from None
    if made.ndim != 2 or not len(made):
        shape = " x ".join(map(str, made.shape)) or "none"
        raise InputError(f"queries must be a table of one row per photo, not of shape {shape}")
    if made.shape[1] != dim:
        raise InputError(
            f"the queries are {made.shape[1]} wide, the codes {dim}; they come from another encoder than this database's"
        )
    for bad, what in (
        (~np.isfinite(made).all(axis=1), "holds values that are not finite"),
        (~made.any(axis=1), "is all zeros and matches every cell equally"),
    ):
        if bad.any():
            raise InputError(f"query {int(bad.argmax())} {what}; the photo's embedding is damaged")
    return made


def rows_of(slices: Int64) -> Int64:
    """Return every row of some slices, (n,) int64, in their order; slices are (R, 2), none empty, R at least 1."""
    counts = slices[:, 1] - slices[:, 0]
    ends = np.cumsum(counts)
    return np.asarray(np.arange(ends[-1]) + np.repeat(slices[:, 0] - (ends - counts), counts), np.int64)


def score(codes: CodeSet, query: Float32, rows: Int64) -> Float32:
    """Return the scores of some rows, (M,) float32: float16 codes multiplied and summed in float64, rounded once.

    The sum's own error is 1e-15, so the rounded score does not depend on the rows beside it, on the block or
    on the machine that holds it: every way to search gives the same figures.
    """
    product = torch.from_numpy(codes.exact[rows]).double() @ torch.from_numpy(query).double()
    return np.asarray(product.float().numpy())


def rounding(codes: CodeSet, query_length: float) -> float:
    """Bound the error of a float32 product of a code, or its int8 form, and a query, beside the score rounded to float32.

    A sum of D products is off by at most D roundings of 2^-24 each, times the lengths of both; two more are for scaling.
    """
    return query_length * (codes.dim + 2) * 2.0**-24 * (codes.longest + codes.coarse_error) + 1e-6


def best(rows: Int64, scores: Float32, k: int) -> tuple[Int64, Float32]:
    """Return the k best rows, best first; equal scores go to the smaller row."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
