"""Distances and short metric offsets."""

import numpy as np
import numpy.typing as npt

from cellcode.geography.s2 import projection
from cellcode.types import Bools, Float64

EARTH_RADIUS_M = 6_371_008.8  # mean radius (IUGG)
_SEMI_MAJOR_M = 6_378_137.0  # WGS84
_ECCENTRICITY_2 = 6.694379990141316e-3


def haversine_m(
    lat1_deg: npt.ArrayLike, lon1_deg: npt.ArrayLike, lat2_deg: npt.ArrayLike, lon2_deg: npt.ArrayLike
) -> Float64:
    """Return great-circle distances in metres on the mean sphere; arguments broadcast.

    The sphere differs from the ellipsoid by at most 0.56 %.
    """
    lat1, lon1, lat2, lon2 = (np.deg2rad(np.asarray(a, np.float64)) for a in (lat1_deg, lon1_deg, lat2_deg, lon2_deg))
    h = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(h, 0, 1))))


def within_m(
    lat1_deg: Float64, lon1_deg: Float64, lat2_deg: Float64, lon2_deg: Float64, *limits_m: float
) -> tuple[Bools, ...]:
    """Tell for each of N points which of M others are nearer than each limit, (N, M) for every limit.

    As comparing `haversine_m`, by one product of unit vectors: some thirty times as fast for thousands of points. The cosine is
    exact to 3e-16, so that a limit is off by at most 3e-16 R^2 / limit: 0.2 mm at 80 m, 1.2 mm at 10 m.
    """
    one, other = np.stack(projection.to_xyz(lat1_deg, lon1_deg)), np.stack(projection.to_xyz(lat2_deg, lon2_deg))
    cosine = one.T @ other  # 3 x N, 3 x M
    return tuple(cosine > np.cos(limit_m / EARTH_RADIUS_M) for limit_m in limits_m)


def offset(
    lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, east_m: npt.ArrayLike, north_m: npt.ArrayLike
) -> tuple[Float64, Float64]:
    """Move points by metres on the WGS84 ellipsoid, along its radii of curvature at the start.

    The error grows with the square of the offset and the tangent of the latitude: below 1 cm for 250 m up to 60 degrees
    and below 10 m for 10 km up to 45 degrees. Not meant within a kilometre of a pole. Longitudes are returned in -180..180.
    """
    lat = np.asarray(lat_deg, np.float64)
    meridian_m, parallel_m = _metres_per_degree(lat)
    new_lat = lat + np.asarray(north_m, np.float64) / meridian_m
    new_lon = np.asarray(lon_deg, np.float64) + np.asarray(east_m, np.float64) / parallel_m
    return new_lat, wrap_lon(new_lon)


def local_m(
    lat0_deg: npt.ArrayLike, lon0_deg: npt.ArrayLike, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike
) -> tuple[Float64, Float64]:
    """Return metres east and north from a point 0 to others; the inverse of `offset`, with its error bound."""
    lat0 = np.asarray(lat0_deg, np.float64)
    meridian_m, parallel_m = _metres_per_degree(lat0)
    east_deg = wrap_lon(np.asarray(lon_deg, np.float64) - np.asarray(lon0_deg, np.float64))
    return east_deg * parallel_m, (np.asarray(lat_deg, np.float64) - lat0) * meridian_m


def wrap_lon(lon_deg: npt.ArrayLike) -> Float64:
    """Bring longitudes into -180..180; those already there are returned unchanged."""
    lon = np.asarray(lon_deg, np.float64)
    return np.where(np.abs(lon) > 180, (lon + 180) % 360 - 180, lon)


def _metres_per_degree(lat_deg: Float64) -> tuple[Float64, Float64]:
    """Metres of one degree along the meridian and along the parallel, from the radii M and N of the ellipsoid."""
    sin = np.sin(np.deg2rad(lat_deg))
    w2 = 1 - _ECCENTRICITY_2 * sin**2
    prime_vertical_m = _SEMI_MAJOR_M / np.sqrt(w2)
    meridian_m = prime_vertical_m * (1 - _ECCENTRICITY_2) / w2
    return np.deg2rad(meridian_m), np.deg2rad(prime_vertical_m * np.cos(np.deg2rad(lat_deg)))
