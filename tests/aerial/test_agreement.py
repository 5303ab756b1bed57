"""Crops of the same place agree whatever door they come through: one raster behind all of them, registered to 0.3 m.

The server renders every request with GDAL's warper, which has nothing in common with our code but PROJ. So does the oracle,
in a projection of true metres around the crop's centre. The displacement is measured by phase correlation.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.transform
import rasterio.warp
from PIL import Image
from rasterio.enums import Resampling
from rasterio.transform import Affine

from cellcode.aerial import AerialSource, open_source
from cellcode.aerial.tiles.arcgis import ArcGisTiles
from cellcode.aerial.tiles.cache import cache_folder, cached
from cellcode.aerial.tiles.provider import TileProvider
from cellcode.aerial.tiles.service import Facts
from cellcode.aerial.tiles.template import TemplateTiles
from cellcode.aerial.tiles.wms import WmsTiles
from cellcode.aerial.tiles.wmts import WmtsTiles
from cellcode.geography import distance
from cellcode.http import Client
from cellcode.types import Float64, UInt8

Box = tuple[float, float, float, float]
SIDE_PX, PIXEL_M = 1000, 0.3
SIZE_M, SIZE_PX, BEARING_DEG = 80.0, 128, 25.0
# Every source is within this of the oracle, so any two of them are within twice of each other, 0.3 m.
TOLERANCE_M = 0.15
PLACES = {
    "equator": ("EPSG:32631", 0.0003, 5.1),
    "52 north": ("EPSG:32631", 52.0, 5.1),
    "68 north": ("EPSG:32633", 68.0, 13.2),
    "34 south": ("EPSG:32719", -33.9, -70.4),
}


def displacement_px(image: Float64, reference: Float64) -> float:
    """How far one picture is displaced against another of the same size, by phase correlation, to a hundredth of a pixel."""
    window = np.outer(*(np.hanning(side) for side in image.shape))
    spectra = [np.fft.fft2((each - each.mean()) * window) for each in (image, reference)]
    cross = spectra[0] * spectra[1].conj()
    strength = np.abs(cross)
    # Only phases of waves that are there: the others are rounding.
    phases = np.where(strength > 1e-3 * strength.max(), cross / np.maximum(strength, 1e-12), 0)
    coarse = np.unravel_index(np.fft.ifft2(phases).real.argmax(), image.shape)
    # The inverse transform on a finer grid around the peak.
    near = [peak + np.arange(-1, 1.005, 0.01) for peak in coarse]
    waves = [
        np.exp(2j * np.pi * np.outer(at, np.fft.fftfreq(side))) for at, side in zip(near, image.shape, strict=True)
    ]
    fine = (waves[0] @ phases @ waves[1].T).real
    row, column = np.unravel_index(fine.argmax(), fine.shape)
    found = (near[0][row], near[1][column])
    return float(np.hypot(*(at - side * round(at / side) for at, side in zip(found, image.shape, strict=True))))


@dataclass(frozen=True)
class Ground:
    """A raster in the UTM zone of a place, and its pixels with a mask below them."""

    path: Path
    lat: float
    lon: float
    crs: str
    transform: Affine
    pixels: UInt8

    def render(self, crs: str, box: Box, width: int, height: int) -> UInt8:
        """Render a box of any CRS by GDAL, (height, width, 2): grey and mask."""
        left, bottom, right, top = box
        transform = Affine((right - left) / width, 0, left, 0, (bottom - top) / height, top)
        return self._warped(crs, transform, width, height)

    def oracle(self) -> Float64:
        """The crop, grey: square in true metres around its centre."""
        aeqd = f"+proj=aeqd +lat_0={self.lat!r} +lon_0={self.lon!r} +datum=WGS84 +units=m"
        half, step = SIZE_M / 2, SIZE_M / SIZE_PX
        turned = Affine.rotation(-BEARING_DEG) @ Affine.translation(-half, half) @ Affine.scale(step, -step)
        return self._warped(aeqd, turned, SIZE_PX, SIZE_PX)[..., 0].astype(np.float64)

    def _warped(self, crs: str, transform: Affine, width: int, height: int) -> UInt8:
        made = np.zeros((2, height, width), np.uint8)
        rasterio.warp.reproject(
            self.pixels,
            made,
            src_crs=self.crs,
            src_transform=self.transform,
            dst_crs=crs,
            dst_transform=transform,
            resampling=Resampling.bilinear,
            tolerance=0.03,  # pixels
        )
        return made.transpose(1, 2, 0)

    def bounds(self) -> Box:
        sides = rasterio.transform.array_bounds(*self.pixels.shape[1:], self.transform)
        west, south, east, north = rasterio.warp.transform_bounds(self.crs, "EPSG:4326", *sides)
        return west, south, east, north


@pytest.fixture(scope="module", params=PLACES)
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A COG of random blots of a few metres."""
    crs, lat, lon = PLACES[request.param]
    folder = tmp_path_factory.mktemp("ground")
    rng = np.random.default_rng(7)
    blots = Image.fromarray(rng.integers(0, 256, (SIDE_PX // 10, SIDE_PX // 10), dtype=np.uint8))
    pixels = np.asarray(blots.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))[None]
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", crs, [lon], [lat])
    half = SIDE_PX * PIXEL_M / 2
    transform = Affine(PIXEL_M, 0, x - half, 0, -PIXEL_M, y + half)
    profile = {"driver": "GTiff", "width": SIDE_PX, "height": SIDE_PX, "count": 1, "dtype": "uint8"}
    with rasterio.open(folder / "plain.tif", "w", **profile, crs=crs, transform=transform) as file:
        file.write(pixels)
    rasterio.shutil.copy(folder / "plain.tif", folder / "cog.tif", driver="COG", blocksize=256)
    seen = np.full((1, SIDE_PX, SIDE_PX), 255, np.uint8)
    return Ground(folder / "cog.tif", lat, lon, crs, transform, np.concatenate([pixels, seen]))


def _tile_box(z: int, x: int, y: int) -> Box:
    half = np.pi * 6_378_137
    side = 2 * half / 2**z
    return x * side - half, half - (y + 1) * side, (x + 1) * side - half, half - y * side


def _wmts(url: str, bounds: Box) -> bytes:
    west, south, east, north = bounds
    matrices = "".join(
        f"<TileMatrix><ows:Identifier>{z}</ows:Identifier><ScaleDenominator>{559082264.0287178 / 2**z!r}</ScaleDenominator>"
        "<TopLeftCorner>-20037508.342789244 20037508.342789244</TopLeftCorner><TileWidth>256</TileWidth>"
        f"<TileHeight>256</TileHeight><MatrixWidth>{2**z}</MatrixWidth><MatrixHeight>{2**z}</MatrixHeight></TileMatrix>"
        for z in range(14, 20)
    )
    return f"""<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1"><Contents>
    <Layer><ows:Identifier>ortho</ows:Identifier><ows:WGS84BoundingBox><ows:LowerCorner>{west} {south}</ows:LowerCorner>
    <ows:UpperCorner>{east} {north}</ows:UpperCorner></ows:WGS84BoundingBox><Format>image/png</Format>
    <TileMatrixSetLink><TileMatrixSet>web</TileMatrixSet></TileMatrixSetLink></Layer>
    <TileMatrixSet><ows:Identifier>web</ows:Identifier><ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>
    {matrices}</TileMatrixSet></Contents></Capabilities>""".encode()


def _wms(version: str, bounds: Box) -> bytes:
    """WMS 1.1.1 offers Web Mercator, 1.3.0 degrees only, so that the order of the axes counts."""
    west, south, east, north = bounds
    if version == "1.1.1":
        where = f'<SRS>EPSG:3857</SRS><LatLonBoundingBox minx="{west}" miny="{south}" maxx="{east}" maxy="{north}"/>'
    else:
        where = (
            f"<CRS>EPSG:4326</CRS><EX_GeographicBoundingBox><westBoundLongitude>{west}</westBoundLongitude><eastBoundLongitude>"
            f"{east}</eastBoundLongitude><southBoundLatitude>{south}</southBoundLatitude><northBoundLatitude>{north}"
            "</northBoundLatitude></EX_GeographicBoundingBox>"
        )
    return (
        f'<WMS version="{version}"><Service/><Capability><Request><GetMap><Format>image/png</Format></GetMap></Request>'
        f"<Layer>{where}<Layer><Name>ortho</Name></Layer></Layer></Capability></WMS>"
    ).encode()


def _route(ground: Ground, url: str) -> Callable[[str, dict[str, str]], bytes | None]:
    def picture(crs: str, box: Box, width: int, height: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(ground.render(crs, box, width, height), "LA").save(out, "PNG", compress_level=1)
        return out.getvalue()

    def wms(query: dict[str, str]) -> bytes:
        version = query["version"]
        if query["request"] == "GetCapabilities":
            return _wms(version, ground.bounds())
        a, b, c, d = map(float, query["bbox"].split(","))
        crs = query["srs" if version == "1.1.1" else "crs"]
        box = (b, a, d, c) if crs == "EPSG:4326" and version == "1.3.0" else (a, b, c, d)
        return picture(crs, box, int(query["width"]), int(query["height"]))

    def route(path: str, query: dict[str, str]) -> bytes | None:
        if path == "/wms":
            return wms(query)
        if path == "/wmts" and query["request"] == "GetCapabilities":
            return _wmts(url, ground.bounds())
        if path == "/wmts":
            key = (int(query["tilematrix"]), int(query["tilecol"]), int(query["tilerow"]))
            return picture("EPSG:3857", _tile_box(*key), 256, 256)
        if path == "/town/ImageServer":
            return b'{"maxImageWidth": 4000, "maxImageHeight": 4000}'
        if path == "/town/ImageServer/exportImage":
            a, b, c, d = map(float, query["bbox"].split(","))
            width, height = map(int, query["size"].split(","))
            return picture("EPSG:3857", (a, b, c, d), width, height)
        z, x, y = map(int, re.findall(r"\d+", path))
        return picture("EPSG:3857", _tile_box(z, x, y), 256, 256)

    return route


def _open(kind: str, ground: Ground, server: Any, client: Client) -> AerialSource:
    providers: dict[str, Callable[[], TileProvider]] = {
        "XYZ": lambda: TemplateTiles(server.url + "/{z}/{x}/{y}.png", Facts(max_zoom=19), client),
        "WMTS": lambda: WmtsTiles(f"{server.url}/wmts#ortho", None, client),
        "WMS 1.1.1": lambda: WmsTiles(f"{server.url}/wms?LAYERS=ortho&VERSION=1.1.1", None, client),
        "WMS 1.3.0": lambda: WmsTiles(f"{server.url}/wms?LAYERS=ortho&VERSION=1.3.0", None, client),
        "ArcGIS": lambda: ArcGisTiles(f"{server.url}/town/ImageServer", None, client),
    }
    if kind == "COG":
        return open_source(ground.path)
    if kind != "MBTiles":
        return cached(providers[kind]())
    # What a service's cache has become is an MBTiles file of its own.
    with cached(providers["XYZ"]()) as fetched:
        fetched.read(ground.lat, ground.lon, SIZE_M, SIZE_PX, BEARING_DEG)
    (kept,) = cache_folder().glob("*.mbtiles")
    server.route = lambda path, query: None
    return open_source(kept)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of GDAL, for the arrays
@pytest.mark.parametrize("kind", ["COG", "XYZ", "WMTS", "WMS 1.1.1", "WMS 1.3.0", "ArcGIS", "MBTiles"])
def test_crop_is_registered_with_the_oracle(kind: str, ground: Ground, tile_server: Any, hasty: Client) -> None:
    tile_server.route = _route(ground, tile_server.url)
    source = _open(kind, ground, tile_server, hasty)
    crop = source.read(ground.lat, ground.lon, SIZE_M, SIZE_PX, BEARING_DEG)
    assert crop.mask.all()
    apart_m = displacement_px(crop.pixels.mean(axis=-1), ground.oracle()) * SIZE_M / SIZE_PX
    assert apart_m < TOLERANCE_M


@pytest.mark.parametrize("move", [(0.05, 0.0), (-0.1, 0.12), (0.9, -0.6)])
def test_the_measure_finds_a_displacement_that_is_known(ground: Ground, move: tuple[float, float]) -> None:
    lat, lon = distance.offset(ground.lat, ground.lon, *move)
    crop = open_source(ground.path).read(float(lat), float(lon), SIZE_M, SIZE_PX, BEARING_DEG)
    apart_m = displacement_px(crop.pixels.mean(axis=-1), ground.oracle()) * SIZE_M / SIZE_PX
    assert apart_m == pytest.approx(np.hypot(*move), abs=0.02)
