"""Caps: the points within a distance of a point."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.errors import UsageError
from cellcode.geography import s2
from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m, wrap_lon
from cellcode.geography.regions import covering, geojson, polygon
from cellcode.geography.regions.covering import Cells
from cellcode.geography.s2 import projection
from cellcode.types import Bools, Float64, Ranges

_REACH = 1.25  # radians times 2^level: no point of a cell is farther from its centre (S2's largest diagonal is 2.44)


@dataclass(frozen=True)
class CapArea:
    """The points within `radius_m` metres (great-circle distance) of a point; UsageError if that is no circle on the globe."""

    lat: float
    lon: float
    radius_m: float

    def __post_init__(self) -> None:
        # Comparisons that also refuse NaN.
        if not (abs(self.lat) <= 90 and abs(self.lon) <= 180 and 0 < self.radius_m <= np.pi * EARTH_RADIUS_M):
            raise UsageError(
                f"region: no circle of {self.radius_m} m around {self.lat}, {self.lon}; give a latitude in -90..90, a "
                "longitude in -180..180 and a radius in metres, at most half the circumference of the Earth"
            )

    @cached_property
    def shape(self) -> BaseGeometry:
        """The box around the cap."""
        reach = float(np.rad2deg(self.radius_m / EARTH_RADIUS_M))
        south, north = self.lat - reach, self.lat + reach
        if south <= -90 or north >= 90:
            return shapely.box(-180, max(south, -90), 180, min(north, 90))
        half = np.rad2deg(np.arcsin(min(1.0, np.sin(np.deg2rad(reach)) / np.cos(np.deg2rad(self.lat)))))
        return polygon.box(float(wrap_lon(self.lon - half)), south, float(wrap_lon(self.lon + half)), north).shape

    @property
    def outline(self) -> BaseGeometry:
        """A polygon of 72 corners on the circle."""
        if self.radius_m > np.pi / 2 * EARTH_RADIUS_M:  # what surrounds more than a hemisphere is drawn by its rest
            across, rest_m = float(wrap_lon(self.lon + 180)), np.pi * EARTH_RADIUS_M - self.radius_m
            rest = CapArea(-self.lat, across, rest_m).outline if rest_m > 0 else shapely.Polygon()
            return polygon.WORLD.difference(rest)
        ring = geojson.continuous(_circle(self.lat, self.lon, self.radius_m))
        return geojson.on_map(shapely.Polygon(geojson.over_pole(ring, 90.0 if self.lat > 0 else -90.0)))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the box around the cap; west > east across the antimeridian."""
        return polygon.bounds_of(self.shape)

    def contains(self, lat: Float64, lon: Float64) -> Bools:
        """Tell which points lie in the cap."""
        return np.asarray(haversine_m(self.lat, self.lon, lat, lon) <= self.radius_m)

    def ranges(self, level: int) -> Ranges:
        """Return the cells of `level` with their centre in the cap."""
        sieve = _DistanceSieve(self)
        return covering.cover(sieve, level, sieve.start(level))

    def area_m2(self) -> float:
        """Return the area on the sphere."""
        return float(4 * np.pi * EARTH_RADIUS_M**2 * np.sin(self.radius_m / EARTH_RADIUS_M / 2) ** 2)

    def to_geojson(self) -> dict[str, Any]:
        """Return a polygon of 72 corners, with longitudes past 180 across the antimeridian; by parts over a pole."""
        reach_deg = np.rad2deg(self.radius_m / EARTH_RADIUS_M)
        if abs(self.lat) + reach_deg >= 90:
            return polygon.geojson_of(self.outline)
        return {"type": "Polygon", "coordinates": [_circle(self.lat, self.lon, self.radius_m).tolist()]}


class _DistanceSieve:
    """Compares squared chords, |p - q|^2 = 4 sin^2(angle / 2), between the cap's centre and the cells'."""

    def __init__(self, area: CapArea) -> None:
        self._area = area
        self._angle = area.radius_m / EARTH_RADIUS_M
        x, y, z = (float(a) for a in projection.to_xyz(np.array(area.lat), np.array(area.lon)))
        # By face: the cap's centre along u, v and the face's normal.
        self._axes = np.array([[y, z, x], [-x, z, y], [-x, -y, z], [-z, -y, -x], [-z, x, -y], [y, x, -z]]).T

    def start(self, level: int) -> Cells:
        # A block around the cap where it lies on one face spares most of the way down.
        coarse = covering.everything(min(level, 4))
        face = int(self._axes[2].argmax())
        along_u, along_v, normal = self._axes[:, face].tolist()
        angles = []
        for along, across in ((along_u, along_v), (along_v, along_u)):
            # The angle around the other axis, as longitude is around the Earth's.
            middle, ratio = math.atan2(along, normal), math.sin(min(self._angle, 1.5)) / math.sqrt(1 - across * across)
            half = math.asin(min(ratio, 1))
            if abs(middle) + half >= math.pi / 4:
                return coarse
            angles.append((middle - half, middle + half))
        low, high = projection.uv_to_st(np.tan(np.array(angles))).T.tolist()
        return covering.block(face, low, high, level) or coarse

    def sort(self, cells: Cells) -> tuple[Bools, Bools]:
        chord2, reach = self._chord2(cells), _REACH * 2.0**-cells.level
        inside = chord2 <= _chord2(self._angle - reach)
        return inside, ~inside & (chord2 <= _chord2(self._angle + reach))

    def holds(self, cells: Cells) -> Bools:
        chord2, limit = self._chord2(cells), _chord2(self._angle)
        held = chord2 <= limit
        # Squared chords are off by some 1e-15 chords; what is that close to the circle is measured as `contains` does it.
        close = np.flatnonzero(np.abs(chord2 - limit) <= 1e-14 * np.sqrt(limit))
        if len(close):
            held[close] = self._area.contains(*s2.cell_centers(cells.ids[close]))
        return held

    def _chord2(self, cells: Cells) -> Float64:
        face, i, j, _ = cells.place
        scale = 2.0**-cells.level
        u, v = projection.st_to_uv((i + 0.5) * scale), projection.st_to_uv((j + 0.5) * scale)
        shrink = 1 / np.sqrt(1 + u * u + v * v)
        along_u, along_v, along_normal = self._axes[:, face]
        return np.asarray((u * shrink - along_u) ** 2 + (v * shrink - along_v) ** 2 + (shrink - along_normal) ** 2)


def _chord2(angle: float) -> float:
    """The squared chord of an angle in radians; -1 below no angle, more than any chord has beyond half a turn."""
    return -1.0 if angle < 0 else 5.0 if angle > np.pi else 4 * float(np.sin(angle / 2)) ** 2


def _circle(lat_deg: float, lon_deg: float, radius_m: float) -> Float64:
    """Longitudes and latitudes, (73, 2), on a circle: closed, counter-clockwise; longitudes go on past 180."""
    turn, angle, lat = -np.linspace(0, 2 * np.pi, 73), radius_m / EARTH_RADIUS_M, np.deg2rad(lat_deg)
    turn[-1] = 0.0
    sin = np.sin(lat) * np.cos(angle) + np.cos(lat) * np.sin(angle) * np.cos(turn)
    east = np.arctan2(
        np.sin(turn) * np.sin(angle), np.cos(lat) * np.cos(angle) - np.sin(lat) * np.sin(angle) * np.cos(turn)
    )
    return np.stack([lon_deg + np.rad2deg(east), np.rad2deg(np.arcsin(np.clip(sin, -1, 1)))], axis=1)
