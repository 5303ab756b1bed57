"""The projection of the sphere on the faces of a cube, with S2's quadratic transform, and back.

`u` and `v` (-1..1) are coordinates on a face of the cube, `s` and `t` (0..1) the same after the transform that evens out
the areas of cells. Rounding follows the official library, so that ids agree to the last bit.
"""

import numpy as np

from cellcode.types import Float64, Int64


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
    x = np.choose(face, [one, -u, -u, -one, v, v])
    y = np.choose(face, [u, one, -v, -v, -one, u])
    z = np.choose(face, [v, v, one, -u, -u, -one])
    return x, y, z


def uv_to_st(u: Float64) -> Float64:
    """The quadratic transform; works for v and t too."""
    root = np.sqrt(1 + 3 * np.abs(u))
    return np.asarray(np.where(u >= 0, 0.5 * root, 1 - 0.5 * root))


def st_to_uv(s: Float64) -> Float64:
    """The inverse of `uv_to_st`."""
    larger = np.maximum(s, 1 - s)
    return np.asarray(np.copysign((4 * larger * larger - 1) / 3, s - 0.5))
