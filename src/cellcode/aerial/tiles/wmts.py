"""WMTS: tiles as a service's own capabilities describe them, by query (KVP) or by template (REST).

Nothing is assumed about a grid: corner, scales, tile sizes and limits are those of the document. Web Mercator is used where a
layer has it; any other reference system that PROJ knows does as well.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, urldefrag, urlencode, urljoin, urlsplit, urlunsplit
from xml.etree.ElementTree import Element

from cellcode.aerial.tiles.cache import cached
from cellcode.aerial.tiles.crs import WEB_MERCATOR
from cellcode.aerial.tiles.grid import Box, Grid
from cellcode.aerial.tiles.service import WORLD, Facts, ServiceTiles, with_environment
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.wmts_grid import Matrices, read_matrices
from cellcode.aerial.tiles.xml_text import all_of, child, child_text, parse
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, redact

_FORMATS = ("image/jpeg", "image/jpg", "image/jpgpng", "image/png", "image/webp")  # the first that a layer has
_OWN = {"tilematrixset", "tilematrix", "tilerow", "tilecol", "style"}


@dataclass(frozen=True)
class Request:
    """How a tile is requested.

    Attributes:
        template: of REST, empty for KVP.
        address: of KVP, with the parameters that the service's own address has.
        values: by name in lower case: style, tilematrixset and the dimensions.
        layer, image: identifier and format.
        kvp_names: names of the dimensions as KVP spells them.
    """

    template: str
    address: str
    values: dict[str, str]
    layer: str
    image: str
    kvp_names: dict[str, str]

    def url(self, matrix: str, row: int, column: int) -> str:
        """Return the address of a tile."""
        numbers = {"tilematrix": matrix, "tilerow": str(row), "tilecol": str(column)}
        if self.template:
            values = self.values | numbers
            return re.sub(r"\{([^{}]*)\}", lambda found: quote(values[found[1].lower()], safe=":"), self.template)
        query = {"SERVICE": "WMTS", "REQUEST": "GetTile", "VERSION": "1.0.0", "LAYER": self.layer}
        query |= {"STYLE": self.values["style"], "FORMAT": self.image, "TILEMATRIXSET": self.values["tilematrixset"]}
        query |= {name.upper(): value for name, value in numbers.items()}
        query |= {shown: self.values[name] for name, shown in self.kvp_names.items()}
        return self.address + urlencode(query, safe=":/,")


class WmtsTiles(ServiceTiles):
    """A layer of a WMTS, as a provider.

    Args:
        url: of the capabilities, or of the service; the fragment names the layer (`#LAYER`, or `#LAYER@TILEMATRIXSET`); it may
            be left out where there is only one. `{env:NAME}` stands for the value of an environment variable.
        facts: of a preset; they take precedence over the document.
        client: that sends the requests; None: one of its own.

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
        self._describe((facts or Facts()).completed(_bounds(layer), _provider(document), _terms(document)))
        self.name = f"{self._shown}#{request.layer}@{self._matrices.name} {request.values} {request.image}"
        self.identity = hashlib.sha256(f"{self.name} {self.grid}".encode()).hexdigest()[:16]

    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""
        return self._request.url(self._matrices.names[z], y, x)


def open_wmts(address: str, facts: Facts | None = None, client: Client | None = None) -> TileSource:
    """Open a layer of a WMTS; what is fetched is kept in the cache. See `WmtsTiles`."""
    return cached(WmtsTiles(address, facts, client))


def _capabilities_url(url: str) -> str:
    """Complete the address of a service; one of a file or of the capabilities is used as given."""
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


def _matrices(document: Element, layer: Element, set_name: str, shown: str) -> Matrices:
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
            found.append(read_matrices(name, sets[name], link, _bounds(layer)))
        except InputError as error:
            why = str(error)
    if not found:
        raise InputError(f"{shown}: none of the layer's TileMatrixSets can be used ({why or 'they are not described'})")
    mercator = [each for each in found if each.grid.crs == WEB_MERCATOR]
    return max(mercator, key=lambda each: len(each.grid.levels)) if mercator else found[0]


def _request(document: Element, layer: Element, set_name: str, url: str) -> Request:
    image = _format(layer, redact(url))
    values, kvp_names = {"style": _style(layer), "tilematrixset": set_name}, {}
    for dimension in all_of(layer, "Dimension"):
        name = child_text(dimension, "Identifier")
        first = next((each.text or "" for each in all_of(dimension, "Value")), "")
        values[name.lower()] = child_text(dimension, "Default") or first
        kvp_names[name.lower()] = name
    layer_name = child_text(layer, "Identifier")
    rest = [
        each.get("template", "")
        for each in all_of(layer, "ResourceURL")
        if each.get("resourceType", "tile") == "tile" and each.get("format", image) == image
    ]
    known = set(values) | _OWN
    rest = [urljoin(url, each) for each in rest if set(map(str.lower, re.findall(r"\{([^{}]*)\}", each))) <= known]
    request = Request("", _kvp_address(document, url), values, layer_name, image, kvp_names)
    return replace(request, template=rest[0]) if rest else request


def _format(layer: Element, shown: str) -> str:
    offered = [each.text or "" for each in layer if each.tag.endswith("}Format")]
    image = next((each for each in _FORMATS if each in offered), None)
    if image is None:
        raise InputError(
            f"{shown}: the layer comes as {', '.join(offered) or 'nothing'}; JPEG, PNG or WebP is required"
        )
    return image


def _style(layer: Element) -> str:
    styles = [each for each in layer if each.tag.endswith("}Style")]
    default = [each for each in styles if each.get("isDefault") == "true"]
    return child_text((default or styles)[0], "Identifier") if styles else "default"


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
    own = [
        (name, value) for name, value in parse_qsl(parts.query) if name.lower() not in ("service", "request", "version")
    ]
    return urlunsplit(parts._replace(query="")) + "?" + "".join(f"{urlencode([pair])}&" for pair in own)


def _bounds(layer: Element) -> Box:
    """The layer's box in degrees, which is longitude first whatever the rest of the document does."""
    box = child(layer, "WGS84BoundingBox")
    try:
        west, south = map(float, child_text(box, "LowerCorner").split()) if box is not None else (WORLD[0], WORLD[1])
        east, north = map(float, child_text(box, "UpperCorner").split()) if box is not None else (WORLD[2], WORLD[3])
    except ValueError:
        return WORLD
    if not (west < east and south < north and abs(south) <= 90 and abs(north) <= 90):
        return WORLD
    return max(west, -180.0), south, min(east, 180.0), north


def _provider(document: Element) -> str:
    provider = child(document, "ServiceProvider")
    return child_text(provider, "ProviderName") if provider is not None else ""


def _terms(document: Element) -> str:
    """What the service says of access and fees, unless it says that there is nothing to say."""
    about = child(document, "ServiceIdentification")
    texts = [child_text(about, name) for name in ("AccessConstraints", "Fees")] if about is not None else []
    return "; ".join(text for text in texts if text and text.lower() != "none")
