"""S2 cells over numpy arrays: ids as uint64, angles in degrees, latitude first.

The sphere is projected on the six faces of a cube; each face is a quadtree whose cells are numbered along a Hilbert curve,
so that cells with close ids are close on the ground and the descendants of a cell are one range of ids. Ids are those of
Google's S2 library, bit for bit (http://s2geometry.io/devguide/s2cell_hierarchy). Ranges of ids, the Hilbert curve and the
projection are in modules beside this one.
"""

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError
from cellcode.geography.s2 import hilbert, projection
from cellcode.types import Bools, Float64, Ids, Int64

MAX_LEVEL, LEAVES = hilbert.MAX_LEVEL, hilbert.LEAVES
EARTH_AREA_M2 = 4 * np.pi * 6_371_008.8**2
_U = np.uint64
_CHUNK = 1 << 13  # arrays of this length stay in the cache between the many small steps


def cell_ids(lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, level: int) -> Ids:
    """Return the cells of `level` that hold the points; (N,) from (N,) degrees."""
    lat, lon = np.broadcast_arrays(np.asarray(lat_deg, np.float64), np.asarray(lon_deg, np.float64))
    lat, lon = lat.ravel(), lon.ravel()
    ids = np.empty(lat.size, np.uint64)
    for first in range(0, lat.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        ids[part] = hilbert.cells_of(lat[part], lon[part], level)
    return ids


def cell_centers(ids: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Return latitude and longitude of the cells' centres, each (N,) degrees."""
    ids = _as_ids(ids)
    lat, lon = np.empty(ids.size), np.empty(ids.size)
    for first in range(0, ids.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        lat[part], lon[part] = hilbert.centers(ids[part])
    return lat, lon


def cell_polygons(ids: npt.ArrayLike) -> Float64:
    """Return the corners of the cells, (N, 4, 2): latitude and longitude, counter-clockwise seen from above."""
    face, i, j, size = hilbert.face_ij_size(_as_ids(ids))
    east, north = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    u = projection.st_to_uv((i[:, None] + east * size[:, None]) / LEAVES)
    v = projection.st_to_uv((j[:, None] + north * size[:, None]) / LEAVES)
    xyz = projection.face_uv_to_xyz(np.broadcast_to(face[:, None], u.shape), u, v)
    return np.stack(projection.to_degrees(*xyz), axis=-1)


def levels(ids: npt.ArrayLike) -> Int64:
    """Return the level of each cell, (N,)."""
    return hilbert.levels(_as_ids(ids))


def parents(ids: npt.ArrayLike, level: int) -> Ids:
    """Return the cells of a coarser (or the same) `level` that hold the cells, (N,)."""
    bit = _U(1 << 2 * (MAX_LEVEL - level))
    return (_as_ids(ids) & (~bit + _U(1))) | bit


def children(ids: npt.ArrayLike) -> Ids:
    """Return the four children of each cell in the order of their ids, (N, 4)."""
    ids = _as_ids(ids)
    bit = lowest_bit(ids)
    quarter = bit >> _U(2)
    first = ids - bit + quarter
    return np.asarray(first[:, None] + (quarter[:, None] << _U(1)) * np.arange(4, dtype=np.uint64), np.uint64)


def descendants(ids: npt.ArrayLike, level: int) -> Ids:
    """Return all cells of `level` inside each of the cells, which are of one level k; (N, 4 ** (level - k))."""
    ids = _as_ids(ids)
    deeper, count = level - int(levels(ids[:1])[0]) if ids.size else 0, ids.size
    for _ in range(deeper):
        ids = children(ids).ravel()
    return ids.reshape(count, 4**deeper)


def range_min(ids: npt.ArrayLike) -> Ids:
    """Return the first leaf cell inside each cell, (N,)."""
    ids = _as_ids(ids)
    return ids - (lowest_bit(ids) - _U(1))


def range_max(ids: npt.ArrayLike) -> Ids:
    """Return the last leaf cell inside each cell, (N,)."""
    ids = _as_ids(ids)
    return ids + (lowest_bit(ids) - _U(1))


def edge_neighbors(ids: npt.ArrayLike) -> Ids:
    """Return the four cells of the same level across each cell's edges, (N, 4)."""
    return _neighbors(_as_ids(ids), [(0, -1), (1, 0), (0, 1), (-1, 0)])


def all_neighbors(ids: npt.ArrayLike) -> Ids:
    """Return the eight cells around each cell, (N, 8); beside a corner of the cube only seven are distinct."""
    return _neighbors(_as_ids(ids), [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if di or dj])


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


def is_valid(ids: npt.ArrayLike) -> Bools:
    """Tell which ids are cells: a face below 6, and a lowest set bit at an even place. (N,)."""
    ids = _as_ids(ids)
    return np.asarray(((ids >> _U(61)) < 6) & ((lowest_bit(ids) & _U(0x1555555555555555)) != 0))


def mean_edge_m(level: int) -> float:
    """Return the square root of the mean area of the cells of `level`, in metres; single cells differ by up to 25 %."""
    return float(np.sqrt(EARTH_AREA_M2 / 6 / 4.0**level))


def _as_ids(ids: npt.ArrayLike) -> Ids:
    return np.atleast_1d(np.asarray(ids, np.uint64)).ravel()


def lowest_bit(ids: Ids) -> Ids:
    """Return the lowest set bit of each id, half of the distance between ids of the cell's level; (N,)."""
    return ids & (~ids + _U(1))


def _leaf(s: Float64) -> Int64:
    return np.clip(np.floor(s * LEAVES), 0, LEAVES - 1).astype(np.int64)


def _neighbors(ids: Ids, steps: list[tuple[int, int]]) -> Ids:
    face, i, j, size = hilbert.face_ij_size(ids)
    out = np.empty((ids.size, len(steps)), np.uint64)
    for column, (di, dj) in enumerate(steps):
        ni, nj = i + di * size, j + dj * size
        leaf = hilbert.from_face_ij(face, np.clip(ni, 0, LEAVES - 1), np.clip(nj, 0, LEAVES - 1), MAX_LEVEL)
        off = (ni < 0) | (ni >= LEAVES) | (nj < 0) | (nj >= LEAVES)
        if off.any():
            leaf[off] = _wrapped_leaf(face[off], ni[off] + size[off] // 2, nj[off] + size[off] // 2)
        bit = lowest_bit(ids)
        out[:, column] = (leaf & (~bit + _U(1))) | bit
    return out


def _wrapped_leaf(face: Int64, i: Int64, j: Int64) -> Ids:
    # One leaf beyond the edge in a linear (not quadratic) projection: the point is then on the right face, in the right row.
    i, j = np.clip(i, -1, LEAVES), np.clip(j, -1, LEAVES)
    limit = 1 + np.finfo(np.float64).eps
    u = np.clip((2 * (i - LEAVES // 2) + 1) / LEAVES, -limit, limit)
    v = np.clip((2 * (j - LEAVES // 2) + 1) / LEAVES, -limit, limit)
    face, u, v = projection.face_uv(*projection.face_uv_to_xyz(face, u, v))
    return hilbert.from_face_ij(face, _leaf(0.5 * (u + 1)), _leaf(0.5 * (v + 1)), MAX_LEVEL)
