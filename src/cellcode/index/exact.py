"""The exact scan: every row is compared, in blocks, and what could be among the best is scored again exactly.

1. `_scores` widens a block of codes to float32 and multiplies it with all queries at once. These scanned scores differ from
   the exact ones by at most `_error`: int8 codes are rounded, and so are float32 sums.
2. `_KthBest` holds a lower bound of each query's k-th best scanned score. A row that is below it by more than twice the
   error cannot be among the k best; all others are candidates.
3. `_score_again` scores the candidates from the float16 codes, so that no row of the true best k is missed.
4. Where a posterior needs the sum of exp(score / temperature) over all rows, `_LogMass` adds up exact scores for the
   candidates and scanned ones for all other rows.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cellcode.device import has_bfloat16
from cellcode.errors import InputError
from cellcode.index.codeset import CodeSet, Found, best, rounding, rows_of, score
from cellcode.types import Float32, Int64

INNER_BYTES = 1 << 21  # codes widened at a time: they are multiplied while still in the cache
OUTER_SCORES = 1 << 20  # scores looked through at a time
HALF_QUERIES = 8  # from here on multiplying costs more than reading
GROUP = 64  # rows of which only the best is looked at first; blocks are filled up to whole groups
TIED = 65536  # candidates of a query that are scored at a time


def scan(codes: CodeSet, queries: Float32, k: int, slices: Int64, temperature: float | None = None) -> Found:
    """Find the k (at most all) best rows of each query, (B, D), among slices of rows.

    Args:
        slices: (R, 2) int64, first and past-the-last row, sorted and disjoint.
        temperature: for `Found.log_mass`.

    InputError: an exact score is farther from the scanned one than it can be: the codes are not of the same cells.
    """
    # Products in bfloat16 are several times faster where the CPU has them; a mass wants finer scores.
    half = codes.coarse is not None and temperature is None and len(queries) >= HALF_QUERIES and has_bfloat16()
    error = _error(codes, queries, half)
    kth = _KthBest(len(queries), k)
    mass = _LogMass(len(queries), temperature) if temperature is not None else None
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for block_rows, block_scores in _scores(codes, queries, slices, half):
        place, query, value = kth.candidates(block_scores, 2 * error)
        found.append((query, block_rows[place], value))
        if mass is not None:
            block_scores[place, query] = -torch.inf
            mass.add_block(block_scores)
    query, row, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    kept = value >= (kth.bound - 2 * error)[query]  # the bound has risen since most of them were found
    if mass is not None:
        mass.add_rows(query[~kept], value[~kept])
    query, order = query[kept].sort(stable=True)
    candidates, scanned = row[kept][order].numpy(), value[kept][order].numpy()
    starts = np.searchsorted(query.numpy(), np.arange(len(queries) + 1))
    rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for number, (first, last) in enumerate(itertools.pairwise(starts)):
        mine = candidates[first:last]
        exact = list(_score_again(codes, queries[number], mine, scanned[first:last], float(error[number])))
        rows[number], scores[number] = best(mine, np.concatenate(exact), k)
        if mass is not None:
            for part in exact:
                mass.add_exact(number, part)
    return Found(rows, scores, mass.log if mass is not None else None)


class _KthBest:
    """A lower bound of each query's k-th best scanned score that rises with every block.

    Sorting a block would cost more than multiplying it. Instead its rows are put into groups and only the best of each group
    is looked at: the k largest of these maxima are scores of k different rows, so the smallest of them is a bound.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.largest = torch.full((k, queries), -torch.inf)  # maxima of groups, in falling order

    @property
    def bound(self) -> Tensor:
        return self.largest[-1]

    def candidates(self, scores: Tensor, margin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raise the bound by a block, (n, B), n a multiple of GROUP; return what is at most `margin`, (B,), below it.

        Row in the block, query, score; (M,) each.
        """
        # Rows per group: a power of two, and few enough for four times k groups.
        size = min(GROUP, 1 << max(1, len(scores) // (4 * self.k)).bit_length() - 1)
        count = len(scores) // size
        # Group j holds rows j, j + count, ...: neighbours on the ground, whose codes are similar, are in different groups.
        groups = scores.view(size, count, -1)
        maxima = groups.amax(dim=0)
        self.largest = torch.cat([self.largest, maxima]).topk(self.k, dim=0).values
        limit = self.bound - margin
        group, query = (maxima >= limit).nonzero(as_tuple=True)
        values = groups[:, group, query]  # size x hits
        member, hit = ((values >= limit[query]) & (values > -torch.inf)).nonzero(as_tuple=True)
        return member * count + group[hit], query[hit], values[member, hit]


class _LogMass:
    """Logarithm of the sum of exp(score / temperature) for each query, where each row is added once.

    A candidate's scanned score is never added and replaced later: at a low temperature one row may outweigh all others, and
    what a subtraction leaves of the sum would be noise.
    """

    def __init__(self, queries: int, temperature: float) -> None:
        self.temperature = temperature
        self.log = np.full(queries, -np.inf)

    def add_block(self, scores: Tensor) -> None:
        """Add the scanned scores of a block, (n, B); -inf adds nothing."""
        top = scores.amax(dim=0)
        top[top.isinf()] = 0
        total = ((scores - top) / self.temperature).exp_().sum(dim=0, dtype=torch.float64)
        self.log = np.logaddexp(self.log, (top.double() / self.temperature + total.log()).numpy())

    def add_rows(self, query: Tensor, scores: Tensor) -> None:
        np.logaddexp.at(self.log, query.numpy(), scores.double().numpy() / self.temperature)

    def add_exact(self, query: int, scores: Float32) -> None:
        mass = np.logaddexp.reduce(scores.astype(np.float64) / self.temperature)
        self.log[query] = np.logaddexp(self.log[query], mass)


def _score_again(codes: CodeSet, query: Float32, rows: Int64, scanned: Float32, error: float) -> Iterator[Float32]:
    """Yield the exact scores of a query's candidates, some at a time: of places that look the same there are many."""
    for first in range(0, len(rows), TIED):
        part = slice(first, first + TIED)
        exact = score(codes, query, rows[part])
        if not (np.abs(exact - scanned[part]) <= error).all():
            raise InputError("float16 and int8 codes are not of the same cells, or damaged; build the database again")
        yield exact


def _error(codes: CodeSet, queries: Float32, half: bool) -> Tensor:
    """Bound of the difference between a scanned and an exact score, (B,): Cauchy-Schwarz, and a float32 sum of D products.

    In bfloat16 int8 codes are exact; the query and the sum are rounded to 8 bits.
    """
    asked = torch.from_numpy(queries)
    length: Tensor = torch.linalg.vector_norm(asked, dim=1)
    error = torch.tensor([rounding(codes, each) for each in length.tolist()])
    if codes.coarse is not None:
        error += length * codes.coarse_error
    if half:
        scaled = asked * codes.scale
        rounded = (scaled - scaled.bfloat16().float()).norm(dim=1) / codes.scale
        error += (rounded + length * 2.0**-8) * (codes.longest + codes.coarse_error)
    return error * 1.001


def _scores(codes: CodeSet, queries: Float32, slices: Int64, half: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows (n,) and their scores (m, B) by the scanned codes; m is n or a little more, those scores are -inf.

    The tensors are used again for the next block.
    """
    source: Any = codes.coarse if codes.coarse is not None else codes.exact
    kind = torch.bfloat16 if half else torch.float32
    # The step of the int8 codes goes into the queries, whose rounding the error bound covers.
    asked = (torch.from_numpy(queries).T.contiguous() * (codes.scale if codes.coarse is not None else 1.0)).to(kind)
    inner = max(64, INNER_BYTES // (4 * codes.dim))
    outer = GROUP * max(1, min(65536, max(inner, OUTER_SCORES // len(queries))) // GROUP)
    widened, scores = torch.empty(inner, codes.dim, dtype=kind), torch.empty(outer, len(queries))
    for runs in _parts(slices, outer):
        done = 0
        for part in _parts(runs, inner):
            count = int((part[:, 1] - part[:, 0]).sum())
            block = widened[:count]
            _widen([source[start:stop] for start, stop in part.tolist()], block)
            if half:
                scores[done : done + count] = block @ asked
            else:
                torch.mm(block, asked, out=scores[done : done + count])
            done += count
        padded = -(-done // GROUP) * GROUP
        scores[done:padded] = -torch.inf
        yield torch.from_numpy(rows_of(runs)), scores[:padded]


def _parts(slices: Int64, size: int) -> Iterator[Int64]:
    """Yield slices of at most `size` rows together: long ones are cut, short ones put side by side."""
    ends = np.cumsum(slices[:, 1] - slices[:, 0])
    for first in range(0, int(ends[-1]), size):
        last = min(first + size, int(ends[-1]))
        start, stop = np.searchsorted(ends, first, side="right"), np.searchsorted(ends, last) + 1
        part = slices[start:stop].copy()
        part[0, 0] = part[0, 1] - (ends[start] - first)
        part[-1, 1] -= ends[stop - 1] - last
        yield part


def _widen(pieces: list[npt.NDArray[Any]], block: Tensor) -> None:
    """Copy runs of codes one after the other into a block of another type, by what does it fastest."""
    if len(pieces) == 1:
        # torch does not know read-only arrays: those are copied.
        block.copy_(torch.from_numpy(pieces[0] if pieces[0].flags.writeable else pieces[0].copy()))
    elif pieces[0].dtype == np.int8 and block.dtype == torch.float32:
        np.concatenate(pieces, out=block.numpy(), casting="unsafe")  # one pass over many short runs
    else:
        block.copy_(torch.from_numpy(np.concatenate(pieces)))
