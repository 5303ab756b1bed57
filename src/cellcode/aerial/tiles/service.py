"""What services of tiles have in common: facts that a user or preset gives, environment variables in addresses, requests.

Services that render any box (WMS, ArcGIS) are requested by the boxes of a pyramid, so that what they render can be cached. Web
Mercator is used where a service has it. Elsewhere the pyramid is laid over the layer's box in the service's own reference
system; its corner is part of the cache's name, so that tiles of another corner are never mixed with these.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from urllib.parse import parse_qsl, urldefrag, urlsplit, urlunsplit

from cellcode.aerial.tiles.grid import WEB_MERCATOR, Box, Grid, Level, unit_m, web_mercator
from cellcode.aerial.tiles.provider import TileProvider, TileReply, Validators, decode
from cellcode.errors import UsageError
from cellcode.http import Client, MissingError, RemoteError, redact
from cellcode.http.client import Expected

WORLD: Box = (-180.0, -85.0511287798066, 180.0, 85.0511287798066)
MAX_ZOOM = 22  # where nothing says how fine the tiles are; a tile that is missing there is made of a coarser one
TILE_PX = 512  # of what is rendered: a quarter of the requests that 256 would need; nearly every server renders it
FINEST_M = 0.05
_UTM = re.compile(r"EPSG:(?:258|326|327)(\d\d)")
_ENVIRONMENT = re.compile(r"\{env:([^{}]+)\}")


@dataclass(frozen=True)
class Facts:
    """What an address does not say of its tiles."""

    min_zoom: int = 0  # to max_zoom: the levels that the service has
    max_zoom: int = MAX_ZOOM
    bounds: Box = WORLD  # west, south, east, north in degrees
    attribution: str = ""  # and licence: for the manifest of what is made from it
    licence: str = ""
    date: str | None = None  # of the imagery, ISO 8601

    def updated(self, fragment: str, url: str) -> Facts:
        """Return the facts with those of a fragment, `max_zoom=19&attribution=...`, in place of theirs, or raise UsageError."""
        shown, values = redact(url), asdict(self)
        for name, text in parse_qsl(fragment, keep_blank_values=True):
            if name not in values:
                raise UsageError(f"{shown}: unknown option {name}; valid options: {', '.join(values)}")
            try:
                if name == "bounds":
                    west, south, east, north = (float(part) for part in text.split(","))
                    values[name] = (west, south, east, north)
                else:
                    values[name] = int(text) if name.endswith("zoom") else text
            except ValueError:
                wanted = "west,south,east,north in degrees" if name == "bounds" else "a whole number"
                raise UsageError(f"{shown}: {name}={text} must be {wanted}") from None
        facts = Facts(**values)
        if not 0 <= facts.min_zoom <= facts.max_zoom <= 30:
            zooms = f"{facts.min_zoom} to {facts.max_zoom}"
            raise UsageError(f"{shown}: zooms {zooms} must be in ascending order and within 0 to 30")
        if not is_box(facts.bounds):
            raise UsageError(f"{shown}: the bounds {facts.bounds} are not west, south, east, north in degrees")
        return facts

    def completed(self, bounds: Box, attribution: str, licence: str = "") -> Facts:
        """Return the facts, those that nobody has given taken from what a service says of itself."""
        bounds = bounds if self.bounds == WORLD else self.bounds
        attribution, licence = self.attribution or attribution, self.licence or licence
        return replace(self, bounds=bounds, attribution=attribution, licence=licence)


class ServiceTiles(TileProvider):
    """Tiles that a service sends, each from an address of its own; without a client, through one of its own."""

    expect: Expected = "image"  # anything else is a temporary error, such as an error page with status 200

    def __init__(self, url: str, client: Client | None) -> None:
        self._client, self._shown = client or Client(), redact(url)
        self.connections = self._client.politeness.connections

    @abstractmethod
    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """See `TileProvider.fetch`. A tile is decoded once, so that a damaged one is requested again.

        An empty answer to every try is a missing tile. InputError: the service says that the request is wrong.
        """

        def check(body: bytes) -> None:
            try:
                decode(body)
            except ValueError:
                self._refuse(body)
                raise

        headers = validators.headers() if validators else None
        try:
            reply = self._client.get(self.url(z, x, y), headers=headers, expect=self.expect, verify=check)
        except RemoteError as error:
            if error.reason == "empty answer":
                raise MissingError(f"{error}", error.status or 200) from None
            raise
        version = Validators(reply.headers.get("ETag"), reply.headers.get("Last-Modified"))
        return TileReply(None if reply.not_modified else reply.body, version)

    def _describe(self, facts: Facts) -> None:
        self.bounds, self.date = facts.bounds, facts.date
        self.attribution, self.licence = facts.attribution, facts.licence

    def _check(self, url: str) -> None:
        """Take the host of a URL; refuse a private one. An unknown one is accepted: its tiles may be in the cache."""
        self.host = urlsplit(url).hostname or ""
        try:
            self._client.check(url)
        except RemoteError as error:
            if error.lasting:
                raise

    def _refuse(self, body: bytes) -> None:
        """Raise what the service says in a body that is no image, if it says anything."""


class BoxService(ServiceTiles):
    """A service that renders boxes, as a provider.

    Args:
        url: of the service; facts may follow as a fragment, `#bounds=...&date=...`, and `{env:NAME}` stands for the value of an
            environment variable.
        facts: of the layer; they take precedence over what the service says, a fragment over them.
    """

    expect = "any"  # an error comes as text with status 200, and says what is wrong

    def __init__(self, url: str, facts: Facts | None, client: Client | None) -> None:
        self._url, fragment = urldefrag(url)
        super().__init__(self._url, client)
        self._facts = (facts or Facts()).updated(fragment, self._url)
        self._address = urlunsplit(urlsplit(self._url)._replace(query=""))

    def _lay_out(self, crs: str, facts: Facts, max_px: float | None) -> None:
        """Take what is known of the layer, and lay a pyramid over it; `max_px` along an image are rendered at most."""
        self._side_px = min(TILE_PX, 2 ** int(math.log2(max_px))) if max_px and max_px >= 1 else TILE_PX
        self.grid: Grid = _pyramid(crs, facts, self._side_px, self._shown)
        self._describe(facts)

    def _name(self, name: str) -> None:
        self.name, self.identity = name, hashlib.sha256(f"{name} {self.date}".encode()).hexdigest()[:16]


def crs_order(crs: str, bounds: Box) -> tuple[int, float]:
    """Return a key by which the best CRS for a layer comes first.

    Web Mercator; then UTM on WGS 84 or ETRS89, the nearest zone; then degrees, whose pixels are not square; then the rest,
    which may lie on an old datum that PROJ transforms with an error of metres where its grid is not installed.
    """
    if crs == WEB_MERCATOR:
        return 0, 0.0
    utm = _UTM.fullmatch(crs)
    if utm is not None:
        return 1, abs(int(utm[1]) * 6 - 183 - (bounds[0] + bounds[2]) / 2)
    return (2, 0.0) if Grid(crs, {}).period is not None else (3, 0.0)


def _pyramid(crs: str, facts: Facts, side_px: int, shown: str) -> Grid:
    """The levels to request; the zooms of the facts count in Web Mercator, their bounds elsewhere."""
    if crs == WEB_MERCATOR:
        return web_mercator(facts.min_zoom, facts.max_zoom, side_px)
    left, bottom, right, top = Grid(crs, {}).box(facts.bounds)
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise UsageError(
            f"{shown}: unknown bounds of the layer; write #bounds=west,south,east,north behind the address"
        )
    side = max(right - left, top - bottom)
    levels = {}
    for z in range(1 + max(0, math.ceil(math.log2(side * unit_m(crs) / (FINEST_M * side_px))))):
        span = side / 2**z
        columns, rows = math.ceil((right - left) / span), math.ceil((top - bottom) / span)
        levels[z] = Level(left, top, span, (0, columns), (0, rows), side_px)
    return Grid(crs, levels)


def is_box(bounds: Box) -> bool:
    """Return True if bounds are a box in degrees; one across 180 degrees has its west east of its east."""
    west, south, east, north = bounds
    return abs(west) <= 180 and abs(east) <= 180 and -90 <= south < north <= 90 and west != east


def with_environment(url: str) -> str:
    """Return an address with `{env:NAME}`, where a key belongs, replaced by the variable; UsageError if it is not set."""

    def value(found: re.Match[str]) -> str:
        if not os.environ.get(found[1]):
            raise UsageError(f"{redact(url)}: the environment variable {found[1]} is not set")
        return os.environ[found[1]]

    return _ENVIRONMENT.sub(value, url)
