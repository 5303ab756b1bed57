"""Two-stage search: quantised codes choose candidates, float16 codes decide among them."""

import math

import numpy as np
import torch

from cellcode.index.codeset import CodeSet, Found, best, rounding, score
from cellcode.index.first_stage import FirstStage
from cellcode.types import Float32, Float64, Int64

SPARE = 1.5  # more entries than the region's share of the cells: the best may lie outside
SAMPLE = 4096  # rows that stand for all those that the first stage leaves out


class Tail:
    """Estimates what the rows that are never scored add to a posterior, from evenly spaced rows.

    Rows are in the order of the Hilbert curve, so evenly spaced rows are spread evenly over the ground. Those below the
    candidates weigh little one by one: with N rows the estimate of their sum has about the relative error of a mean over
    SAMPLE of them.
    """

    def __init__(self, codes: CodeSet, slices: Int64) -> None:
        sizes = slices[:, 1] - slices[:, 0]
        ends = np.cumsum(sizes)
        self.count = int(ends[-1])
        place = np.unique(np.linspace(0, self.count - 1, min(SAMPLE, self.count)).astype(np.int64))
        slice_of = np.searchsorted(ends, place, side="right")
        self.rows = place - (ends - sizes)[slice_of] + slices[slice_of, 0]
        self.codes = torch.from_numpy(codes.exact[self.rows]).float()

    def log_mass(self, queries: Float32, candidates: list[Int64], temperature: float) -> Float64:
        """Return the log of the sum of exp(score / temperature) over the rows that are no candidates, (B,)."""
        scores = (torch.from_numpy(queries) @ self.codes.T).double().numpy() / temperature
        masses = np.full(len(queries), -np.inf)
        for number, rows in enumerate(candidates):
            place = np.minimum(np.searchsorted(rows, self.rows), len(rows) - 1)
            left = rows[place] != self.rows
            if left.any() and len(rows) < self.count:
                each = np.log((self.count - len(rows)) / left.sum())
                masses[number] = np.logaddexp.reduce(scores[number, left]) + each
        return masses


def candidates(stage: FirstStage, queries: Float32, k: int, entries: int, slices: Int64) -> list[Int64] | None:
    """Return the rows behind the best entries that lie in slices, for each query; None: they are too few.

    The first stage knows no region, so it returns more entries, in proportion to what lies outside. If as many are left as a
    search without a region would score again, the answer is as good.
    """
    wanted = int((slices[:, 1] - slices[:, 0]).sum())
    if wanted == stage.rows:
        everywhere = stage.search(queries, entries)
        return everywhere if min(map(len, everywhere)) >= k else None
    share = wanted / stage.rows
    found = []
    for rows in stage.search(queries, math.ceil(SPARE * entries / share)):
        begun, ended = (np.searchsorted(edges, rows, side="right") for edges in slices.T)
        inside = rows[begun > ended]
        if len(inside) < max(k, entries * stage.rows_an_entry()):
            return None
        found.append(inside)
    return found


def among(
    codes: CodeSet,
    candidates: list[Int64],
    queries: Float32,
    k: int,
    temperature: float | None = None,
    tail: Tail | None = None,
) -> Found:
    """Find the k best of each query's candidates, rows in rising order."""
    rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    log_mass = None
    if temperature is not None:
        outside = tail.log_mass(queries, candidates, temperature) if tail is not None else None
        log_mass = outside if outside is not None else np.full(len(queries), -np.inf)
    for number, (query, mine) in enumerate(zip(queries, candidates, strict=True)):
        quick = (torch.from_numpy(codes.exact[mine]).float() @ torch.from_numpy(query)).numpy()
        kept = _within_reach(quick, k, rounding(codes, float(np.linalg.norm(query))))
        rows[number], scores[number] = best(mine[kept], score(codes, query, mine[kept]), k)
        if temperature is not None and log_mass is not None:
            inside = np.logaddexp.reduce(quick.astype(np.float64) / temperature)
            log_mass[number] = np.logaddexp(log_mass[number], inside)
    return Found(rows, scores, log_mass)


def _within_reach(quick: Float32, k: int, error: float) -> Int64:
    """Positions that may be among the k best, when every value is off by at most `error`."""
    if k >= len(quick):
        return np.arange(len(quick))
    kth = np.partition(quick, len(quick) - k)[len(quick) - k]
    return np.flatnonzero(quick >= kth - 2 * error)
