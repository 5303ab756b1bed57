"""Any aerial source as the tiles of web maps."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cellcode.aerial.protocol import AerialSource
from cellcode.aerial.tiles.grid import web_mercator
from cellcode.geography.distance import local_m

TILE_PX = 256
_GRID = web_mercator(0, 30)


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
