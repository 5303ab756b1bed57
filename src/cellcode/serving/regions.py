"""Regions of requests. Unlike a command line's, they never name files of the server."""

import json
from typing import Any

import shapely

from cellcode.errors import CellcodeError
from cellcode.geography import Region
from cellcode.serving.problems import Problem


def parse(
    value: list[float] | dict[str, Any] | str | None, max_vertices: int, bounds: tuple[float, float, float, float]
) -> Region | None:
    """Return the region of a request, cut to where there are cells.

    Args:
        value: [west, south, east, north], GeoJSON as an object or text, "west,south,east,north" or "cap:LAT,LON,RADIUS_M".
        max_vertices: of all rings together.
        bounds: west, south, east, north of the cells. A polygon is cut to them, because what a search of it costs follows its
            boundary, which a few vertices can draw across the Earth many times.

    Raises:
        Problem: region_invalid, with what is wrong, or region_empty, no cell can lie in it.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            return _cut(_of_text(value.strip(), max_vertices), bounds)
        if isinstance(value, dict):
            return _cut(_of_geojson(value, max_vertices), bounds)
        return _cut(_of_numbers(value), bounds)
    except CellcodeError as error:
        raise Problem("region_invalid", str(error)) from None
    except RecursionError:
        raise Problem("region_invalid", "the region is nested too deeply") from None


def _cut(region: Region, bounds: tuple[float, float, float, float]) -> Region:
    west, south, east, north = bounds
    if west > east or region.cap_of is not None:  # across the antimeridian; a cap has a short boundary
        return region
    margin = 0.01  # degrees: bounds are of cells' corners or centres, their edges bend
    box = shapely.box(west - margin, south - margin, east + margin, north + margin)
    parts = [part for part in shapely.get_parts(region.shape.intersection(box)) if part.area > 0]
    if not parts:
        raise Problem("region_empty", "no cell of the database lies in the region")
    return Region(shapely.union_all(parts))


def _of_text(text: str, max_vertices: int) -> Region:
    if text.startswith("{"):
        try:
            return _of_geojson(json.loads(text), max_vertices)
        except json.JSONDecodeError:
            raise Problem("region_invalid", "the region is not valid JSON") from None
    if text.startswith("cap:"):
        lat, lon, radius_m = _numbers(text.removeprefix("cap:"), 3, "cap:LAT,LON,RADIUS_M")
        return Region.cap(lat, lon, radius_m)
    return _of_numbers(_numbers(text, 4, "west,south,east,north"))


def _of_numbers(numbers: list[float]) -> Region:
    if len(numbers) != 4:
        raise Problem("region_invalid", f"the region has {len(numbers)} numbers, not west, south, east and north")
    return Region.bbox(*numbers)


def _of_geojson(value: Any, max_vertices: int) -> Region:
    if (found := _vertices(value)) > max_vertices:
        raise Problem("region_invalid", f"the region has {found} vertices, the limit is {max_vertices}; simplify it")
    return Region.geojson(value)


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise Problem("region_invalid", f"the region must be {form} in numbers, or GeoJSON")
    return numbers


def _vertices(value: Any) -> int:
    """Count lists of numbers anywhere in a GeoJSON value."""
    if isinstance(value, dict):
        return sum(_vertices(part) for part in value.values())
    if isinstance(value, list):
        return 1 if value and not isinstance(value[0], list | dict) else sum(_vertices(part) for part in value)
    return 0
