"""Where the rendered world lies, and its aerial image: lit, with its shadows, as a georeferenced GeoTIFF."""

from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio.enums import Resampling
from rasterio.windows import Window

from cellcode.files import write_bytes
from cellcode.geography import Region
from cellcode.simulation.scene import SHADOW_M, Scene
from cellcode.types import Float64, UInt8

CRS = "EPSG:32631"
WEST_M, SOUTH_M = 503_000, 5_761_000  # near 52.0 N 3.04 E


def to_degrees(size_m: int, x_m: Float64, y_m: Float64) -> tuple[Float64, Float64]:
    """Return latitude and longitude of points of a world; x to the east and y to the south of its north-west corner."""
    lon, lat = rasterio.warp.transform(CRS, "EPSG:4326", WEST_M + x_m, SOUTH_M + size_m - y_m)
    return np.asarray(lat, np.float64), np.asarray(lon, np.float64)


def convergence_deg(size_m: int, x_m: Float64, y_m: Float64) -> Float64:
    """Bearing of the raster's north at each point, clockwise from true north."""
    lat, lon = to_degrees(size_m, x_m, y_m)
    ahead_lat, ahead_lon = to_degrees(size_m, x_m, y_m - 100.0)
    return np.asarray(np.degrees(np.arctan2((ahead_lon - lon) * np.cos(np.radians(lat)), ahead_lat - lat)))


def outline(size_m: int, share: tuple[float, float, float, float] = (0, 0, 1, 1)) -> Region:
    """Return a world, or a rectangle of it: west, north, east and south as shares of the world's edge."""
    west, north, east, south = (each * float(size_m) for each in share)
    lat, lon = to_degrees(size_m, np.array([west, east, east, west]), np.array([south, south, north, north]))
    ring = [[float(b), float(a)] for a, b in zip(lat, lon, strict=True)]
    return Region.geojson({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})


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
    with rasterio.MemoryFile() as memory:  # GDAL ends the process (SIGSEGV) where a disk is full
        with memory.open(**profile) as raster:
            for first in range(0, size, STRIP):
                rows = slice(first, min(first + STRIP, size))
                window = Window(0, first, size, rows.stop - first)
                raster.write(render_strip(scene, rows).transpose(2, 0, 1), window=window)
            taken = scene.day.time.strftime("%Y:%m:%d %H:%M:%S")
            raster.update_tags(TIFFTAG_DATETIME=taken, TIFFTAG_COPYRIGHT=ATTRIBUTION, LICENCE=LICENCE)
            raster.build_overviews([2, 4, 8, 16], Resampling.average)
        write_bytes(path, memory.getbuffer())
