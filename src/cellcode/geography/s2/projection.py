"""The projection of the sphere on the faces of a cube, with S2's quadratic transform, and back.

`u` and `v` (-1..1) are coordinates on a face of the cube, `s` and `t` (0..1) the same after the transform that evens out
the areas of cells. Rounding follows the official library, so that ids agree to the last bit.

At the end of the module: cells as shapes in longitude and latitude. Squares on the cube of level 1 or finer have no pole and
no antimeridian inside them, at most on their sides, and the extremes of their longitude and latitude are at their corners.
"""

import numpy as np

from cellcode.types import Float64, Int64

_ROUNDING_DEG = 1e-9  # the side of the smallest cell is 5e-8


def to_xyz(lat_deg: Float64, lon_deg: Float64) -> tuple[Float64, Float64, Float64]:
    """Return unit vectors of points in degrees."""
    lat, lon = np.deg2rad(lat_deg), np.deg2rad(lon_deg)
    cos = np.cos(lat)
    return np.cos(lon) * cos, np.sin(lon) * cos, np.sin(lat)


def to_degrees(x: Float64, y: Float64, z: Float64) -> tuple[Float64, Float64]:
    """Return latitude and longitude of vectors of any length."""
    return np.rad2deg(np.arctan2(z, np.sqrt(x * x + y * y))), np.rad2deg(np.arctan2(y, x))


def face_uv(x: Float64, y: Float64, z: Float64) -> tuple[Int64, Float64, Float64]:
    """Project vectors on the cube. Ties between axes go to the later one, as in the official library."""
    ax, ay, az = np.abs(x), np.abs(y), np.abs(z)
    axis = np.where(ax > ay, np.where(ax > az, 0, 2), np.where(ay > az, 1, 2))
    along = np.where(axis == 0, x, np.where(axis == 1, y, z))
    negative = along < 0
    a = np.where(axis == 0, y, -x) / along
    b = np.where(axis == 2, -y, z) / along
    return axis + 3 * negative, np.where(negative, b, a), np.where(negative, a, b)


def face_uv_to_xyz(face: Int64, u: Float64, v: Float64) -> tuple[Float64, Float64, Float64]:
    """Return the vectors, of length 1 to 1.74, from the Earth's centre to points of the cube."""
    one = np.ones_like(u)
    axes = [one, -u, -u, -one, v, v], [u, one, -v, -v, -one, u], [v, v, one, -u, -u, -one]
    x, y, z = (np.choose(face, axis) for axis in axes)
    return x, y, z


def uv_to_st(u: Float64) -> Float64:
    """The quadratic transform; works for v and t too."""
    root = np.sqrt(1 + 3 * np.abs(u))
    return np.asarray(np.where(u >= 0, 0.5 * root, 1 - 0.5 * root))


def st_to_uv(s: Float64) -> Float64:
    """The inverse of `uv_to_st`."""
    larger = np.maximum(s, 1 - s)
    return np.asarray(np.copysign((4 * larger * larger - 1) / 3, s - 0.5))


def degrees(face: Int64, s: Float64, t: Float64) -> tuple[Float64, Float64]:
    """Return latitude and longitude, (K, N), of K points on the sides of each of N cells, all around it.

    On the antimeridian the longitude is 180 or -180 as the cell lies west or east of it; on a pole it is NaN.
    """
    u, v = st_to_uv(s), st_to_uv(t)
    lat, lon = to_degrees(*face_uv_to_xyz(np.broadcast_to(face, u.shape), u, v))
    _, y, _ = face_uv_to_xyz(face, u.mean(axis=0), v.mean(axis=0))
    lon = np.where(np.abs(lon) > 180 - _ROUNDING_DEG, np.copysign(180, y), lon)
    return lat, np.where(np.abs(lat) > 90 - _ROUNDING_DEG, np.nan, lon)


def boxes(face: Int64, s: Float64, t: Float64) -> tuple[Float64, Float64]:
    """Return south-west and north-east, each (2, N) longitude and latitude, of cells with s and t, each (2, N) from and to."""
    lat, lon = degrees(face, s[[0, 1, 1, 0]], t[[0, 0, 1, 1]])
    # fmin and fmax pass over NaN.
    return np.stack([np.fmin.reduce(lon), lat.min(axis=0)]), np.stack([np.fmax.reduce(lon), lat.max(axis=0)])


def rings(face: Int64, s: Float64, t: Float64, pieces: int) -> list[Float64]:
    """Return the sides of the cells, each side in `pieces` straight pieces, as rings; (V, 2) longitude and latitude."""
    share, zero, one = np.arange(pieces) / pieces, np.zeros(pieces), np.ones(pieces)
    along_s, along_t = np.concatenate([share, one, 1 - share, zero]), np.concatenate([zero, share, one, 1 - share])
    at_s, at_t = (low + (high - low) * along[:, None] for (low, high), along in ((s, along_s), (t, along_t)))
    lat, lon = degrees(face, at_s, at_t)
    return [_along_pole(ring) for ring in np.stack([lon, lat], axis=2).transpose(1, 0, 2)]


def _along_pole(ring: Float64) -> Float64:
    """Replace a pole by the way along it, from the longitude before it to the one after."""
    (poles,) = np.nonzero(np.isnan(ring[:, 0]))
    if not len(poles):
        return ring
    pole, *others = np.roll(ring, -poles[0], axis=0)
    return np.array([*others, [others[-1][0], pole[1]], [others[0][0], pole[1]]])
