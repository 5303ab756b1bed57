"""Which cells of a level have their centre in an area: by splitting only the cells on the area's boundary."""

from dataclasses import dataclass
from functools import cache
from typing import Protocol, Self

import numpy as np

from cellcode.errors import InputError
from cellcode.geography.s2 import hilbert, ranges
from cellcode.geography.s2.hilbert import MAX_LEVEL
from cellcode.types import Bools, Ids, Int64, Ranges

_BLOCK = 4096  # cells; a block has at least 16 but where it is of the last level
MAX_BOUNDARY = 5_000_000  # cells on a boundary at once: about 2 GB


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of one level with their places in the quadtree, which spares their children the way down from the face."""

    level: int  # of all of them
    ids: Ids  # (N,) uint64
    place: Int64  # (4, N) int64: face, column i and row j in cells of the level, and the state of the Hilbert curve

    def chosen(self, keep: Bools) -> Self:
        """Return some of the cells, in the same order."""
        rows = np.flatnonzero(keep)
        return type(self)(self.level, self.ids[rows], self.place[:, rows])

    def split(self) -> Self:
        """Return the children: four in place of each cell, in the order of their ids."""
        face, i, j, state = self.place
        bits, after = _STEPS[:, state]
        quarter = np.uint64(1 << 2 * (MAX_LEVEL - self.level - 1))
        place = np.empty((4, len(face), 4), np.int64)
        place[0] = face[:, None]
        np.add((2 * i)[:, None], bits >> 1, out=place[1])
        np.add((2 * j)[:, None], bits & 1, out=place[2])
        place[3] = after
        ids = (self.ids - np.uint64(3) * quarter)[:, None] + _FOUR * (quarter << np.uint64(1))
        return type(self)(self.level + 1, ids.ravel(), place.reshape(4, -1))


class Sieve(Protocol):
    """An area's view of the cells on the way down."""

    def sort(self, cells: Cells) -> tuple[Bools, Bools]:
        """Tell which cells, each (N,), lie inside for certain and which may meet the boundary.

        Called once a level; the cells are the children of those that met the boundary the last time.
        """

    def holds(self, cells: Cells) -> Bools:
        """Tell which cells, (N,), have their centre in the area."""


def cover(sieve: Sieve, level: int, start: Cells | None = None) -> Ranges:
    """Return the cells of `level` with their centre in an area; (R, 2), R may be 0.

    `start`, by default all of the Earth, are cells of a coarser level or the same that hold the area. InputError: more than
    MAX_BOUNDARY cells meet the boundary.
    """
    cells, found = start or everything(min(level, 1)), []
    while cells.level < level and len(cells.ids):
        inside, edge = sieve.sort(cells)
        found.append(ranges.spans(cells.ids[inside], level))
        cells = cells.chosen(edge)
        if len(cells.ids) > MAX_BOUNDARY // 4:
            words = f"the boundary of the region runs through too many cells of level {level}"
            raise InputError(f"{words}; choose a coarser level or a smaller region")
        cells = cells.split()
    found.append(ranges.spans(cells.ids[sieve.holds(cells)], level))
    return ranges.join(np.concatenate(found), level)


@cache
def everything(level: int) -> Cells:
    """Return all cells of a coarse level. Those of level 1 and finer have no pole and no antimeridian inside them."""
    if level:
        return everything(level - 1).split()
    face, zero = np.arange(6), np.zeros(6, np.int64)
    ids = (2 * face.astype(np.uint64) + np.uint64(1)) << np.uint64(60)
    return Cells(0, ids, np.stack([face, zero, zero, face & hilbert.SWAP]))


def block(face: int, low: tuple[float, float], high: tuple[float, float], level: int) -> Cells | None:
    """Return the cells of a coarser level or the same that meet a rectangle of s and t on a face; a few thousand at most.

    None stands for a rectangle too large, or a level too coarse, to gain anything.
    """
    for coarser in range(level - (level - 2) % 4, 1, -4):
        (i0, j0), (i1, j1) = ([min(int(x * 2**coarser), 2**coarser - 1) for x in corner] for corner in (low, high))
        if (i1 - i0 + 1) * (j1 - j0 + 1) <= _BLOCK:
            i, j = (a.ravel() for a in np.meshgrid(np.arange(i0, i1 + 1), np.arange(j0, j1 + 1)))
            faces, leaves = np.full(i.shape, face), MAX_LEVEL - coarser
            ids, state = hilbert.descend(faces, i << leaves, j << leaves, coarser)
            return Cells(coarser, ids, np.stack([faces, i, j, state]))
    return None


# By state: the bits of i and j of the four children, and their states.
_STEPS = np.stack([hilbert.QUADRANT, np.arange(4)[:, None] ^ hilbert.TURN])
_FOUR = np.arange(4, dtype=np.uint64)
