"""How fast crops are cut: from a COG with a warp, and from tiles that are kept in a cache.

    python benchmarks/crops.py [--quick] [--json FILE]

A raster is rendered in UTM at 0.2 m with as much detail as an orthophoto has for JPEG, and the tiles of zoom 18 and coarser are
cut from it. Crops of 154 m to 256 pixels around the cells of level 16 are read in the order of the cells, as building a
database does. Rates are of CPU time, all threads together, so that a second core does not flatter them.
"""

import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.warp
import report
from PIL import Image
from rasterio.enums import Resampling
from rasterio.transform import from_bounds, from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from cellcode.aerial import AerialSource, read_crops
from cellcode.aerial.rasters.geotiff import GeoTiffSource
from cellcode.aerial.tiles.cache import CachedTiles
from cellcode.aerial.tiles.grid import web_mercator
from cellcode.aerial.tiles.mbtiles import MbTiles
from cellcode.aerial.tiles.provider import TileProvider, TileReply, Validators
from cellcode.aerial.tiles.source import TileSource
from cellcode.geography import s2
from cellcode.http import MissingError
from cellcode.types import Float64, UInt8

CRS, LEFT_M, TOP_M = "EPSG:32632", 500_000.0 + 34_000, 5_760_000.0  # near 52 degrees north
PIXEL_M, BLOCK_PX = 0.2, 2048
SIZE_M, SIZE_PX, LEVEL = 154.0, 256, 16
ZOOMS = (16, 18)
QUALITY = 80
ROUNDS = 5
TARGETS = {"COG in UTM, warped": 80.0, "MBTiles cache": 250.0}


def measure(folder: Path, quick: bool) -> list[report.Row]:
    """Render, cut tiles, and read crops from each."""
    side_px, rounds = (8192, 3) if quick else (16384, ROUNDS)
    raster = render(folder / "cog.tif", side_px)
    provider = Cut(raster)
    tiles = CachedTiles(provider, folder / "tiles.mbtiles")
    fill(tiles, provider)
    tiles.close()
    lat, lon = cells(raster)
    sources: dict[str, Callable[[], AerialSource]] = {
        "COG in UTM, warped": lambda: GeoTiffSource(raster),
        "MBTiles cache": lambda: TileSource(CachedTiles(provider, folder / "tiles.mbtiles")),
        "MBTiles file": lambda: TileSource(MbTiles(folder / "tiles.mbtiles")),
    }
    rows: list[report.Row] = []
    for name, opened in sources.items():
        for bearing_deg in (0.0, 30.0):
            rates = [rate(opened(), lat, lon, bearing_deg) for _ in range(rounds)]
            case = f"{name}{f', turned by {bearing_deg:g} degrees' if bearing_deg else ''}"
            row: report.Row = {"case": case, "value": statistics.median(rates), "unit": "crops per CPU-second"}
            if case in TARGETS:
                row["against"] = f"target {TARGETS[case]:g}; {min(rates):.0f} to {max(rates):.0f}"
            rows.append(row)
    rows.append({"case": "crops of a round", "value": float(len(lat)), "unit": "crops"})
    return rows


def rate(source: AerialSource, lat: Float64, lon: Float64, bearing_deg: float) -> float:
    """Crops per CPU-second, the source opened before."""
    started = time.process_time()
    crops = read_crops(source, lat, lon, size_m=SIZE_M, size_px=SIZE_PX, bearing_deg=bearing_deg)
    spent = time.process_time() - started
    assert crops.mask.mean() > 0.99
    return len(lat) / spent


def render(path: Path, side_px: int) -> Path:
    """Write a COG of noise at several scales: coarse for fields and roofs, fine for what JPEG has to work for."""
    rng = np.random.default_rng(0)
    plain = path.with_name("plain.tif")
    transform = from_origin(LEFT_M, TOP_M, PIXEL_M, PIXEL_M)
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "dtype": "uint8", "count": 3}
    with rasterio.open(plain, "w", width=side_px, height=side_px, crs=CRS, transform=transform, **options) as file:
        for row in range(0, side_px, BLOCK_PX):
            for column in range(0, side_px, BLOCK_PX):
                window = Window(column, row, BLOCK_PX, BLOCK_PX)
                file.write(np.moveaxis(_detail(rng), -1, 0), window=window)
    rasterio.shutil.copy(plain, path, driver="COG", compress="JPEG", quality=QUALITY, blocksize=512)
    plain.unlink()
    return path


def _detail(rng: np.random.Generator) -> UInt8:
    total = np.full((BLOCK_PX, BLOCK_PX, 3), 110.0, np.float32)
    for scale, strength in ((128, 40), (16, 20), (4, 12), (2, 8)):
        coarse = rng.normal(0, 1, (BLOCK_PX // scale, BLOCK_PX // scale)).astype(np.float32)
        grey = Image.fromarray(coarse).resize((BLOCK_PX, BLOCK_PX), Image.Resampling.BICUBIC)
        total += strength * np.asarray(grey)[..., None]
    return np.clip(total, 0, 255).astype(np.uint8)


class Cut(TileProvider):
    """A service in this process: tiles cut from the raster, so that nothing is measured but what is done with them."""

    def __init__(self, raster: Path) -> None:
        with rasterio.open(raster) as file:
            west, south, east, north = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        self.grid, self.bounds = web_mercator(*ZOOMS), (west, south, east, north)
        self.attribution, self.licence, self.identity, self.name = "", "", "cut", "cut"
        self.host, self.connections = "nowhere", 4
        self._file = WarpedVRT(rasterio.open(raster), crs="EPSG:3857", resampling=Resampling.bilinear)

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        """Cut and encode one tile."""
        left, bottom, right, top = self.grid.levels[z].box(x, y)
        if right < self._file.bounds.left or left > self._file.bounds.right:
            raise MissingError("outside", 404)
        options = {"transform": from_bounds(left, bottom, right, top, 256, 256), "width": 256, "height": 256}
        with WarpedVRT(self._file.src_dataset, crs="EPSG:3857", resampling=Resampling.average, **options) as tile:
            pixels = np.moveaxis(tile.read(), 0, -1)
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels[..., :3])).save(out, "JPEG", quality=QUALITY)
        return TileReply(out.getvalue())


def fill(tiles: CachedTiles, provider: Cut) -> None:
    """Put every tile of the raster into the cache."""
    left, bottom, right, top = provider.grid.box(provider.bounds)
    for z, level in provider.grid.levels.items():
        for x in range(int((left - level.left) // level.span), int((right - level.left) // level.span) + 1):
            for y in range(int((level.top - top) // level.span), int((level.top - bottom) // level.span) + 1):
                tiles.fetch(z, x, y)


def cells(raster: Path) -> tuple[Float64, Float64]:
    """Centres of the cells whose crop lies in the raster at any bearing, in their order."""
    with GeoTiffSource(raster) as source:
        ids = source.footprint().cells(LEVEL)
        lat, lon = s2.cell_centers(ids)
        with rasterio.open(raster) as file:
            x, y = (np.array(each) for each in rasterio.warp.transform("EPSG:4326", file.crs, lon, lat))
            margin_m = SIZE_M * 0.75
            inside = (x > file.bounds.left + margin_m) & (x < file.bounds.right - margin_m)
            inside &= (y > file.bounds.bottom + margin_m) & (y < file.bounds.top - margin_m)
    return lat[inside], lon[inside]


if __name__ == "__main__":
    report.run(__doc__, "a smaller raster, fewer rounds", measure)
