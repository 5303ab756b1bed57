"""Pictures of the imagery: crops of cells, and tiles for the map."""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from cellcode.aerial import AerialSource, Crop
from cellcode.geography import s2
from cellcode.serving.problems import Problem
from cellcode.types import UInt8

TILE_PX = 256
QUALITY = 85
MISSING = 176  # grey of a crop where there is no imagery: black would look like a shadow
EQUATOR_M = 2 * math.pi * 6_378_137.0  # of the sphere of web mercator
CROP_CELLS = 2.0  # width of a crop in cell edges, so that surroundings show


class Imagery:
    """Cuts pictures out of an aerial source, in threads of its own.

    Args:
        source: north is up in everything that is cut from it.
        min_zoom, max_zoom: of tiles; coarser ones would read most of the source each.
    """

    def __init__(self, source: AerialSource, min_zoom: int, max_zoom: int) -> None:
        self.source, self.min_zoom, self.max_zoom = source, min_zoom, max_zoom
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="imagery")

    def cell(self, lat_deg: float, lon_deg: float, level: int, size_px: int) -> bytes:
        """Return a JPEG around a cell's centre.

        Raises:
            Problem: not_found, there is no imagery there.
        """
        return _jpeg(self.source.read(lat_deg, lon_deg, CROP_CELLS * s2.mean_edge_m(level), size_px))

    def tile(self, z: int, x: int, y: int) -> bytes:
        """Return a web-mercator tile as WebP, transparent where there is no imagery.

        It is cut as a square in metres at the scale of its centre. From there to the edge of a tile of zoom 12 the scale of the
        projection changes by at most 0.08 %, a tenth of a pixel; by half of that with each further zoom.

        Raises:
            Problem: not_found, there is no imagery there, or no such tile.
        """
        if not self.min_zoom <= z <= self.max_zoom or not (0 <= x < 2**z and 0 <= y < 2**z):
            raise Problem("not_found", f"there is no tile {z}/{x}/{y}")
        lon_deg = (x + 0.5) / 2**z * 360 - 180
        lat = math.atan(math.sinh(math.pi * (1 - 2 * (y + 0.5) / 2**z)))
        return _webp(self.source.read(math.degrees(lat), lon_deg, EQUATOR_M * math.cos(lat) / 2**z, TILE_PX))

    def close(self) -> None:
        """Let the threads end."""
        self.threads.shutdown(wait=False)


def _jpeg(crop: Crop) -> bytes:
    out = io.BytesIO()
    pixels = np.where(crop.mask[..., None], _seen(crop), np.uint8(MISSING))
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _webp(crop: Crop) -> bytes:
    pixels = _seen(crop)
    if not crop.mask.all():
        pixels = np.dstack([pixels, np.where(crop.mask, np.uint8(255), np.uint8(0))])
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", quality=QUALITY, method=1)  # the slower methods save little
    return out.getvalue()


def _seen(crop: Crop) -> UInt8:
    if not crop.mask.any():
        raise Problem("not_found", "there is no imagery here")
    return crop.pixels
