"""Regions: boxes, polygons of GeoJSON, caps, sets of cells and their complements, and the cells whose centre lies in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from cellcode.errors import EmptyRegionError, InputError, UsageError
from cellcode.geography import s2
from cellcode.geography.distance import wrap_lon
from cellcode.geography.numbers import parse_number
from cellcode.geography.regions import countries, geojson, polygon
from cellcode.geography.regions.cap import CapArea
from cellcode.geography.regions.cell_set import CellsArea
from cellcode.geography.regions.polygon import PolygonArea
from cellcode.geography.s2 import ranges
from cellcode.types import Bools, Ids, Ranges

MAX_CELLS = 200_000_000
Area = PolygonArea | CapArea | CellsArea
_NAMES = re.compile(r"[^\W\d_]+(\s*\+\s*[^\W\d_]+)*")  # words of letters alone, joined by +


class Region:
    """An area of the Earth, or all of the Earth but an area.

    Edges of polygons are straight in longitude and latitude, as RFC 7946 defines them. Points on the boundary of an area
    belong to it, not to its complement. Regions do not change, and are equal when they are made of the same area.
    """

    def __init__(self, shape: BaseGeometry) -> None:
        """Make the region of a shapely geometry with x = longitude, y = latitude, within -180..180 degrees."""
        self._area: Area = PolygonArea(shape)
        self._inverted = False

    @classmethod
    def bbox(cls, west: float, south: float, east: float, north: float) -> Self:
        """Return a box; west > east crosses the antimeridian. UsageError: not on the globe, or south is above north."""
        return cls._of(polygon.box(west, south, east, north))

    @classmethod
    def geojson(cls, source: dict[str, Any] | Path | str) -> Self:
        """Return the area of a GeoJSON object or file: polygons, also in collections and features, with holes.

        A ring whose longitudes leave -180..180, or jump by more than 180 degrees from one vertex to the next, crosses the
        antimeridian. One that closes only after a full turn surrounds the pole on the side of its mean latitude.

        Raises:
            InputError: the file or object is no valid area; the sentence says why.
        """
        return cls._of(PolygonArea(geojson.read(source)))

    @classmethod
    def cap(cls, lat_deg: float, lon_deg: float, radius_m: float) -> Self:
        """Return the points within `radius_m` of a point (great-circle distance); see `CapArea`."""
        return cls._of(CapArea(lat_deg, lon_deg, radius_m))

    @classmethod
    def of_cells(cls, ids: npt.ArrayLike) -> Self:
        """Return the area of S2 cells, (N,) uint64 of any levels; they may overlap. See `CellsArea`."""
        return cls._of(CellsArea.of(ids))

    @classmethod
    def parse(cls, text: str | Path) -> Self:
        """Return the region of a command line.

        The forms are `west,south,east,north` in degrees (west > east crosses the antimeridian), the path of a GeoJSON file,
        `cap:LAT,LON,RADIUS_M` for the points within a distance of a point, `cells:TOKEN,TOKEN,...` or `cells:FILE`
        (a text file with one token per line) for S2 cells of any levels, and codes of countries (ISO 3166-1) and presets joined
        by `+`, such as `BE+DE+NL`; see `regions.countries`. `not:` before any of them means the rest of the Earth.

        Raises:
            UsageError: the text has none of these forms, or numbers out of range.
            InputError: the file that it names is no region.
        """
        return cls._of(*_parsed(str(text)))

    @overload
    @classmethod
    def of(cls, value: None) -> None: ...

    @overload
    @classmethod
    def of(cls, value: Region | Path | str) -> Region: ...

    @classmethod
    def of(cls, value: Region | Path | str | None) -> Region | None:
        """Return a region as it is, or that of a text or file as `parse` reads it; None stays None."""
        return value if isinstance(value, Region) or value is None else cls.parse(value)

    @classmethod
    def _of(cls, area: Area, inverted: bool = False) -> Self:
        region = cls.__new__(cls)
        region._area, region._inverted = area, inverted
        return region

    def complement(self) -> Self:
        """Return the rest of the Earth; also written `~region`. The complement of a complement is the original."""
        return self._of(self._area, not self._inverted)

    __invert__ = complement

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and (self._area, self._inverted) == (other._area, other._inverted)

    def __hash__(self) -> int:
        return hash((self._area, self._inverted))

    def __repr__(self) -> str:
        return f"<Region {self.describe()}>"

    @property
    def shape(self) -> BaseGeometry:
        """Shapely geometry, x = longitude and y = latitude, within -180..180 degrees, cut at the antimeridian.

        The region itself where it is made of polygons, else a box around it (of a complement: the world).
        """
        if not self._inverted:
            return self._area.shape
        return polygon.WORLD.difference(self._area.shape) if isinstance(self._area, PolygonArea) else polygon.WORLD

    @property
    def cap_of(self) -> tuple[float, float, float] | None:
        """Latitude, longitude and radius in metres, where the region is a cap."""
        if self._inverted or not isinstance(self._area, CapArea):
            return None
        return self._area.lat, self._area.lon, self._area.radius_m

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees; west > east where the region lies across the antimeridian.

        A complement has the bounds of the world.
        """
        return (-180.0, -90.0, 180.0, 90.0) if self._inverted else self._area.bounds

    def contains(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """Tell which points, (N,) degrees, lie in the region; longitudes may be given beyond 180."""
        inside = self._area.contains(np.asarray(lat_deg, np.float64), wrap_lon(lon_deg))
        return ~inside if self._inverted else inside

    def ranges(self, level: int) -> Ranges:
        """Return the cells of `level` whose centre is in the region as ranges of ids.

        Only cells on the boundary are looked at one by one, so the cost follows the length of the boundary. Returns (R, 2)
        uint64: first and last id, inclusive, of runs of cells without a gap; sorted, R >= 1. See `geography.ranges`.

        Raises:
            EmptyRegionError: no cell has its centre there.
            InputError: the boundary runs through too many cells.
        """
        found = self._area.ranges(level)
        if self._inverted:
            found = ranges.complement(found, level)
        if not len(found):
            raise EmptyRegionError(f"no cell of level {level} has its centre in the region; it is smaller than a cell")
        return found

    def cells(self, level: int) -> Ids:
        """Return the sorted ids, (N,), of the cells of `level` with their centre inside; InputError: none or over MAX_CELLS."""
        estimate = self.count_estimate(level)
        if estimate > MAX_CELLS:
            about = f"the region has about {estimate:,} cells of level {level}, the limit is {MAX_CELLS:,}"
            raise InputError(f"{about}; choose a coarser level or a smaller region")
        return ranges.expand(self.ranges(level), level)

    def count_estimate(self, level: int) -> int:
        """Return about how many cells of `level` the region has, from its area; nothing is enumerated."""
        return round(self.area_m2() / (s2.mean_edge_m(level) ** 2))

    def area_m2(self) -> float:
        """Return the area on the sphere; edges of polygons are followed in steps of a hundredth of the region."""
        area = self._area.area_m2()
        return max(s2.EARTH_AREA_M2 - area, 0.0) if self._inverted else area

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON geometry; the circle of a cap becomes one of 72 corners."""
        if self._inverted:
            return polygon.geojson_of(polygon.WORLD.difference(self._area.outline))
        return self._area.to_geojson()

    def describe(self) -> str:
        """Return bounds and area in one line, of a complement those of what is left out."""
        west, south, east, north = self._area.bounds
        text = f"west {west:.5f}, south {south:.5f}, east {east:.5f}, north {north:.5f}"
        return ("all but " if self._inverted else "") + f"{text} ({self._area.area_m2() / 1e6:.2f} km2)"


def _parsed(text: str) -> tuple[Area, bool]:
    inverted = text.strip().startswith("not:")
    rest = text.strip().removeprefix("not:").strip()
    if rest.startswith("cap:"):
        return CapArea(*_numbers(text, rest.removeprefix("cap:"), "cap:LAT,LON,RADIUS_M", 3)), inverted
    if rest.startswith("cells:"):
        return _cells(text, rest.removeprefix("cells:").strip()), inverted
    if Path(rest).is_file():
        return PolygonArea(geojson.read(Path(rest))), inverted
    if rest.count(",") == 3:
        return polygon.box(*_numbers(text, rest, "west,south,east,north", 4)), inverted
    if _NAMES.fullmatch(rest):
        return PolygonArea(countries.outline(rest)), inverted
    raise UsageError(
        f"region {text!r} is neither west,south,east,north in degrees nor a GeoJSON file, nor cap:LAT,LON,RADIUS_M, "
        "cells:TOKEN,..., cells:FILE or codes of countries such as BE+DE+NL; not: before any of them means the rest of the "
        "Earth"
    )


def _numbers(text: str, values: str, form: str, count: int) -> list[float]:
    try:
        numbers = [parse_number(value) for value in values.split(",")]
        if len(numbers) == count:
            return numbers
    except ValueError:
        pass
    raise UsageError(f"region {text!r}: {form} must be {'three' if count == 3 else 'four'} numbers")


def _cells(text: str, rest: str) -> CellsArea:
    if not Path(rest).is_file():
        try:
            return CellsArea.of(s2.from_tokens([token.strip() for token in rest.split(",")]))
        except InputError as error:
            raise UsageError(f"region {text!r}: {error}, and no file of tokens has that name") from None
    try:
        tokens = [line.strip() for line in Path(rest).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{rest} cannot be read as a text file with one cell token per line") from None
    if not tokens:
        raise InputError(f"{rest} holds no cell tokens; it must have one per line")
    try:
        return CellsArea.of(s2.from_tokens(tokens))
    except InputError as error:
        raise InputError(f"{rest}: {error}; the file must have one token per line") from None
