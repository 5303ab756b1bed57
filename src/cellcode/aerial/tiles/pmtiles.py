"""Imagery of a region as one PMTiles file, which a map in a browser reads by ranges, without a tile server.

Only written: its Python reader is a hundred times slower than that of MBTiles.
"""

import io
import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image

from cellcode.aerial.missing import refuse_transient, summary
from cellcode.aerial.protocol import AerialSource
from cellcode.aerial.tiles.grid import web_mercator
from cellcode.errors import InputError, MissingExtraError, UsageError
from cellcode.files import atomic_path, locked
from cellcode.geography import Region
from cellcode.geography.distance import local_m
from cellcode.progress import Meter

logger = logging.getLogger(__name__)

MAX_ZOOM = 22
TILE_PX = 256
_QUALITY = 80
_GRID = web_mercator(0, MAX_ZOOM)
Key = tuple[int, int, int]


def export(
    source: AerialSource,
    region: Region | Path | str | None,
    out: Path | str,
    *,
    max_zoom: int = 17,
    min_zoom: int | None = None,
) -> int:
    """Write WebP tiles, transparent where there is no imagery, and return their number; coarser tiles are made of finer ones.

    Args:
        region: whose tiles are written; None: the source's footprint.
        max_zoom: of the tiles cut from the source; at 52 degrees zoom 17 has 0.7 m a pixel.
        min_zoom: None: eight less.

    Raises:
        UsageError: the zooms are not in order.
        InputError: there is no imagery in the region, or some of it could not be fetched but may be there later.
        MissingExtraError: the package pmtiles is not installed.
    """
    try:
        tile, writer = import_module("pmtiles.tile"), import_module("pmtiles.writer")
    except ImportError:
        raise MissingExtraError("pmtiles", "tiles", "writing PMTiles") from None
    min_zoom = max(0, max_zoom - 8) if min_zoom is None else min_zoom
    if not 0 <= min_zoom <= max_zoom <= MAX_ZOOM:
        raise UsageError(f"zooms {min_zoom} to {max_zoom} must ascend and lie in 0 to {MAX_ZOOM}")
    region = Region.of(region)
    shape = source.footprint().shape if region is None else region.shape
    shapely.prepare(shape)
    written = 0
    with locked(Path(out)), atomic_path(Path(out)) as temporary, temporary.open("wb") as file:
        archive = writer.Writer(file)
        with Meter("writing tiles", _count(shape, max_zoom)) as meter:

            def made(key: Key) -> Image.Image | None:
                nonlocal written
                if not _touches(shape, key):
                    return None
                if key[0] == max_zoom:
                    image = read_tile(source, *key)
                    meter.advance()
                else:
                    image = _joined([made(child) for child in _children(key)])
                if image is not None and key[0] >= min_zoom:
                    archive.write_tile(tile.zxy_to_tileid(*key), _webp(image))
                    written += 1
                return image

            made((0, 0, 0))
        refuse_transient(source.missing, f"{out} is not written; run this again, what was fetched is kept")
        if not written:
            raise InputError(f"there is no imagery in the region, {out} is not written")
        metadata = {"attribution": source.attribution, "licence": source.licence, "type": "baselayer"}
        archive.finalize(_header(tile, shape, min_zoom, max_zoom), metadata)
    masked = summary(source.missing)
    logger.info("%d tiles in %s%s", written, out, f"; masked: {masked}" if masked else "")
    return written


def read_tile(source: AerialSource, z: int, x: int, y: int, side_px: int = TILE_PX) -> Image.Image | None:
    """Cut one tile, RGBA; None where there is no imagery.

    A tile is a rectangle of latitudes and longitudes; in metres it is up to 0.7 % longer one way than the other. So a square
    over the longer side is read, and the tile is a part of it. The scale of the projection changes within a tile by less than
    a quarter of a pixel from zoom 12 on.
    """
    west, south, east, north = _GRID.degrees(_GRID.levels[z].box(x, y))
    lat, lon = (south + north) / 2, (west + east) / 2
    half_m = np.abs(np.array([local_m(lat, lon, lat, east)[0], local_m(lat, lon, north, lon)[1]]))
    size_m = 2 * float(half_m.max())
    crop = source.read(lat, lon, size_m, side_px)
    if not crop.mask.any():
        return None
    across, along = (float(half) / size_m * side_px for half in half_m)
    middle = side_px / 2
    image = Image.fromarray(np.dstack([crop.pixels, crop.mask * np.uint8(255)]))
    box = (middle - across, middle - along, middle + across, middle + along)
    return image.resize((side_px, side_px), Image.Resampling.BILINEAR, box)


def _count(shape: shapely.Geometry, zoom: int, key: Key = (0, 0, 0)) -> int:
    """How many tiles of a zoom touch a shape."""
    if not _touches(shape, key):
        return 0
    return 1 if key[0] == zoom else sum(_count(shape, zoom, child) for child in _children(key))


def _touches(shape: shapely.Geometry, key: Key) -> bool:
    z, x, y = key
    return bool(shape.intersects(shapely.box(*_GRID.degrees(_GRID.levels[z].box(x, y)))))


def _children(key: Key) -> list[Key]:
    """The four tiles below one: upper left, upper right, lower left, lower right."""
    z, x, y = key
    return [(z + 1, 2 * x + column, 2 * y + row) for row in (0, 1) for column in (0, 1)]


def _joined(children: list[Image.Image | None]) -> Image.Image | None:
    if not any(children):
        return None
    whole = Image.new("RGBA", (2 * TILE_PX, 2 * TILE_PX))
    for place, child in enumerate(children):
        if child is not None:
            whole.paste(child, (place % 2 * TILE_PX, place // 2 * TILE_PX))
    return whole.convert("RGBa").reduce(2).convert("RGBA")  # colours weighted with their alpha


def _webp(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=_QUALITY, method=1)  # the slower methods save little
    return out.getvalue()


def _header(tile: Any, shape: shapely.Geometry, min_zoom: int, max_zoom: int) -> dict[str, Any]:
    west, south, east, north = shape.bounds
    centre = {"lon": (west + east) / 2, "lat": (south + north) / 2}
    corners = {"min_lon": west, "min_lat": south, "max_lon": east, "max_lat": north}
    return {
        "tile_type": tile.TileType.WEBP,
        "tile_compression": tile.Compression.NONE,
        "center_zoom": (min_zoom + max_zoom) // 2,
        **{f"{name}_e7": round(degrees * 1e7) for name, degrees in corners.items()},
        **{f"center_{name}_e7": round(degrees * 1e7) for name, degrees in centre.items()},
    }
