"""The Hilbert curve that numbers the cells of a face, and back from ids to places on a face."""

from functools import cache

import numpy as np

from cellcode.types import Ids, Int64

MAX_LEVEL = 30
LEAVES = 1 << MAX_LEVEL  # leaf cells along the edge of a face
_U = np.uint64
SWAP, INVERT = 1, 2
# How the curve runs through the four children of a cell, by its state (swapped axes, inverted): [state][position] gives
# the bits of i and j (i first), and TURN[position] what changes in the state.
QUADRANT = np.array([[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]])
TURN = np.array([SWAP, 0, 0, INVERT | SWAP])


@cache
def tables(bits: int) -> tuple[Int64, Int64]:
    """Return tables that advance the curve by some levels at once.

    The first gives the curve's position and next state for as many bits of i and j, `[i | j | state]`, the second the
    inverse, `[position | state]`; the state takes the last two bits.
    """
    number, state = np.meshgrid(np.arange(1 << 2 * bits), np.arange(4), indexing="ij")
    i, j, current = np.zeros_like(number), np.zeros_like(number), state
    for level in reversed(range(bits)):
        step = (number >> 2 * level) & 3
        ahead = QUADRANT[current, step]
        i, j = (i << 1) | (ahead >> 1), (j << 1) | (ahead & 1)
        current = current ^ TURN[step]
    place = (i << bits) | j
    position, ij = np.empty(number.size, np.int64), np.empty(number.size, np.int64)
    position[(place << 2) | state] = (number << 2) | current
    ij[(number << 2) | state] = (place << 2) | current
    return position, ij


def from_face_ij(face: Int64, i: Int64, j: Int64, level: int) -> Ids:
    """Return the cells of `level` that hold the leaf cells in columns i and rows j of the faces."""
    ids, _ = descend(face, i, j, -(-(level - 2) // 4) * 4 + 2)
    bit = _U(1 << 2 * (MAX_LEVEL - level))
    return (ids & (~bit + _U(1))) | bit


def descend(face: Int64, i: Int64, j: Int64, level: int) -> tuple[Ids, Int64]:
    """Return the cells that hold leaf cells, and the states of the curve in them, at a level of 2, 6, 10 ... 30."""
    state, number, (position, _) = face & SWAP, face << 60, tables(4)
    # Nibble k covers bits 4k..4k+3 of i and j.
    for k in range(7, (MAX_LEVEL - level) // 4 - 1, -1):
        state = position[state + (((i >> 4 * k) & 15) << 6) + (((j >> 4 * k) & 15) << 2)]
        number = number | (state >> 2) << 8 * k
        state = state & 3
    return (number.astype(np.uint64) << _U(1)) | _U(1 << 2 * (MAX_LEVEL - level)), state


def face_ij_size(ids: Ids) -> tuple[Int64, Int64, Int64, Int64]:
    """Return face, the smallest i and j inside the cell, and its edge in leaf cells."""
    face = (ids >> _U(61)).astype(np.int64)
    state, (_, ij) = face & SWAP, tables(4)
    i, j = np.zeros(ids.shape, np.int64), np.zeros(ids.shape, np.int64)
    for k in range(7, -1, -1):
        bits = 2 if k == 7 else 4
        step = ((ids >> _U(8 * k + 1)) & _U((1 << 2 * bits) - 1)).astype(np.int64)
        state = ij[state + (step << 2)]
        i += (state >> 6) << 4 * k
        j += ((state >> 2) & 15) << 4 * k
        state = state & 3
    size = np.int64(1) << (MAX_LEVEL - levels(ids))
    return face, i & -size, j & -size, size


def levels(ids: Ids) -> Int64:
    """Return the level of each cell: its lowest set bit gives it; a power of two is exact in float64."""
    _, exponent = np.frexp((ids & (~ids + _U(1))).astype(np.float64))
    return (MAX_LEVEL - (exponent.astype(np.int64) - 1) // 2).astype(np.int64)
