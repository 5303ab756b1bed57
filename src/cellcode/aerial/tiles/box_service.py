"""Services that render any box (WMS, ArcGIS), requested by the boxes of a pyramid, so that what they render can be cached.

Web Mercator is used where a service has it. Elsewhere the pyramid is laid over the layer's box in the service's own
reference system; its corner is part of the cache's name, so that tiles of another corner are never mixed with these.
"""

import hashlib
import math
import re
from urllib.parse import urldefrag, urlsplit, urlunsplit

from cellcode.aerial.tiles.grid import WEB_MERCATOR, Box, Grid, Level, unit_m, web_mercator
from cellcode.aerial.tiles.service import Facts, ServiceTiles
from cellcode.errors import UsageError
from cellcode.http import Client

TILE_PX = 512  # a quarter of the requests that 256 would need; nearly every server renders it
FINEST_M = 0.05
_UTM = re.compile(r"EPSG:(?:258|326|327)(\d\d)")


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
        self.name = name
        self.identity = hashlib.sha256(f"{name} {self.date}".encode()).hexdigest()[:16]


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
