"""The Hilbert curve that numbers the cells of a face, back from ids to places on a face, and between points and cells.

The latter (`cells_of`, `centers`) serve millions of points: few passes over arrays short enough to stay in the cache. Faces of
the cube that lie opposite each other carry the same two axes in swapped order, and swapping columns and rows is one of the
states of the curve. So it can start from the axis alone (0, 1, 2 for x, y, z), without a swap: `a` and `b` there are u and v on
the faces 0 to 2, and v and u on the faces 3 to 5.
"""

from functools import cache

import numpy as np

from cellcode.types import Float64, Ids, Int64

MAX_LEVEL = 30
LEAVES = 1 << MAX_LEVEL  # leaf cells along the edge of a face
_RADIANS = np.pi / 180
_BITS = 6  # levels per step along the curve between points and cells: tables of 128 KB
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


def cells_of(lat_deg: Float64, lon_deg: Float64, level: int) -> Ids:
    """Return the cells of `level` that hold the points; (N,) from (N,), rounded as the official library does."""
    lat, lon = lat_deg * _RADIANS, lon_deg * _RADIANS
    cos = np.cos(lat)
    x, y, z = np.cos(lon), np.sin(lon), np.sin(lat)
    x *= cos
    y *= cos
    ax, ay = np.abs(x), np.abs(y)
    # Ties between axes go to the later one.
    on_x, on_z = ax > ay, np.abs(z) >= np.maximum(ax, ay)
    along = np.where(on_z, z, np.where(on_x, x, y))
    on_x &= ~on_z
    a = np.where(on_x, y, np.negative(x, out=x))
    b = np.where(on_z, np.negative(y, out=y), z)
    i, j = _column(np.divide(a, along, out=a), level), _column(np.divide(b, along, out=b), level)
    state = (~(on_x | on_z)).astype(np.int64)
    number = state + 2 * on_z.view(np.int8) + 3 * (along < 0).view(np.int8)
    left = level
    for bits in _steps(level):
        left -= bits
        mask = (1 << bits) - 1
        place = (i >> left) & mask
        place <<= bits
        place |= (j >> left) & mask
        place <<= 2
        place |= state
        # Clipping is the fastest way to look up; NaN is the only point that needs it.
        position = tables(bits)[0].take(place, mode="clip")
        state = position & 3
        position >>= 2
        number <<= 2 * bits
        number |= position
    number <<= 1
    number |= 1
    number <<= 2 * (MAX_LEVEL - level)
    return number.view(np.uint64)


def centers(ids: Ids) -> tuple[Float64, Float64]:
    """Return latitude and longitude, each (N,) degrees, of the cells' centres."""
    low = ids & (~ids + np.uint64(1))
    deepest = MAX_LEVEL - max(int(low.min(initial=1 << 60)).bit_length() - 1, 0) // 2
    face = (ids >> np.uint64(61)).view(np.int64)
    axis = np.where(face < 3, face, face - 3)
    state = axis & 1
    i, j, left = np.zeros_like(face), np.zeros_like(face), MAX_LEVEL
    for bits in _steps(deepest):
        left -= bits
        position = (ids >> np.uint64(2 * left + 1)).view(np.int64)
        position &= (1 << 2 * bits) - 1
        position <<= 2
        position |= state
        place = tables(bits)[1].take(position)
        state = place & 3
        place >>= 2
        i <<= bits
        j <<= bits
        i |= place >> bits
        j |= place & ((1 << bits) - 1)
    # The lowest bit is the square of the edge in leaves; below the cell's level i and j mean nothing.
    edge = np.sqrt(low.astype(np.float64)).astype(np.int64)
    a, b = _middle(i << left, edge), _middle(j << left, edge)
    on_x, on_z = axis == 0, axis == 2
    sign = np.where(face < 3, 1.0, -1.0)
    x = np.where(on_x, 1.0, -a)
    y = np.where(on_x, a, np.where(on_z, -b, 1.0))
    z = np.where(on_z, 1.0, b)
    x *= sign
    y *= sign
    z *= sign
    with np.errstate(divide="ignore"):  # the poles are centres of faces
        lat = np.arctan(z / np.sqrt(x * x + y * y))
    lon = np.arctan2(y, x)
    lat *= 1 / _RADIANS
    lon *= 1 / _RADIANS
    return lat, lon


def _column(u: Float64, level: int) -> Int64:
    """Return the column, (N,), of the cell of `level` that holds u (-1..1), or the row that holds v."""
    # S2's transform is sqrt(1 + 3 u) / 2 for u >= 0, else 1 - sqrt(1 - 3 u) / 2: scaling by powers of two and subtracting
    # from 1 are exact, so the latter is the former of -u with its sign changed, modulo 1.
    s = np.abs(u)
    s *= 3
    s += 1
    np.sqrt(s, out=s)
    s *= 0.5 * 2**level
    np.copysign(s, u, out=s)
    np.minimum(s, 2**level - 1, out=s)
    column: Int64 = np.floor(s, out=s).astype(np.int64)
    column &= (1 << level) - 1
    return column


def _middle(column: Int64, edge: Int64) -> Float64:
    """Return u, (N,), at the middle of cells that hold a leaf column and have an edge in leaves."""
    s = (2 * (column & -edge) + edge) * (0.5 / LEAVES)
    larger = np.maximum(s, 1 - s)
    return np.asarray(np.copysign((4 * larger * larger - 1) / 3, s - 0.5))


def _steps(level: int) -> list[int]:
    count = -(-level // _BITS)  # as few steps along the curve as possible
    return [(level + k) // count for k in range(count)]
