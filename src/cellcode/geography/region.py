"""Regions: boxes, polygons of GeoJSON and caps, and the cells whose centre lies in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from shapely.geometry.base import BaseGeometry

from cellcode.errors import InputError, UsageError
from cellcode.files import read_json
from cellcode.geography import s2
from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m, wrap_lon

Float64 = npt.NDArray[np.float64]
MAX_CELLS = 200_000_000
_WORLD = shapely.box(-180, -90, 180, 90)


@dataclass(frozen=True)
class Region:
    """An area of the Earth.

    Edges of polygons are straight in longitude and latitude, as RFC 7946 defines them. `shape` lies within -180..180
    degrees: what crosses the antimeridian is cut there. Points on the boundary of a box or polygon belong to it.

    Attributes:
        shape: shapely geometry with x = longitude, y = latitude.
        cap: latitude, longitude and radius in metres, where the region is a cap; `shape` is then its bounding box.
    """

    shape: BaseGeometry
    cap_of: tuple[float, float, float] | None = None

    @classmethod
    def bbox(cls, west: float, south: float, east: float, north: float) -> Self:
        """Return a box; west > east crosses the antimeridian.

        Raises:
            UsageError: a coordinate is not on the globe, or south is above north.
        """
        named = {"west": west, "south": south, "east": east, "north": north}
        for name, value in named.items():
            limit = 180 if name in ("west", "east") else 90
            if not abs(value) <= limit:  # also true for NaN
                raise UsageError(f"region: {name} is {value}, it must lie in -{limit}..{limit} degrees")
        if south >= north:
            raise UsageError(
                f"region: south ({south}) must be below north ({north}); the order is west,south,east,north"
            )
        if west == east or (west, east) == (180, -180):
            raise UsageError(f"region: west and east are both {west}; the box has no area")
        if west < east:
            return cls(shapely.box(west, south, east, north))
        parts = [shapely.box(a, south, b, north) for a, b in ((west, 180.0), (-180.0, east)) if a < b]
        return cls(shapely.union_all(parts))

    @classmethod
    def geojson(cls, source: dict[str, Any] | Path | str) -> Self:
        """Return the area of a GeoJSON object or file: polygons, also in collections and features, with holes.

        A ring whose longitudes leave -180..180, or jump by more than 180 degrees from one vertex to the next, crosses the
        antimeridian and is unrolled. A ring that closes only after a full turn around the Earth surrounds the pole on the
        side of its mean latitude.

        Raises:
            InputError: the file or object is no valid area; the sentence says why.
        """
        name = "GeoJSON region" if isinstance(source, dict) else str(source)
        value = source if isinstance(source, dict) else read_json(Path(source))
        polygons = list(_polygons(value, name))
        if not polygons:
            raise InputError(f"{name} holds no Polygon or MultiPolygon")
        shape = shapely.union_all([_unrolled(rings, name) for rings in polygons])
        if shape.is_empty or shape.area == 0:
            raise InputError(f"{name} has no area")
        return cls(shape)

    @classmethod
    def cap(cls, lat_deg: float, lon_deg: float, radius_m: float) -> Self:
        """Return the points within `radius_m` of a point (great-circle distance)."""
        if not (abs(lat_deg) <= 90 and abs(lon_deg) <= 180 and 0 < radius_m <= np.pi * EARTH_RADIUS_M):
            raise UsageError(f"region: no circle of {radius_m} m around {lat_deg}, {lon_deg}")
        reach_deg = np.rad2deg(radius_m / EARTH_RADIUS_M)
        south, north = lat_deg - reach_deg, lat_deg + reach_deg
        if south <= -90 or north >= 90:
            return cls(shapely.box(-180, max(south, -90), 180, min(north, 90)), (lat_deg, lon_deg, radius_m))
        half = np.rad2deg(np.arcsin(min(1.0, np.sin(np.deg2rad(reach_deg)) / np.cos(np.deg2rad(lat_deg)))))
        box = cls.bbox(float(wrap_lon(lon_deg - half)), south, float(wrap_lon(lon_deg + half)), north)
        return cls(box.shape, (lat_deg, lon_deg, radius_m))

    @classmethod
    def parse(cls, text: str | Path) -> Self:
        """Return the region of a command line: `west,south,east,north` in degrees, or the path of a GeoJSON file."""
        parts = str(text).split(",")
        if len(parts) == 4 and not Path(text).is_file():
            try:
                west, south, east, north = (float(part) for part in parts)
            except ValueError:
                raise UsageError(f"region {text!r}: west,south,east,north must be four numbers") from None
            return cls.bbox(west, south, east, north)
        if not Path(text).is_file():
            raise UsageError(f"region {str(text)!r} is neither west,south,east,north in degrees nor a GeoJSON file")
        return cls.geojson(Path(text))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees; west > east where the region lies across the antimeridian."""
        west, south, east, north = self.shape.bounds
        parts = [part.bounds for part in getattr(self.shape, "geoms", [self.shape])]
        left = [p[2] for p in parts if p[0] == -180 and p[2] < 180]
        right = [p[0] for p in parts if p[2] == 180 and p[0] > -180]
        if left and right and not any(p[0] == -180 and p[2] == 180 for p in parts):
            eastern = [p for p in parts if p[0] >= 0]
            western = [p for p in parts if p[0] < 0]
            west, east = min(p[0] for p in eastern), max(p[2] for p in western)
        return float(west), float(south), float(east), float(north)

    def contains(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tell which points, (N,) degrees, lie in the region or on its boundary."""
        lat, lon = np.asarray(lat_deg, np.float64), wrap_lon(lon_deg)
        if self.cap_of is not None:
            return np.asarray(haversine_m(self.cap_of[0], self.cap_of[1], lat, lon) <= self.cap_of[2])
        inside = shapely.intersects_xy(self.shape, lon, lat)
        on_seam = np.abs(lon) == 180  # one meridian with two names
        if on_seam.any():
            inside = inside | (on_seam & shapely.intersects_xy(self.shape, -lon, lat))
        poles = np.abs(lat) == 90  # a pole has every longitude
        if poles.any():
            for pole in (-90.0, 90.0):
                if self.shape.intersects(shapely.LineString([(-180, pole), (180, pole)])):
                    inside = inside | (lat == pole)
        return np.asarray(inside)

    def cells(self, level: int) -> npt.NDArray[np.uint64]:
        """Return the sorted ids of the cells of `level` whose centre is in the region; (N,) uint64, N >= 1.

        Starts at the six faces and splits what may touch the region, so the cost follows the region's size.

        Raises:
            InputError: no cell has its centre there, or there would be more than MAX_CELLS.
        """
        estimate = self.count_estimate(level)
        if estimate > MAX_CELLS:
            raise InputError(
                f"the region has about {estimate:,} cells of level {level}, the limit is {MAX_CELLS:,}; choose a coarser "
                "level or a smaller region"
            )
        cells = np.array([(2 * face + 1) << 60 for face in range(6)], np.uint64)
        whole = []
        for depth in range(level):
            if depth >= 4 and depth % 2 == 0:  # testing every other level costs less than it saves at the others
                inside = self._covers(cells)
                whole.append(s2.descendants(cells[inside], level).ravel())
                cells = cells[~inside]
            cells = s2.children(cells).ravel()
            cells = cells[self._may_touch(cells)]
        found = np.concatenate([*whole, cells[self.contains(*s2.cell_centers(cells))]])
        if not len(found):
            raise InputError(f"no cell of level {level} has its centre in the region; it is smaller than a cell")
        return np.sort(found)

    def count_estimate(self, level: int) -> int:
        """Return about how many cells of `level` the region has, from its area; nothing is enumerated."""
        return round(self.area_m2() / (s2.mean_edge_m(level) ** 2))

    def area_m2(self) -> float:
        """Return the area on the sphere; edges are followed in steps of a hundredth of the region."""
        if self.cap_of is not None:
            return float(2 * np.pi * EARTH_RADIUS_M**2 * (1 - np.cos(self.cap_of[2] / EARTH_RADIUS_M)))
        # The sine of the latitude makes areas true (Lambert's cylindrical projection).
        step = max(self.shape.length / 400, 1e-7)
        flat = shapely.transform(
            shapely.segmentize(self.shape, step),
            lambda xy: np.stack([np.deg2rad(xy[:, 0]), np.sin(np.deg2rad(xy[:, 1]))], axis=1),
        )
        return float(flat.area * EARTH_RADIUS_M**2)

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON geometry; a cap becomes a polygon of 72 corners."""
        if self.cap_of is not None:
            lat, lon, radius = self.cap_of
            lats, lons = _circle(lat, lon, radius)
            return {"type": "Polygon", "coordinates": [np.stack([lons, lats], axis=1).tolist()]}
        # An edge of more than 180 degrees would be read as one across the antimeridian.
        value: dict[str, Any] = json.loads(shapely.to_geojson(shapely.segmentize(self.shape, 90)))
        return value

    def describe(self) -> str:
        """Return bounds and area in one line."""
        west, south, east, north = self.bounds
        return (
            f"west {west:.5f}, south {south:.5f}, east {east:.5f}, north {north:.5f} ({self.area_m2() / 1e6:.2f} km2)"
        )

    def _may_touch(self, cells: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """False only for cells that have no point in the region: by boxes of degrees around circumscribed circles."""
        lat, lon = s2.cell_centers(cells)
        reach_deg = _reach_deg(cells)
        if self.cap_of is not None:
            apart_m = haversine_m(self.cap_of[0], self.cap_of[1], lat, lon)
            return np.asarray(apart_m <= self.cap_of[2] + np.deg2rad(reach_deg) * EARTH_RADIUS_M)
        south, north = np.maximum(lat - reach_deg, -90), np.minimum(lat + reach_deg, 90)
        widest = np.maximum(np.abs(south), np.abs(north))
        # Near a pole a small circle reaches around it.
        ratio = np.sin(np.deg2rad(np.minimum(reach_deg, 90))) / np.maximum(np.cos(np.deg2rad(lat)), 1e-12)
        half = np.where((widest >= 90) | (ratio >= 1), 180, np.rad2deg(np.arcsin(np.minimum(ratio, 1))))
        west, east = np.where(half >= 180, -180, lon - half), np.where(half >= 180, 180, lon + half)
        shapely.prepare(self.shape)
        touches = shapely.intersects(self.shape, shapely.box(west, south, east, north))
        for shift, off in ((360, west < -180), (-360, east > 180)):
            if off.any():
                boxes = shapely.box(west[off] + shift, south[off], east[off] + shift, north[off])
                touches[off] |= shapely.intersects(self.shape, boxes)
        return np.asarray(touches)

    def _covers(self, cells: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """True only for cells with every point in the region."""
        lat, lon = s2.cell_centers(cells)
        reach_deg = _reach_deg(cells)
        if self.cap_of is not None:
            apart_m = haversine_m(self.cap_of[0], self.cap_of[1], lat, lon)
            return np.asarray(apart_m <= self.cap_of[2] - np.deg2rad(reach_deg) * EARTH_RADIUS_M)
        half = reach_deg / np.maximum(np.cos(np.deg2rad(np.minimum(np.abs(lat) + reach_deg, 89.9))), 1e-3)
        west, south, east, north = lon - half, lat - reach_deg, lon + half, lat + reach_deg
        on_map = (west > -180) & (east < 180) & (south > -89) & (north < 89)
        return np.asarray(on_map & shapely.contains_properly(self.shape, shapely.box(west, south, east, north)))


def _circle(lat_deg: float, lon_deg: float, radius_m: float) -> tuple[Float64, Float64]:
    """Points at a great-circle distance from a point, closed, counter-clockwise; longitudes go on past 180."""
    turn, angle, lat = -np.linspace(0, 2 * np.pi, 73), radius_m / EARTH_RADIUS_M, np.deg2rad(lat_deg)
    turn[-1] = 0.0
    sin = np.sin(lat) * np.cos(angle) + np.cos(lat) * np.sin(angle) * np.cos(turn)
    east = np.arctan2(np.sin(turn) * np.sin(angle) * np.cos(lat), np.cos(angle) - np.sin(lat) * sin)
    return np.rad2deg(np.arcsin(np.clip(sin, -1, 1))), lon_deg + np.rad2deg(east)


def _reach_deg(cells: npt.NDArray[np.uint64]) -> Float64:
    """Angle from the centre of a cell to its farthest point, at most; S2's largest diagonal is 2.44 / 2^level radians."""
    return np.rad2deg(1.25 * 2.0 ** -s2.levels(cells).astype(np.float64))


def _polygons(value: Any, name: str) -> list[list[Float64]]:
    """Collect the rings of every polygon in a GeoJSON value."""
    kind = value.get("type") if isinstance(value, dict) else None
    try:
        if kind == "Polygon":
            return [[_ring(ring, name) for ring in value["coordinates"]]]
        if kind == "MultiPolygon":
            return [[_ring(ring, name) for ring in polygon] for polygon in value["coordinates"]]
        if kind == "Feature":
            return _polygons(value["geometry"], name)
        if kind in ("FeatureCollection", "GeometryCollection"):
            parts = value["features" if kind == "FeatureCollection" else "geometries"]
            return [polygon for part in parts for polygon in _polygons(part, name)]
    except (KeyError, TypeError):
        raise InputError(f"{name}: its {kind} lacks coordinates, geometry or features") from None
    raise InputError(f"{name}: a region must be made of Polygon or MultiPolygon, not {kind}")


def _ring(points: Any, name: str) -> Float64:
    try:
        ring = np.array([[float(point[0]), float(point[1])] for point in points], np.float64)
    except (TypeError, ValueError, IndexError):
        raise InputError(f"{name}: a ring holds something that is not [longitude, latitude]") from None
    if len(ring) < 4 or not np.isfinite(ring).all():
        raise InputError(f"{name}: a ring needs at least four positions, all finite")
    if np.abs(ring[:, 1]).max() > 90:
        raise InputError(
            f"{name}: latitude {ring[np.abs(ring[:, 1]).argmax(), 1]} is not in -90..90 (longitude is first)"
        )
    if ring[0, 1] != ring[-1, 1] or (ring[0, 0] - ring[-1, 0]) % 360:
        raise InputError(f"{name}: a ring is not closed; its last position must repeat its first")
    if np.abs(ring[:, 0]).max() > 540:
        raise InputError(f"{name}: longitude {ring[np.abs(ring[:, 0]).argmax(), 0]} is not in -180..180")
    return ring


def _unrolled(rings: list[Float64], name: str) -> BaseGeometry:
    """Make a shape within -180..180 out of rings that may cross the antimeridian or surround a pole."""
    if not rings:
        raise InputError(f"{name}: a polygon has no rings")
    outer, *holes = [_continuous(ring) for ring in rings]
    shape = _simple(_around_pole(outer), name)
    # Cut out one by one, because rings around a pole are closed over it and touch there.
    for hole in holes:
        inner = _simple(_near(_around_pole(hole), outer), name)
        if not shape.intersects(inner) or not shapely.Polygon(_around_pole(outer)).covers(inner):
            raise InputError(f"{name}: a hole lies outside its polygon or in another hole")
        shape = shape.difference(inner)
    turns = [shapely.affinity.translate(shape, shift) for shift in (-720, -360, 0, 360, 720)]
    return shapely.union_all([shapely.intersection(turn, _WORLD) for turn in turns])


def _simple(ring: Float64, name: str) -> BaseGeometry:
    shape = shapely.Polygon(ring)
    if not shape.is_valid:
        raise InputError(f"{name}: {shapely.is_valid_reason(shape)}; a polygon must not cross itself")
    return shape


def _continuous(ring: Float64) -> Float64:
    """Take out jumps of the longitude by a full turn."""
    steps = np.diff(ring[:, 0])
    turns = np.cumsum(360 * np.round(np.where(np.abs(steps) > 180, steps, 0) / 360))
    return np.stack([ring[:, 0] - np.concatenate([[0], turns]), ring[:, 1]], axis=1)


def _around_pole(ring: Float64) -> Float64:
    """Close a ring that runs once around the Earth over the pole on its side."""
    turn = ring[-1, 0] - ring[0, 0]
    if abs(turn) < 180:
        return ring
    pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
    return np.concatenate([ring, [[ring[-1, 0], pole], [ring[0, 0], pole], ring[0]]])


def _near(hole: Float64, outer: Float64) -> Float64:
    """Shift a hole by full turns to where its outer ring was unrolled to."""
    shift = 360 * np.round((outer[:, 0].mean() - hole[:, 0].mean()) / 360)
    return np.asarray(hole + np.array([shift, 0.0]))
