"""Tiles named by a template of addresses: XYZ, TMS, quadkeys, and whatever else has a number for level, column and row."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urldefrag, urlsplit

from cellcode.aerial.tiles.cache import cached
from cellcode.aerial.tiles.grid import Box, web_mercator
from cellcode.aerial.tiles.provider import TileProvider, TileReply, Validators, fetch_image
from cellcode.aerial.tiles.source import TileSource
from cellcode.errors import UsageError
from cellcode.http import Client, RemoteError, redact

WORLD: Box = (-180.0, -85.0511287798066, 180.0, 85.0511287798066)
MAX_ZOOM = (
    22  # where a template does not say how fine its tiles are; finer ones than there are are made of coarser ones
)
_PLACE = re.compile(r"\{([^{}]*)\}")
_SWITCH = re.compile(r"\{switch:([^{}]+)\}")
# Names of the numbers, in lower case, as templates of many programs spell them.
_LEVEL, _COLUMN, _ROW, _FLIPPED, _QUADKEY = (
    {"z", "zoom", "tilematrix"},
    {"x", "tilecol"},
    {"y", "tilerow"},
    {"-y"},
    {"quadkey", "q", "u"},
)
_OPTIONS = ("min_zoom", "max_zoom", "bounds", "attribution", "licence", "date")


def is_template(spec: str) -> bool:
    """Tell whether a text is an address with places for a tile's numbers."""
    names = {name.lower() for name in _PLACE.findall(spec)}
    return "://" in spec and bool(names & (_LEVEL | _QUADKEY))


@dataclass(frozen=True)
class Facts:
    """What a template does not say of its tiles.

    Attributes:
        min_zoom, max_zoom: the levels that the service has.
        bounds: west, south, east, north in degrees.
        attribution, licence: for the manifest of what is made from it.
        date: of the imagery, ISO 8601.
    """

    min_zoom: int = 0
    max_zoom: int = MAX_ZOOM
    bounds: Box = WORLD
    attribution: str = ""
    licence: str = ""
    date: str | None = None


class TemplateTiles(TileProvider):
    """Tiles in Web Mercator behind a template, as a provider.

    Args:
        template: an address with `{z}`, `{x}` and `{y}` (counted from the north) or `{-y}` (from the south), or `{quadkey}`.
            `{s}` stands for one of a, b, c and `{switch:d,e}` for one of those that are named; `{r}` for `@2x`;
            `{env:NAME}` for the value of an environment variable, which is where a key belongs. The facts may follow it as
            a fragment: `#max_zoom=19&bounds=3,50,7,54&attribution=...`.
        facts: of the tiles; a fragment goes before them.
        client: that asks; None: one of its own.

    Raises:
        UsageError: the template cannot be understood, or a variable is not set.
        RemoteError: it leads to a private address.
    """

    def __init__(self, template: str, facts: Facts | None = None, client: Client | None = None) -> None:
        template, fragment = urldefrag(template)
        facts = with_options(facts or Facts(), fragment, template)
        self._template, self._client = template, client or Client()
        _check_places(template)
        self.grid = web_mercator(facts.min_zoom, facts.max_zoom, None)
        self.bounds, self.attribution, self.licence, self.date = (
            facts.bounds,
            facts.attribution,
            facts.licence,
            facts.date,
        )
        self.name = redact(template)
        self.connections = self._client.politeness.connections
        self.identity = hashlib.sha256(f"{self.name} {facts}".encode()).hexdigest()[:16]
        first = self.url(facts.min_zoom, 0, 0)
        self.host = urlsplit(first).hostname or ""
        refuse_private(first, self._client)

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """See `TileProvider.fetch`."""
        return fetch_image(self._client, self.url(z, x, y), validators)

    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""
        text = self._template.replace("{s}", "{switch:a,b,c}")
        # The same tile always from the same host, so that caches on the way can help.
        text = _SWITCH.sub(lambda found: found[1].split(",")[(x + y) % len(found[1].split(","))], text)
        return _PLACE.sub(lambda found: _value(found[1], z, x, y), text)


def open_template(address: str, facts: Facts | None = None, client: Client | None = None) -> TileSource:
    """Open tiles of a template; what is fetched is kept in the cache. See `TemplateTiles`."""
    return cached(TemplateTiles(address, facts, client))


def refuse_private(url: str, client: Client) -> None:
    """Refuse a private address at once; a host that is only not known now may have its tiles in the cache."""
    try:
        client.check(url)
    except RemoteError as error:
        if error.lasting:
            raise


def quadkey(z: int, x: int, y: int) -> str:
    """Return the digits by which some services name a tile: one a level, of its quarter."""
    return "".join(str((x >> bit & 1) + 2 * (y >> bit & 1)) for bit in range(z - 1, -1, -1))


def _value(name: str, z: int, x: int, y: int) -> str:
    lower = name.lower()
    if lower in _LEVEL:
        return str(z)
    if lower in _COLUMN:
        return str(x)
    if lower in _ROW:
        return str(y)
    if lower in _FLIPPED:
        return str(2**z - 1 - y)
    if lower in _QUADKEY:
        return quadkey(z, x, y)
    return "@2x" if lower == "r" else os.environ[name.removeprefix("env:")]


def _check_places(template: str) -> None:
    names = [name for name in _PLACE.findall(template) if not name.startswith("switch:")]
    lower = {name.lower() for name in names}
    shown = redact(template)
    for name in names:
        if name.startswith("env:"):
            if not os.environ.get(name.removeprefix("env:")):
                raise UsageError(f"{shown}: the environment variable {name.removeprefix('env:')} is not set")
        elif name.lower() not in _LEVEL | _COLUMN | _ROW | _FLIPPED | _QUADKEY | {"s", "r"}:
            raise UsageError(
                f"{shown}: {{{name}}} is not known; use {{z}}, {{x}}, {{y}} or {{-y}}, {{quadkey}}, {{s}}, {{switch:a,b}}, "
                "{r}, {env:NAME}; a WMTS with further names is opened by its capabilities, wmts:URL#LAYER"
            )
    if not lower & _QUADKEY and not (lower & _LEVEL and lower & _COLUMN and lower & (_ROW | _FLIPPED)):
        raise UsageError(f"{shown} needs {{z}}, {{x}} and {{y}} (or {{-y}}), or {{quadkey}}")


def with_options(facts: Facts, fragment: str, template: str) -> Facts:
    """Put the options of a fragment in the place of the facts of the same name."""
    values = {name: getattr(facts, name) for name in _OPTIONS}
    for name, text in parse_qsl(fragment, keep_blank_values=True):
        if name not in _OPTIONS:
            raise UsageError(f"{redact(template)}: the option {name} is not known; there are {', '.join(_OPTIONS)}")
        try:
            if name == "bounds":
                west, south, east, north = (float(part) for part in text.split(","))
                values[name] = (west, south, east, north)
            else:
                values[name] = int(text) if name.endswith("zoom") else text
        except ValueError:
            wanted = "west,south,east,north in degrees" if name == "bounds" else "a whole number"
            raise UsageError(f"{redact(template)}: {name}={text} must be {wanted}") from None
    made = Facts(**values)
    west, south, east, north = made.bounds
    if not 0 <= made.min_zoom <= made.max_zoom <= 30:
        raise UsageError(f"{redact(template)}: zooms {made.min_zoom} to {made.max_zoom} must ascend and lie in 0 to 30")
    if not (abs(west) <= 180 and abs(east) <= 180 and -90 <= south < north <= 90 and west != east):
        raise UsageError(f"{redact(template)}: its bounds {made.bounds} are not west, south, east, north in degrees")
    return made
