"""The aerial image: the scene's raster from above, lit and with its shadows, as a georeferenced GeoTIFF."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from cellcode.files import atomic_path
from cellcode.simulation.place import CRS, SOUTH_M, WEST_M
from cellcode.simulation.scene import SHADOW_M, Scene
from cellcode.types import UInt8

STRIP = 512
LICENCE, ATTRIBUTION = "CC0-1.0", "cellcode simulation (a rendered world)"


def render_strip(scene: Scene, rows: slice) -> UInt8:
    """Return rows of the orthophoto, (rows, size, 3) uint8, one metre a pixel."""
    day, size = scene.day, scene.world.size_m
    y = np.arange(rows.start, rows.stop) // SHADOW_M
    light = scene.light[y][:, np.arange(size) // SHADOW_M] * np.float32(scene.sun[2] * 1.1)
    sunlight, ambient = np.array(day.sunlight, np.float32), np.array(day.ambient, np.float32)
    lit = scene.colour[rows] * (ambient + light[..., None] * sunlight)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def write_aerial(scene: Scene, path: Path) -> None:
    """Write the orthophoto as a tiled GeoTIFF with overviews, its date and its terms."""
    size = scene.world.size_m
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8", "crs": CRS,
        "transform": rasterio.Affine(1, 0, WEST_M, 0, -1, SOUTH_M + size),
        "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": 90, "interleave": "pixel", "num_threads": "all_cpus",
    }  # fmt: skip
    with atomic_path(path) as temporary, rasterio.open(temporary, "w", **profile) as raster:
        for first in range(0, size, STRIP):
            rows = slice(first, min(first + STRIP, size))
            window = Window(0, first, size, rows.stop - first)
            raster.write(render_strip(scene, rows).transpose(2, 0, 1), window=window)
        raster.update_tags(
            TIFFTAG_DATETIME=scene.day.time.strftime("%Y:%m:%d %H:%M:%S"),
            TIFFTAG_COPYRIGHT=ATTRIBUTION,
            LICENCE=LICENCE,
        )
        raster.build_overviews([2, 4, 8, 16], Resampling.average)
