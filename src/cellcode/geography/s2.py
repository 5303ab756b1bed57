"""S2 cells over numpy arrays: ids as uint64, angles in degrees, latitude first.

The sphere is projected on the six faces of a cube; each face is a quadtree whose cells are numbered along a Hilbert curve,
so that cells with close ids are close on the ground and the descendants of a cell are one range of ids. Ids are those of
Google's S2 library, bit for bit (http://s2geometry.io/devguide/s2cell_hierarchy).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError

Ids = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MAX_LEVEL = 30
LEAVES = 1 << MAX_LEVEL  # leaf cells along the edge of a face
EARTH_AREA_M2 = 4 * np.pi * 6_371_008.8**2
_U = np.uint64
_SWAP, _INVERT = 1, 2
_CHUNK = 1 << 14  # arrays of this length stay in the cache between the many small steps


def _hilbert_tables() -> tuple[Int64, Int64]:
    """Tables that advance the Hilbert curve by four levels at once.

    A state is the orientation of the curve (swapped axes, inverted). `position[i | j | state]` gives the curve's position
    and next state for four bits of i and j, `ij[position | state]` the inverse.
    """
    quadrant = ((0, 1, 3, 2), (0, 2, 3, 1), (3, 2, 0, 1), (3, 1, 0, 2))  # position -> i, j bits, by state
    turn = (_SWAP, 0, 0, _INVERT | _SWAP)  # how the state changes in each position
    position, ij = np.zeros(1024, np.int64), np.zeros(1024, np.int64)
    for state in range(4):
        for number in range(256):
            i = j = 0
            current = state
            for shift in (6, 4, 2, 0):
                step = (number >> shift) & 3
                bits = quadrant[current][step]
                i, j = (i << 1) | (bits >> 1), (j << 1) | (bits & 1)
                current ^= turn[step]
            position[(((i << 4) | j) << 2) | state] = (number << 2) | current
            ij[(number << 2) | state] = (((i << 4) | j) << 2) | current
    return position, ij


_POSITION, _IJ = _hilbert_tables()


def cell_ids(lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, level: int) -> Ids:
    """Return the cells of `level` that hold the points; (N,) from (N,) degrees."""
    lat, lon = np.broadcast_arrays(np.asarray(lat_deg, np.float64), np.asarray(lon_deg, np.float64))
    lat, lon = lat.ravel(), lon.ravel()
    ids = np.empty(lat.size, np.uint64)
    for first in range(0, lat.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        face, u, v = _face_uv(*_to_xyz(lat[part], lon[part]))
        ids[part] = _from_face_ij(face, _leaf(_uv_to_st(u)), _leaf(_uv_to_st(v)), level)
    return ids


def cell_centers(ids: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Return latitude and longitude of the cells' centres, each (N,) degrees."""
    ids = _as_ids(ids)
    lat, lon = np.empty(ids.size), np.empty(ids.size)
    for first in range(0, ids.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        face, i, j, size = _face_ij_size(ids[part])
        s, t = (2 * i + size) / (2 * LEAVES), (2 * j + size) / (2 * LEAVES)
        lat[part], lon[part] = _to_degrees(*_face_uv_to_xyz(face, _st_to_uv(s), _st_to_uv(t)))
    return lat, lon


def cell_polygons(ids: npt.ArrayLike) -> Float64:
    """Return the corners of the cells, (N, 4, 2): latitude and longitude, counter-clockwise seen from above."""
    face, i, j, size = _face_ij_size(_as_ids(ids))
    east, north = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    s = (i[:, None] + east * size[:, None]) / LEAVES
    t = (j[:, None] + north * size[:, None]) / LEAVES
    corner_face = np.broadcast_to(face[:, None], s.shape)
    return np.stack(_to_degrees(*_face_uv_to_xyz(corner_face, _st_to_uv(s), _st_to_uv(t))), axis=-1)


def levels(ids: npt.ArrayLike) -> Int64:
    """Return the level of each cell, (N,)."""
    # The lowest set bit of an id gives its level; a power of two is exact in float64.
    _, exponent = np.frexp(_lowest_bit(_as_ids(ids)).astype(np.float64))
    return (MAX_LEVEL - (exponent.astype(np.int64) - 1) // 2).astype(np.int64)


def parents(ids: npt.ArrayLike, level: int) -> Ids:
    """Return the cells of a coarser (or the same) `level` that hold the cells, (N,)."""
    bit = _U(1 << 2 * (MAX_LEVEL - level))
    return (_as_ids(ids) & (~bit + _U(1))) | bit


def children(ids: npt.ArrayLike) -> Ids:
    """Return the four children of each cell in the order of their ids, (N, 4)."""
    ids = _as_ids(ids)
    bit = _lowest_bit(ids)
    quarter = bit >> _U(2)
    first = ids - bit + quarter
    return np.asarray(first[:, None] + (quarter[:, None] << _U(1)) * np.arange(4, dtype=np.uint64), np.uint64)


def descendants(ids: npt.ArrayLike, level: int) -> Ids:
    """Return all cells of `level` inside each of the cells, which are of one level k; (N, 4 ** (level - k))."""
    ids = _as_ids(ids)
    deeper = level - int(levels(ids[:1])[0]) if ids.size else 0
    made = ids
    for _ in range(deeper):
        made = children(made).ravel()
    return made.reshape(ids.size, 4**deeper)


def range_min(ids: npt.ArrayLike) -> Ids:
    """Return the first leaf cell inside each cell, (N,)."""
    ids = _as_ids(ids)
    return ids - (_lowest_bit(ids) - _U(1))


def range_max(ids: npt.ArrayLike) -> Ids:
    """Return the last leaf cell inside each cell, (N,)."""
    ids = _as_ids(ids)
    return ids + (_lowest_bit(ids) - _U(1))


def edge_neighbors(ids: npt.ArrayLike) -> Ids:
    """Return the four cells of the same level across each cell's edges, (N, 4)."""
    return _neighbors(_as_ids(ids), ((0, -1), (1, 0), (0, 1), (-1, 0)))


def all_neighbors(ids: npt.ArrayLike) -> Ids:
    """Return the eight cells around each cell, (N, 8); beside a corner of the cube only seven are distinct."""
    around = tuple((di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if di or dj)
    return _neighbors(_as_ids(ids), around)


def tokens(ids: npt.ArrayLike) -> list[str]:
    """Return the ids as hexadecimal without trailing zeros, S2's short form for text."""
    return [f"{int(cell):016x}".rstrip("0") or "X" for cell in _as_ids(ids)]


def from_tokens(texts: list[str]) -> Ids:
    """Return the ids of tokens, (N,). Raises InputError that names the first one that is no cell."""
    ids = np.zeros(len(texts), np.uint64)
    for row, text in enumerate(texts):
        try:
            if not 0 < len(text) <= 16 or not set(text.lower()) <= set("0123456789abcdef"):
                raise ValueError
            ids[row] = int(text.ljust(16, "0"), 16)
        except ValueError:
            raise InputError(f"{text!r} is not the token of an S2 cell") from None
    if not (valid := is_valid(ids)).all():
        raise InputError(f"{texts[int(np.argmin(valid))]!r} is not the token of an S2 cell")
    return ids


def is_valid(ids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Tell which ids are cells: a face below 6, and a lowest set bit at an even place. (N,)."""
    ids = _as_ids(ids)
    return np.asarray(((ids >> _U(61)) < 6) & ((_lowest_bit(ids) & _U(0x1555555555555555)) != 0))


def mean_edge_m(level: int) -> float:
    """Return the square root of the mean area of the cells of `level`, in metres; single cells differ by up to 25 %."""
    return float(np.sqrt(EARTH_AREA_M2 / 6 / 4.0**level))


def _as_ids(ids: npt.ArrayLike) -> Ids:
    return np.atleast_1d(np.asarray(ids, np.uint64)).ravel()


def _lowest_bit(ids: Ids) -> Ids:
    return ids & (~ids + _U(1))


def _to_xyz(lat_deg: Float64, lon_deg: Float64) -> tuple[Float64, Float64, Float64]:
    lat, lon = np.deg2rad(lat_deg), np.deg2rad(lon_deg)
    cos = np.cos(lat)
    return np.cos(lon) * cos, np.sin(lon) * cos, np.sin(lat)


def _to_degrees(x: Float64, y: Float64, z: Float64) -> tuple[Float64, Float64]:
    return np.rad2deg(np.arctan2(z, np.hypot(x, y))), np.rad2deg(np.arctan2(y, x))


def _face_uv(x: Float64, y: Float64, z: Float64) -> tuple[Int64, Float64, Float64]:
    """Project points on the cube. Ties between axes go to the later one, as in the official library."""
    ax, ay, az = np.abs(x), np.abs(y), np.abs(z)
    axis = np.where(ax > ay, np.where(ax > az, 0, 2), np.where(ay > az, 1, 2))
    along = np.where(axis == 0, x, np.where(axis == 1, y, z))
    negative = along < 0
    a = np.where(axis == 0, y, -x) / along
    b = np.where(axis == 2, -y, z) / along
    return axis + 3 * negative, np.where(negative, b, a), np.where(negative, a, b)


def _face_uv_to_xyz(face: Int64, u: Float64, v: Float64) -> tuple[Float64, Float64, Float64]:
    one = np.ones_like(u)
    x = np.choose(face, [one, -u, -u, -one, v, v])
    y = np.choose(face, [u, one, -v, -v, -one, u])
    z = np.choose(face, [v, v, one, -u, -u, -one])
    return x, y, z


def _uv_to_st(u: Float64) -> Float64:
    """The quadratic transform, which evens out the areas of cells."""
    root = np.sqrt(1 + 3 * np.abs(u))
    return np.asarray(np.where(u >= 0, 0.5 * root, 1 - 0.5 * root))


def _st_to_uv(s: Float64) -> Float64:
    return np.where(s >= 0.5, (4 * s * s - 1) / 3, (1 - 4 * (1 - s) ** 2) / 3)


def _leaf(s: Float64) -> Int64:
    return np.clip(np.floor(s * LEAVES), 0, LEAVES - 1).astype(np.int64)


def _from_face_ij(face: Int64, i: Int64, j: Int64, level: int) -> Ids:
    state = face & _SWAP
    number = face << 60
    # Nibble k covers bits 4k..4k+3 of i and j; those below the level do not matter.
    for k in range(7, (MAX_LEVEL - level) // 4 - 1, -1):
        state = _POSITION[state + (((i >> 4 * k) & 15) << 6) + (((j >> 4 * k) & 15) << 2)]
        number |= (state >> 2) << 8 * k
        state = state & 3
    return parents((number.astype(np.uint64) << _U(1)) | _U(1), level)


def _face_ij_size(ids: Ids) -> tuple[Int64, Int64, Int64, Int64]:
    """Return face, the smallest i and j inside the cell, and its edge in leaf cells."""
    face = (ids >> _U(61)).astype(np.int64)
    state = face & _SWAP
    i, j = np.zeros(ids.shape, np.int64), np.zeros(ids.shape, np.int64)
    for k in range(7, -1, -1):
        bits = 2 if k == 7 else 4
        step = ((ids >> _U(8 * k + 1)) & _U((1 << 2 * bits) - 1)).astype(np.int64)
        state = _IJ[state + (step << 2)]
        i += (state >> 6) << 4 * k
        j += ((state >> 2) & 15) << 4 * k
        state = state & 3
    size = np.int64(1) << (MAX_LEVEL - levels(ids))
    return face, i & -size, j & -size, size


def _neighbors(ids: Ids, steps: tuple[tuple[int, int], ...]) -> Ids:
    face, i, j, size = _face_ij_size(ids)
    out = np.empty((ids.size, len(steps)), np.uint64)
    for column, (di, dj) in enumerate(steps):
        ni, nj = i + di * size, j + dj * size
        leaf = _from_face_ij(face, np.clip(ni, 0, LEAVES - 1), np.clip(nj, 0, LEAVES - 1), MAX_LEVEL)
        off = (ni < 0) | (ni >= LEAVES) | (nj < 0) | (nj >= LEAVES)
        if off.any():
            leaf[off] = _wrapped_leaf(face[off], ni[off] + size[off] // 2, nj[off] + size[off] // 2)
        bit = _lowest_bit(ids)
        out[:, column] = (leaf & (~bit + _U(1))) | bit
    return out


def _wrapped_leaf(face: Int64, i: Int64, j: Int64) -> Ids:
    """Leaf cells just off a face, found on the face next to it."""
    # One leaf beyond the edge in a linear (not quadratic) projection: the point is then on the right face, in the right row.
    i, j = np.clip(i, -1, LEAVES), np.clip(j, -1, LEAVES)
    limit = 1 + np.finfo(np.float64).eps
    u = np.clip((2 * (i - LEAVES // 2) + 1) / LEAVES, -limit, limit)
    v = np.clip((2 * (j - LEAVES // 2) + 1) / LEAVES, -limit, limit)
    face, u, v = _face_uv(*_face_uv_to_xyz(face, u, v))
    return _from_face_ij(face, _leaf(0.5 * (u + 1)), _leaf(0.5 * (v + 1)), MAX_LEVEL)
