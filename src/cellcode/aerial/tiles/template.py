"""Tiles named by a template of addresses: XYZ, TMS, quadkeys, and whatever else has a number for level, column and row."""

import hashlib
import os
import re
from urllib.parse import urldefrag

from cellcode.aerial.tiles.cache import cached
from cellcode.aerial.tiles.grid import web_mercator
from cellcode.aerial.tiles.service import Facts, ServiceTiles
from cellcode.aerial.tiles.source import TileSource
from cellcode.errors import UsageError
from cellcode.http import Client, redact

_PLACE = re.compile(r"\{([^{}]*)\}")
_SWITCH = re.compile(r"\{switch:([^{}]+)\}")
# Names of the numbers, in lower case, as templates of many programs spell them.
_LEVEL, _COLUMN, _ROW = {"z", "zoom", "tilematrix"}, {"x", "tilecol"}, {"y", "tilerow"}
_FLIPPED, _QUADKEY = {"-y"}, {"quadkey", "q", "u"}


def is_template(spec: str) -> bool:
    """Return True if a text is an address with placeholders for a tile's numbers."""
    names = {name.lower() for name in _PLACE.findall(spec)}
    return "://" in spec and bool(names & (_LEVEL | _QUADKEY))


class TemplateTiles(ServiceTiles):
    """Tiles in Web Mercator behind a template, as a provider.

    Args:
        template: an address with `{z}`, `{x}` and `{y}` (counted from the north) or `{-y}` (from the south), or `{quadkey}`.
            `{s}` stands for one of a, b, c and `{switch:d,e}` for one of those that are named; `{r}` for `@2x`;
            `{env:NAME}` for the value of an environment variable, which is where a key belongs. The facts may follow it as
            a fragment: `#max_zoom=19&bounds=3,50,7,54&attribution=...`.
        facts: of the tiles; a fragment takes precedence over them.

    Raises:
        UsageError: the template has unknown or too few placeholders, or a variable is not set.
        RemoteError: it leads to a private address.
    """

    def __init__(self, template: str, facts: Facts | None = None, client: Client | None = None) -> None:
        template, fragment = urldefrag(template)
        super().__init__(template, client)
        self._template, facts = template, (facts or Facts()).updated(fragment, template)
        _check_places(template)
        self.grid = web_mercator(facts.min_zoom, facts.max_zoom, None)
        self._describe(facts)
        self._check(self.url(facts.min_zoom, 0, 0))
        self.name = redact(template)
        self.identity = hashlib.sha256(f"{self.name} {facts}".encode()).hexdigest()[:16]

    def url(self, z: int, x: int, y: int) -> str:
        """Return the address of a tile."""
        text = self._template.replace("{s}", "{switch:a,b,c}")
        # The same tile always from the same host, so that caches on the way can help.
        text = _SWITCH.sub(lambda found: found[1].split(",")[(x + y) % len(found[1].split(","))], text)
        return _PLACE.sub(lambda found: _value(found[1], z, x, y), text)


def open_template(address: str, facts: Facts | None = None, client: Client | None = None) -> TileSource:
    """Open tiles of a template; what is fetched is kept in the cache. See `TemplateTiles`."""
    return cached(TemplateTiles(address, facts, client))


def quadkey(z: int, x: int, y: int) -> str:
    """Return the digits by which some services name a tile: one per level, of its quarter."""
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
                f"{shown}: unknown placeholder {{{name}}}; use {{z}}, {{x}}, {{y}} or {{-y}}, {{quadkey}}, {{s}}, "
                "{switch:a,b}, {r}, {env:NAME}; a WMTS with further names is opened by its capabilities, wmts:URL#LAYER"
            )
    if not lower & _QUADKEY and not (lower & _LEVEL and lower & _COLUMN and lower & (_ROW | _FLIPPED)):
        raise UsageError(f"{shown} needs {{z}}, {{x}} and {{y}} (or {{-y}}), or {{quadkey}}")
