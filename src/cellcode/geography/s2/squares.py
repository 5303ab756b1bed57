"""Cells as shapes in longitude and latitude: squares on the cube of level 1 or finer.

Such cells have no pole and no antimeridian inside them, at most on their sides, and the extremes of their longitude and
latitude are at their corners.
"""

import numpy as np

from cellcode.geography.s2 import projection
from cellcode.types import Float64, Int64

_ROUNDING_DEG = 1e-9  # the side of the smallest cell is 5e-8


def degrees(face: Int64, s: Float64, t: Float64) -> tuple[Float64, Float64]:
    """Return latitude and longitude, (K, N), of K points on the sides of each of N cells, all around it.

    On the antimeridian the longitude is 180 or -180 as the cell lies west or east of it; on a pole it is NaN.
    """
    u, v = projection.st_to_uv(s), projection.st_to_uv(t)
    lat, lon = projection.to_degrees(*projection.face_uv_to_xyz(np.broadcast_to(face, u.shape), u, v))
    _, y, _ = projection.face_uv_to_xyz(face, u.mean(axis=0), v.mean(axis=0))
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
