"""Coordinate reference systems as services name them, and pyramids of square tiles over them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import rasterio.warp
from rasterio.crs import CRS
from rasterio.enums import WktVersion
from rasterio.errors import CRSError

from cellcode.types import Float64

Box = tuple[float, float, float, float]
WEB_MERCATOR = "EPSG:3857"
METRES_PER_DEGREE = 111_319.49079327358  # by which WMTS defines the scales of degrees
_MERCATOR_CODES = {"3857", "900913", "3785", "102100", "102113"}
_WGS84 = "EPSG:4326"
_SPHERE_M = 6_378_137.0
HALF_M = math.pi * _SPHERE_M  # of the square world of Web Mercator
_EDGE_POINTS = 21  # per side, when a box is transformed to another reference system
_ROUNDING = 1e-6  # of a level's resolution


def known_crs(name: str) -> str | None:
    """Return a CRS, `AUTHORITY:CODE`, as rasterio spells it, Web Mercator under one name; None if PROJ does not know it."""
    if not re.fullmatch(
        r"(urn:ogc:def:crs:\w+:[\w.]*|\w+):\w+", name, re.ASCII
    ):  # a service may give an address or a path, which GDAL would read
        return None
    authority, _, code = name.upper().partition(":")
    if code in _MERCATOR_CODES:
        return WEB_MERCATOR
    if authority in ("OGC", "CRS") and code in ("84", "CRS84"):
        return "OGC:CRS84"
    for candidate in (name, f"ESRI:{code}") if authority == "EPSG" else (name,):
        try:
            CRS.from_user_input(candidate)
        except CRSError:
            continue
        return candidate
    return None


def unit_m(crs: str) -> float:
    """Return the metres of a unit of a CRS."""
    found = CRS.from_user_input(crs)
    return METRES_PER_DEGREE if found.is_geographic else float(found.linear_units_factor[1])


def northing_first(crs: str) -> bool:
    """Return True if the authority of a CRS names northing or latitude first; services that follow it swap the axes."""
    wkt = CRS.from_user_input(crs).to_wkt(version=WktVersion.WKT2_2019)
    axes = re.findall(r'AXIS\["[^"]*",\s*(\w+)', wkt)
    return bool(axes) and axes[0].lower() in ("north", "south")


@dataclass(frozen=True)
class Level:
    """One level of a pyramid."""

    left: float  # left and top: upper left corner of tile (0, 0), in units of the CRS
    top: float
    span: float  # side of a tile, in units of the CRS
    columns: tuple[int, int]  # and rows: the first tile and the one behind the last, counted from the upper left
    rows: tuple[int, int]
    tile_px: int | None = None  # pixels along a tile; None: found from the first tile

    def has(self, column: int, row: int) -> bool:
        """Return True if the tile exists."""
        return self.columns[0] <= column < self.columns[1] and self.rows[0] <= row < self.rows[1]

    def box(self, column: int, row: int) -> Box:
        """Left, bottom, right, top of a tile, in units of the CRS."""
        left, top = self.left + column * self.span, self.top - row * self.span
        return left, top - self.span, left + self.span, top

    @property
    def extent(self) -> Box:
        """Left, bottom, right, top of all tiles, in units of the CRS."""
        left, top = self.left + self.columns[0] * self.span, self.top - self.rows[0] * self.span
        return left, self.top - self.rows[1] * self.span, self.left + self.columns[1] * self.span, top


@dataclass(frozen=True)
class Grid:
    """A pyramid."""

    crs: str  # as rasterio spells it
    levels: Mapping[int, Level]  # by their number; a larger number is finer. The numbers need not be consecutive

    @cached_property
    def is_mercator(self) -> bool:
        """The tiles are those of Web Mercator, as maps on the web number them."""
        return self.crs == WEB_MERCATOR and all(
            math.isclose(level.left, -HALF_M, rel_tol=1e-6)
            and math.isclose(level.top, HALF_M, rel_tol=1e-6)
            and math.isclose(level.span, 2 * HALF_M / 2**z, rel_tol=1e-6)
            for z, level in self.levels.items()
        )

    @cached_property
    def period(self) -> float | None:
        """Units of the CRS once around the globe; None where x does not follow the longitude."""
        if self.crs == WEB_MERCATOR:
            return 2 * HALF_M
        return 360.0 if CRS.from_user_input(self.crs).is_geographic else None

    def xy(self, lat_deg: Float64, lon_deg: Float64) -> tuple[Float64, Float64]:
        """Transform degrees to the CRS; not finite where it is not defined."""
        if self.crs != WEB_MERCATOR:
            x, y = rasterio.warp.transform(_WGS84, self.crs, np.ravel(lon_deg), np.ravel(lat_deg))
            return np.array(x), np.array(y)
        with np.errstate(invalid="ignore", divide="ignore"):
            return _SPHERE_M * np.deg2rad(lon_deg), _SPHERE_M * np.arctanh(np.sin(np.deg2rad(lat_deg)))

    def lat_lon(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Transform positions in the CRS to degrees; longitudes are not wrapped."""
        if self.crs != WEB_MERCATOR:
            lon, lat = rasterio.warp.transform(self.crs, _WGS84, np.ravel(x), np.ravel(y))
            return np.array(lat), np.array(lon)
        return np.rad2deg(np.arctan(np.sinh(np.asarray(y) / _SPHERE_M))), np.rad2deg(np.asarray(x) / _SPHERE_M)

    def level_for(self, resolution: float, tile_px: int) -> int:
        """Return the coarsest level that is at least as fine as `resolution` (CRS units for each pixel), else the finest.

        `tile_px` are the pixels along a tile where a level has none.
        """
        for z in sorted(self.levels):
            level = self.levels[z]
            if level.span / (level.tile_px or tile_px) <= resolution * (1 + _ROUNDING):
                return z
        return max(self.levels)

    def degrees(self, box: Box) -> Box:
        """West, south, east, north in degrees of a box of the CRS."""
        lat, lon = self.lat_lon(*_outline(box))
        return max(float(lon.min()), -180.0), float(lat.min()), min(float(lon.max()), 180.0), float(lat.max())

    def covered(self, bounds: Box) -> float:
        """Return the fraction of a box in degrees that the coarsest level covers; 1 where the CRS is not defined there."""
        box, coarsest = self.box(bounds), max(self.levels.values(), key=lambda level: level.span)
        return share_in(box, coarsest.extent) if all(map(math.isfinite, box)) else 1.0

    def box(self, bounds: Box) -> Box:
        """Left, bottom, right, top in the CRS of a box in degrees; the whole breadth for one across 180 degrees."""
        west, south, east, north = bounds
        if west > east:
            west, east = -180.0, 180.0
        if self.crs == WEB_MERCATOR:
            south, north = max(south, -89.0), min(north, 89.0)
        lon, lat = _outline((west, south, east, north))
        x, y = self.xy(lat, lon)
        seen = np.isfinite(x) & np.isfinite(y)
        if not seen.any():
            return -math.inf, -math.inf, math.inf, math.inf
        return float(x[seen].min()), float(y[seen].min()), float(x[seen].max()), float(y[seen].max())


def share_in(box: Box, other: Box) -> float:
    """Return the fraction of a box that lies in another."""
    left, bottom, right, top = box
    across = min(right, other[2]) - max(left, other[0])
    along = min(top, other[3]) - max(bottom, other[1])
    return max(0.0, across) * max(0.0, along) / ((right - left) * (top - bottom))


def shown_box(box: Box) -> str:
    """Return a box for messages."""
    return ",".join(f"{side:.6g}" for side in box)


def web_mercator(min_zoom: int, max_zoom: int, tile_px: int | None = None) -> Grid:
    """Return the grid of maps on the web, y counted from the north."""
    zooms = range(min_zoom, max_zoom + 1)
    levels = {z: Level(-HALF_M, HALF_M, 2 * HALF_M / 2**z, (0, 2**z), (0, 2**z), tile_px) for z in zooms}
    return Grid(WEB_MERCATOR, levels)


def _outline(box: Box) -> tuple[Float64, Float64]:
    left, bottom, right, top = box
    along = np.linspace(0, 1, _EDGE_POINTS)
    one, zero = np.ones_like(along), np.zeros_like(along)
    x = left + (right - left) * np.concatenate([along, along, zero, one])
    return x, bottom + (top - bottom) * np.concatenate([zero, one, along, along])
