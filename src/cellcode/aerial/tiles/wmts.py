"""WMTS: tiles as a service's own capabilities describe them, by query (KVP) or by template (REST).

Nothing is assumed about a grid: corner, scales, tile sizes and limits are those of the document. Web Mercator is used where a
layer has it; any other reference system that PROJ knows does as well.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urldefrag, urlencode, urljoin, urlsplit, urlunsplit
from xml.etree.ElementTree import Element

from cellcode.aerial.tiles.cache import cached
from cellcode.aerial.tiles.grid import HALF_M, WEB_MERCATOR, Box, Grid, Level, known_crs, northing_first, unit_m
from cellcode.aerial.tiles.provider import MAX_TILE_PX
from cellcode.aerial.tiles.service import WORLD, Facts, ServiceTiles, with_environment
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.xml_text import all_of, child, child_text, parse
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, redact

_FORMATS = ("image/jpeg", "image/jpg", "image/jpgpng", "image/png", "image/webp")  # the first that a layer has
_PIXEL_M = 0.00028  # of a standardised rendering pixel, by which WMTS defines its scales
_OWN = {"tilematrixset", "tilematrix", "tilerow", "tilecol", "style"}


@dataclass(frozen=True)
class _Request:
    """How a tile is requested."""

    template: str  # of REST, empty for KVP
    address: str  # of KVP, with the parameters that the service's own address has
    values: dict[str, str]  # by name in lower case: style, tilematrixset and the dimensions
    layer: str
    image: str  # format
    kvp_names: dict[str, str]  # of the dimensions, as KVP spells them

    def url(self, matrix: str, row: int, column: int) -> str:
        numbers = {"tilematrix": matrix, "tilerow": str(row), "tilecol": str(column)}
        if self.template:
            values = self.values | numbers
            return re.sub(r"\{([^{}]*)\}", lambda found: quote(values[found[1].lower()], safe=":"), self.template)
        query = {"SERVICE": "WMTS", "REQUEST": "GetTile", "VERSION": "1.0.0", "LAYER": self.layer}
        query |= {"STYLE": self.values["style"], "FORMAT": self.image, "TILEMATRIXSET": self.values["tilematrixset"]}
        query |= {name.upper(): value for name, value in numbers.items()}
        query |= {shown: self.values[name] for name, shown in self.kvp_names.items()}
        return self.address + urlencode(query, safe=":/,")


@dataclass(frozen=True)
class _Matrices:
    """A TileMatrixSet as a pyramid, and the names of its levels."""

    name: str
    grid: Grid  # the levels are numbered from 0, or as web maps number them if the tiles are theirs
    names: dict[int, str]


class WmtsTiles(ServiceTiles):
    """A layer of a WMTS, as a provider.

    Args:
        url: of the capabilities, or of the service; the fragment names the layer (`#LAYER`, or `#LAYER@TILEMATRIXSET`); it may
            be left out where there is only one. `{env:NAME}` stands for the value of an environment variable.
        facts: of a preset; they take precedence over the document.

    Raises:
        UsageError: unknown layer or set; the sentence names the valid ones.
        InputError: the document cannot be used.
        RemoteError: it cannot be fetched.
    """

    def __init__(self, url: str, facts: Facts | None = None, client: Client | None = None) -> None:
        url, wanted = urldefrag(url)
        super().__init__(url, client)
        asked = with_environment(url)
        self._check(asked)
        document = parse(self._client.get(_capabilities_url(asked)).body, self._shown)
        if all_of(document, "ServiceException") or document.tag.endswith("ExceptionReport"):
            raise InputError(f"{self._shown} answers with an error: {' '.join(document.itertext()).strip()[:200]}")
        name, _, set_name = wanted.partition("@")
        layer = _layer(document, name, self._shown)
        self._matrices = _matrices(document, layer, set_name, self._shown)
        self.grid: Grid = self._matrices.grid
        self._request = request = _request(document, layer, self._matrices.name, asked)
        self._check(self.url(min(self.grid.levels), 0, 0))
        provider = child_text(child(document, "ServiceProvider"), "ProviderName")
        self._describe((facts or Facts()).completed(_bounds(layer), provider, _terms(document)))
        self.name = f"{self._shown}#{request.layer}@{self._matrices.name} {request.values} {request.image}"
        self.identity = hashlib.sha256(f"{self.name} {self.grid}".encode()).hexdigest()[:16]

    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""
        return self._request.url(self._matrices.names[z], y, x)


def open_wmts(address: str, facts: Facts | None = None, client: Client | None = None) -> TileSource:
    """Open a layer of a WMTS; what is fetched is kept in the cache. See `WmtsTiles`."""
    return cached(WmtsTiles(address, facts, client))


def _capabilities_url(url: str) -> str:
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if parts.path.lower().endswith(".xml") or any(name.lower() == "request" for name, _ in query):
        return url
    query += [("SERVICE", "WMTS"), ("REQUEST", "GetCapabilities"), ("VERSION", "1.0.0")]
    return urlunsplit(parts._replace(query=urlencode(query, safe=":/,")))


def _layer(document: Element, name: str, shown: str) -> Element:
    layers = {child_text(layer, "Identifier"): layer for layer in all_of(document, "Layer")}
    if not layers:
        raise InputError(f"{shown} is not a WMTS capabilities document: it has no layers")
    if not name and len(layers) == 1:
        return next(iter(layers.values()))
    if name not in layers:
        some = ", ".join(sorted(layers)[:20]) + (", ..." if len(layers) > 20 else "")
        raise UsageError(f"{shown} has no layer {name or '(none was named)'}; write #LAYER behind it, one of {some}")
    return layers[name]


def _matrices(document: Element, layer: Element, set_name: str, shown: str) -> _Matrices:
    """Return the layer's set of this name; else Web Mercator, the finest; else the first that can be read."""
    sets = {child_text(each, "Identifier"): each for each in document.iter() if each.tag.endswith("}TileMatrixSet")}
    links = {child_text(link, "TileMatrixSet"): link for link in all_of(layer, "TileMatrixSetLink")}
    if set_name and set_name not in links:
        raise UsageError(f"{shown}: the layer has no TileMatrixSet {set_name}; it has {', '.join(sorted(links))}")
    found, why = [], ""
    for name, link in links.items():
        if name not in sets or set_name not in ("", name):
            continue
        try:
            found.append(_read_matrices(name, sets[name], link, _bounds(layer)))
        except InputError as error:
            why = str(error)
    if not found:
        raise InputError(f"{shown}: none of the layer's TileMatrixSets can be used ({why or 'they are not described'})")
    mercator = [each for each in found if each.grid.crs == WEB_MERCATOR]
    return max(mercator, key=lambda each: len(each.grid.levels)) if mercator else found[0]


def _request(document: Element, layer: Element, set_name: str, url: str) -> _Request:
    image = _format(layer, redact(url))
    values, kvp_names = {"style": _style(layer), "tilematrixset": set_name}, {}
    for dimension in all_of(layer, "Dimension"):
        name = child_text(dimension, "Identifier")
        first = next((each.text or "" for each in all_of(dimension, "Value")), "")
        values[name.lower()] = child_text(dimension, "Default") or first
        kvp_names[name.lower()] = name
    rest = [
        each.get("template", "")
        for each in all_of(layer, "ResourceURL")
        if each.get("resourceType", "tile") == "tile" and each.get("format", image) == image
    ]
    known = set(values) | _OWN
    rest = [urljoin(url, each) for each in rest if set(map(str.lower, re.findall(r"\{([^{}]*)\}", each))) <= known]
    template, address = rest[0] if rest else "", _kvp_address(document, url)
    return _Request(template, address, values, child_text(layer, "Identifier"), image, kvp_names)


def _format(layer: Element, shown: str) -> str:
    offered = [each.text or "" for each in layer if each.tag.endswith("}Format")]
    for image in _FORMATS:
        if image in offered:
            return image
    raise InputError(f"{shown}: the layer comes as {', '.join(offered) or 'nothing'}; JPEG, PNG or WebP is required")


def _style(layer: Element) -> str:
    styles = [each for each in layer if each.tag.endswith("}Style")]
    styles.sort(key=lambda each: each.get("isDefault") != "true")
    return child_text(styles[0], "Identifier") if styles else "default"


def _kvp_address(document: Element, url: str) -> str:
    """Where GetTile is requested by query, with `?` or `&` at its end."""
    address = url
    for operation in all_of(document, "Operation"):
        if operation.get("name") != "GetTile":
            continue
        for get in all_of(operation, "Get"):
            encodings = {(each.text or "").upper() for each in all_of(get, "Value")}
            if not encodings or "KVP" in encodings:
                address = next((value for key, value in get.attrib.items() if key.endswith("href")), address)
                break
    parts = urlsplit(urljoin(url, address))
    pairs = [pair for pair in parse_qsl(parts.query) if pair[0].lower() not in ("service", "request", "version")]
    return urlunsplit(parts._replace(query="")) + "?" + "".join(f"{urlencode([pair])}&" for pair in pairs)


def _bounds(layer: Element) -> Box:
    """The layer's box in degrees, which is longitude first whatever the rest of the document does."""
    box = child(layer, "WGS84BoundingBox")
    try:  # without a box there are no numbers
        west, south = map(float, child_text(box, "LowerCorner").split())
        east, north = map(float, child_text(box, "UpperCorner").split())
    except ValueError:
        return WORLD
    if not (west < east and south < north and abs(south) <= 90 and abs(north) <= 90):
        return WORLD
    return max(west, -180.0), south, min(east, 180.0), north


def _terms(document: Element) -> str:
    """What the service says of access and fees, unless it says that there is nothing to say."""
    texts = [child_text(child(document, "ServiceIdentification"), name) for name in ("AccessConstraints", "Fees")]
    return "; ".join(text for text in texts if text and text.lower() != "none")


def _read_matrices(name: str, matrix_set: Element, link: Element, bounds: Box) -> _Matrices:
    """A set with the limits of a layer's link; of two orders of the axes, the one is right by which tiles lie in `bounds`.

    InputError: its reference system is not known, a number is damaged, or tiles lie outside the bounds in either order.
    """
    crs = _crs(name, text := child_text(matrix_set, "SupportedCRS"))
    limits = {child_text(each, "TileMatrix"): each for each in all_of(link, "TileMatrixLimits")}
    matrices = [each for each in matrix_set if each.tag.endswith("}TileMatrix")]
    if limits:
        matrices = [each for each in matrices if child_text(each, "Identifier") in limits]
    if not matrices:
        raise InputError(f"{name} has no levels")
    swapped = crs != WEB_MERCATOR and text.lower().startswith("urn:") and northing_first(crs)
    try:
        levels = _levels(name, matrices, limits, unit_m(crs), swapped)
        if (share := _share(levels, crs, bounds)) < 0.5:
            other = _levels(name, matrices, limits, unit_m(crs), not swapped)
            levels, share = max((levels, share), (other, _share(other, crs, bounds)), key=lambda pair: pair[1])
        if share == 0:
            raise InputError(f"{name}: its tiles lie outside the bounds of the layer")
    except (ValueError, OverflowError):
        raise InputError(f"{name} is damaged: a number in it cannot be read") from None
    ordered = sorted(levels, key=lambda each: -levels[each].span / (levels[each].tile_px or 1))
    numbers = _web_numbers(crs, [levels[each] for each in ordered]) or list(range(len(ordered)))
    grid = Grid(crs, {z: levels[each] for z, each in zip(numbers, ordered, strict=True)})
    return _Matrices(name, grid, dict(zip(numbers, ordered, strict=True)))


def _crs(name: str, text: str) -> str:
    # `urn:ogc:def:crs:EPSG::3857` and its relatives
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
        if (limit := limits.get(identifier)) is not None:
            columns = int(child_text(limit, "MinTileCol")), int(child_text(limit, "MaxTileCol")) + 1
            rows = int(child_text(limit, "MinTileRow")), int(child_text(limit, "MaxTileRow")) + 1
        if not (0 < span < math.inf and math.isfinite(left) and math.isfinite(top) and width <= MAX_TILE_PX):
            raise ValueError(f"{identifier} has no place or size")
        made[identifier] = Level(left, top, span, columns, rows, width)
    return made


def _share(levels: dict[str, Level], crs: str, bounds: Box) -> float:
    """Fraction of the bounds that the coarsest level covers; 1 where the bounds say nothing in this reference system."""
    grid = Grid(crs, dict(enumerate(levels.values())))
    return 1.0 if bounds == WORLD and grid.period is None else grid.covered(bounds)


def _web_numbers(crs: str, levels: list[Level]) -> list[int] | None:
    """The levels' numbers on the web, if they are levels of web maps: then a cache of them is an ordinary MBTiles file."""
    if crs != WEB_MERCATOR:
        return None
    numbers = [round(2 * HALF_M / level.span).bit_length() - 1 for level in levels]
    grid = Grid(crs, dict(zip(numbers, levels, strict=True)))
    return numbers if grid.is_mercator and len(set(numbers)) == len(numbers) else None
