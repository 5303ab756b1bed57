"""The TileMatrixSet of a WMTS as a pyramid."""

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from cellcode.aerial.tiles.crs import WEB_MERCATOR, known_crs, northing_first, unit_m
from cellcode.aerial.tiles.grid import HALF_M, Box, Grid, Level
from cellcode.aerial.tiles.xml_text import all_of, child_text
from cellcode.errors import InputError

_PIXEL_M = 0.00028  # of a standardised rendering pixel, by which WMTS defines its scales


@dataclass(frozen=True)
class Matrices:
    """A pyramid and the names of its levels.

    Attributes:
        name: of the set.
        grid: the levels are numbered from 0, or as web maps number them if the tiles are theirs.
        names: of each level, as the service calls it.
    """

    name: str
    grid: Grid
    names: dict[int, str]


def read_matrices(name: str, matrix_set: Element, link: Element, bounds: Box) -> Matrices:
    """Read a TileMatrixSet with the limits that a layer's link gives.

    Args:
        bounds: of the layer in degrees: of two orders of the axes, the one by which the tiles lie there is right.

    Raises:
        InputError: its reference system is unknown, or its tiles are not square.
    """
    text = child_text(matrix_set, "SupportedCRS")
    crs = _crs(name, text)
    limits = {child_text(each, "TileMatrix"): each for each in all_of(link, "TileMatrixLimits")}
    matrices = [each for each in matrix_set if each.tag.endswith("}TileMatrix")]
    if limits:
        matrices = [each for each in matrices if child_text(each, "Identifier") in limits]
    if not matrices:
        raise InputError(f"{name} has no levels")
    swapped = crs != WEB_MERCATOR and text.lower().startswith("urn:") and northing_first(crs)
    try:
        levels = _levels(name, matrices, limits, unit_m(crs), swapped)
        if crs != WEB_MERCATOR and not _lie_in(levels, crs, bounds):
            other = _levels(name, matrices, limits, unit_m(crs), not swapped)
            levels = other if _lie_in(other, crs, bounds) else levels
    except ValueError:
        raise InputError(f"{name} is damaged: a number in it cannot be read") from None
    ordered = sorted(levels, key=lambda each: -levels[each].span / (levels[each].tile_px or 1))
    numbers = _web_numbers(crs, [levels[each] for each in ordered]) or list(range(len(ordered)))
    grid = Grid(crs, {z: levels[each] for z, each in zip(numbers, ordered, strict=True)})
    return Matrices(name, grid, dict(zip(numbers, ordered, strict=True)))


def _crs(name: str, text: str) -> str:
    """Name of a CRS as rasterio spells it, from `urn:ogc:def:crs:EPSG::3857` and its relatives."""
    code = re.search(r"(\w+):(?:[\d.]*:)?(\w+)$", text) or re.search(r"/def/crs/(\w+)/[\d.]+/(\w+)$", text)
    if code is None:
        raise InputError(f"{name} has the reference system {text or '(none)'}, which is malformed")
    crs = known_crs(f"{code[1].upper()}:{code[2]}")
    if crs is None:
        raise InputError(f"{name} has the reference system {text}, which PROJ does not know")
    return crs


def _levels(
    name: str, matrices: list[Element], limits: dict[str, Element], unit: float, swapped: bool
) -> dict[str, Level]:
    """Levels by name; `swapped`: corners are given as northing, easting."""
    made = {}
    for matrix in matrices:
        identifier = child_text(matrix, "Identifier")
        width, height = int(child_text(matrix, "TileWidth")), int(child_text(matrix, "TileHeight"))
        if width != height:
            raise InputError(f"{name}: tiles of {width} x {height} pixels are not square")
        corner = [float(part) for part in child_text(matrix, "TopLeftCorner").split()]
        left, top = corner[::-1] if swapped else corner
        span = float(child_text(matrix, "ScaleDenominator")) * _PIXEL_M / unit * width
        columns, rows = (0, int(child_text(matrix, "MatrixWidth"))), (0, int(child_text(matrix, "MatrixHeight")))
        limit = limits.get(identifier)
        if limit is not None:
            columns = int(child_text(limit, "MinTileCol")), int(child_text(limit, "MaxTileCol")) + 1
            rows = int(child_text(limit, "MinTileRow")), int(child_text(limit, "MaxTileRow")) + 1
        made[identifier] = Level(left, top, span, columns, rows, width)
    return made


def _lie_in(levels: dict[str, Level], crs: str, bounds: Box) -> bool:
    """Return True if the middle of a layer lies among the tiles of its coarsest level."""
    level = max(levels.values(), key=lambda each: each.span)
    left, bottom, right, top = Grid(crs, {0: level}).box(bounds)
    x, y = (left + right) / 2, (bottom + top) / 2
    return level.has(int((x - level.left) // level.span), int((level.top - y) // level.span))


def _web_numbers(crs: str, levels: list[Level]) -> list[int] | None:
    """The levels' numbers on the web, if they are levels of web maps: then a cache of them is an ordinary MBTiles file."""
    if crs != WEB_MERCATOR:
        return None
    numbers = [round(2 * HALF_M / level.span).bit_length() - 1 for level in levels]
    grid = Grid(crs, dict(zip(numbers, levels, strict=True)))
    return numbers if grid.is_mercator and len(set(numbers)) == len(numbers) else None
