"""WMS 1.1.1 and 1.3.0, as a provider of tiles.

The traps: 1.3.0 says CRS where 1.1.1 says SRS, and gives boxes in the order of axes that the authority of a CRS names, so
latitude first in EPSG:4326, while 1.1.1 always gives x first. Errors come with status 200, as XML where an image was requested.
"""

import logging
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

from cellcode.aerial.tiles.box_service import BoxService, crs_order
from cellcode.aerial.tiles.cache import cached
from cellcode.aerial.tiles.crs import WEB_MERCATOR, known_crs, northing_first
from cellcode.aerial.tiles.grid import Box
from cellcode.aerial.tiles.service import WORLD, Facts, with_environment
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.wms_capabilities import Capabilities, read_capabilities
from cellcode.aerial.tiles.xml_text import all_of, parse
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, RemoteError

logger = logging.getLogger(__name__)

_FORMATS = ("image/jpeg", "image/png", "image/webp")  # the first that the service has
_OURS = re.compile("service|request|version|layers|styles|format|[cs]rs|bbox|width|height|transparent", re.IGNORECASE)
# By these a service says that the request is wrong, and will be for every tile.
_WRONG = {"LayerNotDefined", "StyleNotDefined", "InvalidCRS", "InvalidSRS", "InvalidFormat", "MissingDimensionValue"}


class WmsTiles(BoxService):
    """A layer of a WMS, as a provider.

    Args:
        url: of the service with `LAYERS=` and, if it matters, `VERSION`, `STYLES`, `FORMAT`, `CRS` (or `SRS`) and whatever else
            the service wants; `{env:NAME}` stands for the value of an environment variable. Facts may follow as a fragment,
            as in `TemplateTiles`.
        facts: of the layer; they take precedence over what the service says, a fragment over them.
        client: that sends the requests; None: one of its own.

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
        offered = next((each for each in _FORMATS if each in found.formats), _FORMATS[0])
        self._format = self._given.get("format") or offered
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
        """An address with values of ours, and those of the user that do not conflict."""
        return f"{self._address}?{urlencode([*self._own, *values.items()], safe=':/,')}"

    def _capabilities(self) -> Capabilities:
        """What the service says; if it does not answer, what its address says."""
        values = {"SERVICE": "WMS", "REQUEST": "GetCapabilities"}
        if "version" in self._given:
            values["VERSION"] = self._given["version"]
        try:
            document = parse(self._client.get(self._request_url(values)).body, self._shown)
            return read_capabilities(document, self._given["layers"], self._shown)
        except UsageError:
            raise
        except InputError as error:
            if isinstance(error, RemoteError) and error.reason in ("private address", "bad address"):
                raise
            logger.warning("the capabilities of %s cannot be read (%s); its address is used as given", self.host, error)
            return Capabilities("", (), WORLD, None, (), "", "")

    def _choose_crs(self, offered: tuple[str, ...], bounds: Box) -> tuple[str, str]:
        """The name of the CRS to request, as the service spells it, and as rasterio does."""
        given = self._given.get("crs") or self._given.get("srs")
        names = (given,) if given else offered or (WEB_MERCATOR,)
        known = {name: crs for name in names if (crs := known_crs(name)) is not None}
        if not known:
            raise UsageError(f"{self._shown}: unknown reference systems ({', '.join(names)})")
        return min(known.items(), key=lambda pair: crs_order(pair[1], bounds))

    def _refuse(self, body: bytes) -> None:
        """Raise what an exception says."""
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
