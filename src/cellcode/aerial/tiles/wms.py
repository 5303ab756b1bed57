"""WMS 1.1.1 and 1.3.0, as a provider of tiles.

The traps: 1.3.0 says CRS where 1.1.1 says SRS, and gives boxes in the order of axes that the authority of a CRS names, so
latitude first in EPSG:4326, while 1.1.1 always gives x first. Errors come with status 200, as XML where an image was requested.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree.ElementTree import Element

from cellcode.aerial.tiles.cache import cached
from cellcode.aerial.tiles.grid import WEB_MERCATOR, Box, known_crs, northing_first
from cellcode.aerial.tiles.service import WORLD, BoxService, Facts, crs_order, with_environment
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.xml_text import all_of, child, child_text, children, local, parse
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, RemoteError

logger = logging.getLogger(__name__)

_FORMATS = ("image/jpeg", "image/png", "image/webp")  # the first that the service has
_OURS = re.compile("service|request|version|layers|styles|format|[cs]rs|bbox|width|height|transparent", re.IGNORECASE)
# By these a service says that the request is wrong, and will be for every tile.
_WRONG = {"LayerNotDefined", "StyleNotDefined", "InvalidCRS", "InvalidSRS", "InvalidFormat", "MissingDimensionValue"}
_MAX_NESTED = 50  # layers within layers
_NOTHING = {"none", "no conditions apply", "no fees", "-", "n/a"}  # to say of access and fees


@dataclass(frozen=True)
class _Capabilities:
    """What a service says of one layer."""

    version: str
    crs: tuple[str, ...]  # names of the reference systems it renders, as it spells them; empty if it names none
    bounds: Box  # west, south, east, north in degrees
    max_px: int | None  # pixels along an image that it renders at most, None where it does not say
    formats: tuple[str, ...]
    attribution: str
    licence: str


class WmsTiles(BoxService):
    """A layer of a WMS, as a provider.

    Args:
        url: of the service with `LAYERS=` and, if it matters, `VERSION`, `STYLES`, `FORMAT`, `CRS` (or `SRS`) and whatever else
            the service wants; see `BoxService`.

    Raises:
        UsageError: no layer is named, or the service has none of this name, or no known reference system.
        RemoteError: it leads to a private address.
    """

    def __init__(self, url: str, facts: Facts | None = None, client: Client | None = None) -> None:
        super().__init__(url, facts, client)
        pairs = parse_qsl(urlsplit(with_environment(self._url)).query)
        self._given = {name.lower(): value for name, value in pairs}
        self._own = [pair for pair in pairs if not _OURS.fullmatch(pair[0])]
        self._check(self._address)
        if not self._given.get("layers"):
            raise UsageError(f"{self._shown} names no layer; write LAYERS=NAME in its query")
        found = self._capabilities()
        described = self._facts.completed(found.bounds, found.attribution, found.licence)
        self._version = self._given.get("version") or found.version or ("1.1.1" if "srs" in self._given else "1.3.0")
        offered = (each for each in _FORMATS if each in found.formats)
        self._format = self._given.get("format") or next(offered, _FORMATS[0])
        self._crs_name, crs = self._choose_crs(found.crs, described.bounds)
        self._swapped = self._version >= "1.3" and northing_first(crs)
        self._lay_out(crs, described, found.max_px)
        level = self.grid.levels[min(self.grid.levels)]
        rendered = (self._format, self._crs_name, self._side_px, level.left, level.top, level.span)
        self._name(f"wms {self._shown} {' '.join(map(str, rendered))}")

    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""
        left, bottom, right, top = self.grid.levels[z].box(x, y)
        box = (bottom, left, top, right) if self._swapped else (left, bottom, right, top)
        values = {
            "SERVICE": "WMS",
            "VERSION": self._version,
            "REQUEST": "GetMap",
            "LAYERS": self._given["layers"],
            "STYLES": self._given.get("styles", ""),
            "CRS" if self._version >= "1.3" else "SRS": self._crs_name,
            "BBOX": ",".join(f"{side:.10g}" if abs(side) < 360 else f"{side:.4f}" for side in box),
            "WIDTH": self._side_px,
            "HEIGHT": self._side_px,
            "FORMAT": self._format,
            "TRANSPARENT": "FALSE" if self._format == "image/jpeg" else "TRUE",
        }
        return self._request_url(values)

    def _request_url(self, values: Mapping[str, object]) -> str:
        return f"{self._address}?{urlencode([*self._own, *values.items()], safe=':/,')}"

    def _capabilities(self) -> _Capabilities:
        """What the service says; if it does not answer, what its address says."""
        values = {"SERVICE": "WMS", "REQUEST": "GetCapabilities"}
        if "version" in self._given:
            values["VERSION"] = self._given["version"]
        try:
            document = parse(self._client.get(self._request_url(values)).body, self._shown)
            return _read_capabilities(document, self._given["layers"], self._shown)
        except UsageError:
            raise
        except InputError as error:
            if isinstance(error, RemoteError) and error.reason in ("private address", "bad address"):
                raise
            logger.warning("the capabilities of %s cannot be read (%s); its address is used as given", self.host, error)
            return _Capabilities("", (), WORLD, None, (), "", "")

    def _choose_crs(self, offered: tuple[str, ...], bounds: Box) -> tuple[str, str]:
        given = self._given.get("crs") or self._given.get("srs")
        names = (given,) if given else offered or (WEB_MERCATOR,)
        known = {name: crs for name in names if (crs := known_crs(name)) is not None}
        if not known:
            raise UsageError(f"{self._shown}: unknown reference systems ({', '.join(names)})")
        return min(known.items(), key=lambda pair: crs_order(pair[1], bounds))

    def _refuse(self, body: bytes) -> None:
        if not body.lstrip().startswith(b"<") or b"Exception" not in body:
            return
        document = parse(body, self._shown)
        exceptions = all_of(document, "ServiceException") or all_of(document, "Exception") or [document]
        text = " ".join(" ".join(document.itertext()).split())[:300]
        code = exceptions[0].get("code") or exceptions[0].get("exceptionCode") or ""
        sentence = f"{self.host} says: {': '.join(filter(None, [code, text]))}"
        if code in _WRONG:
            raise InputError(f"{sentence}; correct {self._shown}")
        raise RemoteError(sentence, "service exception", 200, lasting=True)


def open_wms(address: str, facts: Facts | None = None, client: Client | None = None) -> TileSource:
    """Open a layer of a WMS; what is fetched is kept in the cache. See `WmsTiles`."""
    return cached(WmsTiles(address, facts, client))


def _read_capabilities(document: Element, layers: str, shown: str) -> _Capabilities:
    """What holds for the layers of a request, `A` or `A,B`; of several, the first is described."""
    service, capability = child(document, "Service"), child(document, "Capability")
    if service is None or capability is None:
        raise InputError(f"{shown} did not answer with the capabilities of a WMS")
    line = _line(capability, layers.split(",")[0])
    if not line:
        names = [child_text(each, "Name") for each in all_of(capability, "Layer")]
        some = ", ".join(sorted(filter(None, names))[:20])
        raise UsageError(f"{shown} has no layer {layers or '(none was named)'}; write LAYERS=..., one of {some}")
    # Servers before 1.1.1 list several in one element.
    named = [each.text or "" for layer in line for kind in ("CRS", "SRS") for each in children(layer, kind)]
    sizes = [child_text(service, name) for name in ("MaxWidth", "MaxHeight")]
    limits = [int(size) for size in sizes if size.isdigit() and int(size) > 0]
    terms = (child_text(service, name) for name in ("AccessConstraints", "Fees"))
    get_map = next(iter(all_of(capability, "GetMap")), None)
    return _Capabilities(
        version=document.get("version", ""),
        crs=tuple(dict.fromkeys(" ".join(named).split())),
        bounds=_bounds(line),
        max_px=min(limits, default=None),
        formats=tuple((each.text or "").strip() for each in children(get_map, "Format")) if get_map is not None else (),
        attribution=_attribution(line, service),
        licence="; ".join(text for text in terms if text and text.lower() not in _NOTHING),
    )


def _line(capability: Element, name: str) -> list[Element]:
    """The layer of a name, then those it lies in, which it inherits from; empty if there is none."""

    def search(element: Element, above: list[Element]) -> list[Element]:
        if len(above) > _MAX_NESTED:
            return []
        for layer in children(element, "Layer"):
            line = [layer, *above]
            if child_text(layer, "Name") == name:
                return line
            if below := search(layer, line):
                return below
        return []

    return search(capability, [])


def _bounds(line: list[Element]) -> Box:
    """The nearest box in degrees; both versions give it longitude first."""
    for layer in line:
        for box in layer:
            try:
                if local(box) == "EX_GeographicBoundingBox":
                    sides = ("westBoundLongitude", "southBoundLatitude", "eastBoundLongitude", "northBoundLatitude")
                    west, south, east, north = (float(child_text(box, side)) for side in sides)
                elif local(box) == "LatLonBoundingBox":
                    west, south, east, north = (float(box.get(side, "")) for side in ("minx", "miny", "maxx", "maxy"))
                else:
                    continue
            except ValueError:
                continue
            if west < east and south < north and abs(south) <= 90 and abs(north) <= 90:
                return max(west, -180.0), max(south, WORLD[1]), min(east, 180.0), min(north, WORLD[3])
    return WORLD


def _attribution(line: list[Element], service: Element) -> str:
    titles = (child_text(child(layer, "Attribution"), "Title") for layer in line)
    organisation = next((each.text or "" for each in all_of(service, "ContactOrganization")), "")
    return next(filter(None, titles), "") or organisation.strip() or child_text(service, "Title")
