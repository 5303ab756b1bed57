"""Areas bounded by edges that are straight in longitude and latitude, as RFC 7946 defines polygons."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.errors import UsageError
from cellcode.geography import s2
from cellcode.geography.distance import EARTH_RADIUS_M
from cellcode.geography.regions import covering
from cellcode.geography.regions.covering import Cells
from cellcode.geography.s2 import projection
from cellcode.types import Bools, Float64, Int64, Ranges

WORLD = shapely.box(-180, -90, 180, 90)
_PAD_DEG = 1e-9  # boxes around cells grow by this (0.1 mm), far above the rounding of degrees (1e-13) and of the tests
_BLOCK = 1 << 16  # pairs of a cell and an edge tested at a time


@dataclass(frozen=True)
class PolygonArea:
    """The points in or on a shapely geometry with x = longitude and y = latitude, within -180..180 degrees."""

    shape: BaseGeometry

    def __post_init__(self) -> None:
        shapely.prepare(self.shape)

    @property
    def outline(self) -> BaseGeometry:
        """The shape itself."""
        return self.shape

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north; west > east where the shape lies on both sides of the antimeridian."""
        return bounds_of(self.shape)

    def contains(self, lat: Float64, lon: Float64) -> Bools:
        """Tell which points lie in the shape or on its boundary."""
        inside = shapely.intersects_xy(self.shape, lon, lat)
        on_seam = np.abs(lon) == 180  # one meridian with two names
        if on_seam.any():
            inside = inside | (on_seam & shapely.intersects_xy(self.shape, -lon, lat))
        if (np.abs(lat) == 90).any():  # a pole has every longitude
            for pole in (-90.0, 90.0):
                if self.shape.intersects(shapely.LineString([(-180, pole), (180, pole)])):
                    inside = inside | (lat == pole)
        return np.asarray(inside)

    def ranges(self, level: int) -> Ranges:
        """Return the cells of `level` with their centre in the shape."""
        return covering.cover(EdgeSieve(self), level)

    def area_m2(self) -> float:
        """Return the area on the sphere; edges are followed in steps of a hundredth of the shape."""
        # The sine of the latitude makes areas true (Lambert's cylindrical projection).
        step = max(self.shape.length / 400, 1e-7)
        flat = shapely.transform(
            shapely.segmentize(self.shape, step),
            lambda xy: np.stack([np.deg2rad(xy[:, 0]), np.sin(np.deg2rad(xy[:, 1]))], axis=1),
        )
        return float(flat.area * EARTH_RADIUS_M**2)

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON geometry."""
        return geojson_of(self.shape)


def box(west: float, south: float, east: float, north: float) -> PolygonArea:
    """Return a box; west > east crosses the antimeridian. UsageError: not on the globe, or south is above north."""
    named = {"west": west, "south": south, "east": east, "north": north}
    for name, value in named.items():
        limit = 180 if name in ("west", "east") else 90
        if not abs(value) <= limit:  # also true for NaN
            raise UsageError(f"region: {name} is {value}, it must lie in -{limit}..{limit} degrees")
    if south >= north:
        raise UsageError(f"region: south ({south}) must be below north ({north}); the order is west,south,east,north")
    if west == east or (west, east) == (180, -180):
        raise UsageError(f"region: west and east are both {west}; the box has no area")
    if west < east:
        return PolygonArea(shapely.box(west, south, east, north))
    parts = [shapely.box(a, south, b, north) for a, b in ((west, 180.0), (-180.0, east)) if a < b]
    return PolygonArea(shapely.union_all(parts))


def bounds_of(shape: BaseGeometry) -> tuple[float, float, float, float]:
    """Return west, south, east, north in degrees; west > east where the shape lies across the antimeridian."""
    west, south, east, north = shape.bounds
    parts = [part.bounds for part in getattr(shape, "geoms", [shape])]
    left = [p[2] for p in parts if p[0] == -180 and p[2] < 180]
    right = [p[0] for p in parts if p[2] == 180 and p[0] > -180]
    if left and right and not any(p[0] == -180 and p[2] == 180 for p in parts):
        eastern = [p for p in parts if p[0] >= 0]
        western = [p for p in parts if p[0] < 0]
        west, east = min(p[0] for p in eastern), max(p[2] for p in western)
    return float(west), float(south), float(east), float(north)


def geojson_of(shape: BaseGeometry) -> dict[str, Any]:
    """Return a GeoJSON geometry that reads back as the same shape."""
    # An edge of more than 180 degrees would be read as one across the antimeridian.
    value: dict[str, Any] = json.loads(shapely.to_geojson(shapely.segmentize(shape, 90)))
    return value


class EdgeSieve:
    """Keeps, for every cell on the boundary, the edges that may run through it; its children meet no others."""

    def __init__(self, area: PolygonArea) -> None:
        self._area = area
        self._middle, self._half = _edges(area.shape)
        self._cell: Int64 | None = None  # (P,) pairs of a cell's row and an edge's, as of the last call
        self._edge = np.empty(0, np.int64)

    def sort(self, cells: Cells) -> tuple[Bools, Bools]:
        """Tell which cells lie inside and which boxes of cells meet an edge; see `covering.Sieve`."""
        face, i, j, _ = cells.place
        scale, count = 2.0**-cells.level, len(face)
        low, high = projection.boxes(face, np.stack([i, i + 1]) * scale, np.stack([j, j + 1]) * scale)
        center, reach = (low + high) / 2, (high - low) / 2 + _PAD_DEG
        if self._cell is None:
            pairs = [self._meeting(center, reach, np.full(self._middle.shape[1], row), None) for row in range(count)]
        else:
            # Blocks of parents become blocks of children.
            blocks = [slice(first, first + _BLOCK) for first in range(0, len(self._cell), _BLOCK)]
            children = ((4 * self._cell[part, None] + np.arange(4)).ravel() for part in blocks)
            edges = (np.repeat(self._edge[part], 4) for part in blocks)
            pairs = [self._meeting(center, reach, *both) for both in zip(children, edges, strict=True)]
        if pairs:
            self._cell, self._edge = (np.concatenate(column) for column in zip(*pairs, strict=True))
        on_edge = np.zeros(count, bool)
        on_edge[self._cell] = True
        # Rows are counted among the cells on the boundary from now on: their children come next.
        self._cell = (np.cumsum(on_edge) - 1)[self._cell]
        inside = ~on_edge
        inside[inside] = self._area.contains(center[1, inside], center[0, inside])
        return inside, on_edge

    def holds(self, cells: Cells) -> Bools:
        """Tell which cells have their centre in the area."""
        return self._area.contains(*s2.cell_centers(cells.ids))

    def _meeting(self, center: Float64, reach: Float64, cell: Int64, edge: Int64 | None) -> tuple[Int64, Int64]:
        """Return the pairs whose edge meets the cell's box: neither an axis nor the edge itself lies between them."""
        middle, half = (self._middle, self._half) if edge is None else (self._middle[:, edge], self._half[:, edge])
        reach, (x, y) = reach[:, cell], center[:, cell] - middle
        long, high = np.abs(half)
        meets = (np.abs(x) <= reach[0] + long) & (np.abs(y) <= reach[1] + high)
        meets &= np.abs(half[0] * y - half[1] * x) <= reach[0] * high + reach[1] * long
        return cell[meets], (np.flatnonzero(meets) if edge is None else edge[meets])


def _edges(shape: BaseGeometry) -> tuple[Float64, Float64]:
    """Return middles and half lengths, each (2, E) of longitude and latitude, of the edges of all rings.

    Edges along the antimeridian or a pole are left out: they run along the sides of cells, never through one.
    """
    parts = shapely.get_parts(shapely.get_parts(shape))  # a collection may hold a collection
    xy, ring = shapely.get_coordinates(
        shapely.get_rings(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]), return_index=True
    )
    edge = ring[1:] == ring[:-1]
    start, end = xy[:-1][edge], xy[1:][edge]
    limit = np.array([180, 90])
    inner = ~((start == end) & (np.abs(start) == limit)).any(axis=1)
    start, end = start[inner], end[inner]
    return ((start + end) / 2).T, ((end - start) / 2).T
