"""Ranges of cell ids: (R, 2) uint64 arrays of first and last id, both inclusive, of one level, sorted and disjoint.

Cells that are close on the ground mostly have close ids, so a region of millions of cells is a few thousand ranges, and the
rows of a sorted table of ids that lie in it are a few thousand slices.
"""

import numpy as np

from cellcode.geography import s2
from cellcode.types import Ids, Int64, Ranges

_U = np.uint64


def merge(ids: Ids) -> Ranges:
    """Return the ranges of sorted, distinct ids of one level; (R, 2) from (N,)."""
    return join(np.stack([ids, ids], axis=1), int(s2.levels(ids[:1])[0])) if len(ids) else empty()


def join(ranges: Ranges, level: int) -> Ranges:
    """Sort ranges of ids of `level` and join those that touch or overlap; (R', 2) from (R, 2)."""
    if len(ranges) < 2:
        return ranges
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    last = np.maximum.accumulate(ranges[:, 1])
    # The ids of a level are 2 lowest bits apart, from the first cell of face 0 to the last of face 5.
    starts = np.flatnonzero(np.concatenate([[True], ranges[1:, 0] > last[:-1] + _step(level)]))
    stops = np.append(starts[1:], len(ranges)) - 1
    return np.stack([ranges[starts, 0], last[stops]], axis=1)


def expand(ranges: Ranges, level: int) -> Ids:
    """Return every id of `level` in the ranges, sorted; (N,) from (R, 2)."""
    counts = _counts(ranges, level)
    if not len(counts):
        return np.empty(0, np.uint64)
    # One running sum: a step of the level inside a range, the gap to the next range at its start.
    ids = np.full(int(counts.sum()), _step(level), np.uint64)
    ids[0] = ranges[0, 0]
    ids[np.cumsum(counts)[:-1]] = ranges[1:, 0] - ranges[:-1, 1]
    return np.cumsum(ids, out=ids)


def count(ranges: Ranges, level: int) -> int:
    """Return how many ids of `level` the ranges hold."""
    return int(_counts(ranges, level).sum())


def complement(ranges: Ranges, level: int) -> Ranges:
    """Return the ranges of all other cells of `level` on the six faces; (R', 2) from (R, 2), R - 1 <= R' <= R + 1."""
    step = _step(level)
    half = step >> _U(1)
    first = np.concatenate([[half], ranges[:, 1] + step]).astype(np.uint64)
    last = np.concatenate([ranges[:, 0] - step, [_U(6 << 61) - half]]).astype(np.uint64)
    # Before the very first cell `last` wraps around; comparing the cells between avoids it.
    some = np.concatenate([ranges[:, 0], [_U(6 << 61) + half]]) > first
    return np.stack([first, last], axis=1)[some]


def intersection(one: Ranges, other: Ranges, level: int) -> Ranges:
    """Return the ranges of cells of `level` in both; (R', 2), R' at most the sum of the two."""
    outside = np.concatenate([complement(one, level), complement(other, level)])
    return complement(join(outside, level), level)


def rows_of_ranges(ids_sorted: Ids, ranges: Ranges) -> Int64:
    """Return the rows of a sorted table of ids that lie in ranges, as slices.

    Two binary searches per range: of a memory-mapped table only the pages on their way are read. Returns (R', 2) int64 rows,
    [start, stop), ascending, none empty, slices that follow each other without a gap joined.
    """
    ranges = np.asarray(ranges, np.uint64)  # another type would make numpy convert the whole table
    start = np.searchsorted(ids_sorted, ranges[:, 0], side="left")
    stop = np.searchsorted(ids_sorted, ranges[:, 1], side="right")
    some = stop > start
    start, stop = start[some], stop[some]
    gap = start[1:] > stop[:-1]
    edge = np.ones(min(len(start), 1), bool)
    return np.stack([start[np.concatenate([edge, gap])], stop[np.concatenate([gap, edge])]], axis=1).astype(np.int64)


def empty() -> Ranges:
    """Return no range at all; (0, 2)."""
    return np.empty((0, 2), np.uint64)


def spans(ids: Ids, level: int) -> Ranges:
    """Return the range of descendants of `level` of each cell, which is of that level or coarser; (N, 2) from (N,)."""
    bit, low = _U(1 << 2 * (s2.MAX_LEVEL - level)), s2.lowest_bit(ids)
    return np.stack([ids - low + bit, ids + low - bit], axis=1)


def _counts(ranges: Ranges, level: int) -> Int64:
    return ((ranges[:, 1] - ranges[:, 0]) // _step(level)).astype(np.int64) + 1


def _step(level: int) -> np.uint64:
    return _U(2 << 2 * (s2.MAX_LEVEL - level))


def rows_of_ids(ids_sorted: Ids, wanted: Ids) -> Int64:
    """Return the row of each id in a sorted table, in the shape of `wanted`; -1 where the table has none."""
    if not len(ids_sorted):
        return np.full(np.shape(wanted), -1, np.int64)
    rows = np.minimum(np.searchsorted(ids_sorted, wanted), len(ids_sorted) - 1)
    return np.where(ids_sorted[rows] == wanted, rows, -1).astype(np.int64, copy=False)
