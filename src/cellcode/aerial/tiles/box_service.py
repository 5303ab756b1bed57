"""Services that render any box (WMS, ArcGIS), asked for the boxes of a pyramid, so that what they render can be kept.

Web Mercator is taken where a service has it. Elsewhere the pyramid is laid over the layer's box in the service's own
reference system; its corner is part of the cache's name, so that tiles of another corner are never taken for these.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import replace

from rasterio.crs import CRS
from rasterio.errors import CRSError

from cellcode.aerial.tiles.grid import WEB_MERCATOR, Box, Grid, Level, web_mercator
from cellcode.aerial.tiles.provider import TileReply, Validators, decode
from cellcode.aerial.tiles.template import WORLD, Facts
from cellcode.errors import UsageError
from cellcode.http import Client, redact

TILE_PX = 512  # a quarter of the requests that 256 would need; nearly every server renders it
FINEST_M = 0.05
_METRES_PER_DEGREE = 111_320.0
_MERCATOR_CODES = {"3857", "900913", "3785", "102100", "102113"}
_UTM = re.compile(r"EPSG:(?:258|326|327)(\d\d)")
_ENVIRONMENT = re.compile(r"\{env:([^{}]+)\}")


def tile_px(limit: float | None) -> int:
    """Return the pixels along a tile, a power of two within what a server renders at once."""
    return min(TILE_PX, 2 ** int(math.log2(limit))) if limit and limit >= 1 else TILE_PX


def known_crs(name: str) -> str | None:
    """Return a CRS as rasterio takes it, the names of Web Mercator as one; None for what PROJ does not know."""
    authority, _, code = name.partition(":")
    if code in _MERCATOR_CODES:
        return WEB_MERCATOR
    if name.upper() in ("CRS:84", "OGC:CRS84"):
        return "OGC:CRS84"
    for candidate in (name, f"ESRI:{code}") if authority.upper() == "EPSG" else (name,):
        try:
            CRS.from_user_input(candidate)
        except CRSError:
            continue
        return candidate
    return None


def crs_order(crs: str, bounds: Box) -> tuple[int, float]:
    """Return a key by which the best CRS for a layer comes first.

    Web Mercator; then UTM on WGS 84 or ETRS89, the nearest zone; then degrees, whose pixels are not square; then the rest,
    which may lie on an old datum that PROJ carries over with an error of metres where its grid is not installed.
    """
    if crs == WEB_MERCATOR:
        return 0, 0.0
    utm = _UTM.fullmatch(crs)
    if utm is not None:
        middle_deg = (bounds[0] + bounds[2]) / 2
        return 1, abs(int(utm[1]) * 6 - 183 - middle_deg)
    return (2, 0.0) if Grid(crs, {}).period is not None else (3, 0.0)


def pyramid(crs: str, facts: Facts, side_px: int, shown: str) -> Grid:
    """Return the levels in which a service is asked.

    Args:
        facts: their zooms count in Web Mercator, their bounds elsewhere.
        shown: the service, for messages.

    Raises:
        UsageError: the layer's bounds are needed and not known.
    """
    if crs == WEB_MERCATOR:
        return web_mercator(facts.min_zoom, facts.max_zoom, side_px)
    left, bottom, right, top = Grid(crs, {}).box(facts.bounds)
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise UsageError(
            f"{shown}: its layer's bounds are not known; write #bounds=west,south,east,north behind the address"
        )
    found = CRS.from_user_input(crs)
    unit_m = _METRES_PER_DEGREE if found.is_geographic else float(found.linear_units_factor[1])
    side = max(right - left, top - bottom)
    count = 1 + max(0, math.ceil(math.log2(side * unit_m / (FINEST_M * side_px))))
    levels = {}
    for z in range(count):
        span = side / 2**z
        levels[z] = Level(
            left, top, span, (0, math.ceil((right - left) / span)), (0, math.ceil((top - bottom) / span)), side_px
        )
    return Grid(crs, levels)


def with_environment(url: str) -> str:
    """Return an address with `{env:NAME}` replaced by the value of the variable, which is where a key belongs.

    Raises:
        UsageError: a variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        if not os.environ.get(found[1]):
            raise UsageError(f"{redact(url)}: the environment variable {found[1]} is not set")
        return os.environ[found[1]]

    return _ENVIRONMENT.sub(value, url)


def fetch_rendered(
    client: Client, url: str, validators: Validators | None, refuse: Callable[[bytes], None]
) -> TileReply:
    """Fetch an image that a service renders.

    Args:
        refuse: told a body that is no image; raises what the service says in it, if it says anything.

    Raises:
        RemoteError: it cannot be had.
        InputError: the service says that it never will.
    """

    def check(body: bytes) -> None:
        try:
            decode(body)
        except ValueError:
            refuse(body)
            raise

    reply = client.get(url, headers=validators.headers() if validators else None, verify=check)
    version = Validators(reply.headers.get("ETag"), reply.headers.get("Last-Modified"))
    return TileReply(None if reply.not_modified else reply.body, version)


def filled(facts: Facts, bounds: Box, attribution: str, licence: str = "") -> Facts:
    """Return the facts, with what a service says of itself where nobody else has said anything."""
    return replace(
        facts,
        bounds=bounds if facts.bounds == WORLD else facts.bounds,
        attribution=facts.attribution or attribution,
        licence=facts.licence or licence,
    )
