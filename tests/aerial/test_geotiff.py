import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp, Resampling

from cellcode.aerial.open import open_source
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.aerial.rasters.geotiff import GeoTiffSource, MosaicSource
from cellcode.errors import InputError, UsageError
from cellcode.geography import distance
from cellcode.types import Float64, UInt8

Write = Callable[..., Any]
PLACES = {
    "UTM 31 N": ("EPSG:32631", 48.85, 2.35),
    "UTM at the rim of its zone": ("EPSG:32631", 60.0, 0.001),
    "UTM 19 S": ("EPSG:32719", -33.45, -70.66),
    "web mercator": ("EPSG:3857", 48.85, 2.35),
    "web mercator far north": ("EPSG:3857", 65.0, -20.0),
    "degrees": ("EPSG:4326", 48.85, 2.35),
    "degrees far south": ("EPSG:4326", -60.0, -70.0),
}


def _grey(value: int, size: int = 256, bands: int = 3) -> UInt8:
    return np.full((bands, size, size), value, np.uint8)


def _brightness(pixels: UInt8) -> float:
    """By how much colours are too bright on average: red and blue of a ramp add up to 255."""
    return float((pixels[..., 0].astype(float) + pixels[..., 2] - 255).mean() / 2)


def _check(crop: Crop, columns: Float64, rows: Float64, tolerance: float) -> None:
    """Every pixel shows its place within `tolerance` pixels of the raster; on average far nearer, as rounding cancels."""
    assert crop.mask.all()
    bias = _brightness(crop.pixels)
    assert abs(bias) < 0.6
    for band, expected in ((0, columns), (1, rows)):
        error = crop.pixels[..., band] - expected - bias
        assert np.abs(error).max() < tolerance + 0.51  # 8 bits
        # Rounding to 8 bits does not cancel where pixels of crop and raster are of one size.
        assert abs(error.mean()) < tolerance / 5 + 0.15


@pytest.mark.parametrize("bearing", [0.0, 30.0, 90.0, 200.0, -45.0])
@pytest.mark.parametrize("name", PLACES)
def test_every_pixel_of_a_crop_shows_its_place_on_the_ground(
    name: str, bearing: float, write_ramp: Write, tmp_path: Path
) -> None:
    crs, lat, lon = PLACES[name]
    ramp = write_ramp(tmp_path / "a.tif", crs, lat, lon)
    with GeoTiffSource(ramp.path) as source:
        for size_m, size_px in ((80.0, 80), (60.0, 160), (85.0, 33)):
            # Half a pixel of the crop is 0.5 to 1.3 of the raster's; the mean must be within a tenth of that.
            half = size_m / size_px
            crop = source.read(lat, lon, size_m, size_px, bearing)
            assert crop.pixels.shape == (size_px, size_px, 3)
            assert (crop.pixels.dtype, crop.mask.dtype) == (np.uint8, np.bool_)
            _check(crop, *ramp.at(lat, lon, size_m, size_px, bearing), half)


@pytest.mark.parametrize("name", ["UTM 31 N", "web mercator", "degrees"])
def test_crop_away_from_the_middle_shows_its_place(name: str, write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", *PLACES[name])
    source = GeoTiffSource(ramp.path)
    for columns, rows in ((60.3, -55.8), (-61.1, 40.0), (-0.5, 63.9)):
        lat, lon = ramp.moved(columns, rows)
        _check(source.read(lat, lon, 40, 40, 15), *ramp.at(lat, lon, 40, 40, 15), 0.5)


def test_turned_raster_shows_its_place(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, turn_deg=25)
    crop = GeoTiffSource(ramp.path).read(48.85, 2.35, 60, 60, 70)
    _check(crop, *ramp.at(48.85, 2.35, 60, 60, 70), 0.5)


@pytest.mark.parametrize("size_px", [7, 16, 40])
@pytest.mark.parametrize("name", ["UTM 31 N", "degrees far south"])
def test_crop_much_coarser_than_the_raster_is_not_shifted(
    name: str, size_px: int, write_ramp: Write, tmp_path: Path
) -> None:
    crs, lat, lon = PLACES[name]
    ramp = write_ramp(tmp_path / "a.tif", crs, lat, lon)
    crop = GeoTiffSource(ramp.path).read(lat, lon, 80, size_px, 20)
    _check(crop, *ramp.at(lat, lon, 80, size_px, 20), 0.5 * 160 / size_px)


def test_crop_much_coarser_than_the_raster_is_antialiased(write_ramp: Write, tmp_path: Path) -> None:
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=np.stack([board] * 3))
    crop = GeoTiffSource(ramp.path).read(48.85, 2.35, 100, 16)
    assert np.abs(crop.pixels - 127.5).max() < 30


@pytest.mark.parametrize(("size", "tolerance_m"), [(250, 0.03), (900, 0.12)])
@pytest.mark.parametrize("name", ["UTM at the rim of its zone", "web mercator far north", "degrees far south"])
def test_large_crop_is_true_to_centimetres_in_all_its_parts(
    name: str, size: int, tolerance_m: float, write_ramp: Write, tmp_path: Path
) -> None:
    """The map between corners is projective; its error would show in the means over the parts of the crop."""
    crs, lat, lon = PLACES[name]
    ramp = write_ramp(tmp_path / "a.tif", crs, lat, lon, pixel_m=1.0, size=(size * 3 // 2,) * 2)
    crop = GeoTiffSource(ramp.path).read(lat, lon, size, size, 27)
    assert crop.mask.all()
    places = ramp.at(lat, lon, size, size, 27)
    # Where 255 jumps to 0 nothing can be told.
    clear = [(place % 256 > 1) & (place % 256 < 254) for place in places]
    bias = _brightness(crop.pixels[clear[0]])
    for band, place in enumerate(places):
        error = np.where(clear[band], crop.pixels[..., band] - place % 256 - bias, np.nan)
        assert np.nanmax(np.abs(error)) < 0.51 + tolerance_m
        parts = np.nanmean(error.reshape(5, size // 5, 5, size // 5), axis=(1, 3))
        assert np.abs(parts).max() < tolerance_m


def test_crop_is_as_bright_as_the_raster(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35)
    assert abs(_brightness(GeoTiffSource(ramp.path).read(48.85, 2.35, 60, 160, 30).pixels)) < 0.1


@pytest.mark.parametrize(("bearing", "brighter"), [(0, "north"), (90, "east"), (180, "south"), (270, "west")])
def test_top_of_a_crop_points_to_the_bearing(bearing: float, brighter: str, write_ramp: Write, tmp_path: Path) -> None:
    slope = np.arange(256, dtype=np.uint8)
    band = {"north": slope[::-1, None], "south": slope[:, None], "east": slope[None], "west": slope[None, ::-1]}[
        brighter
    ]
    pixels = np.broadcast_to(band, (3, 256, 256)).copy()
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 3.0, pixels=pixels)  # no convergence on this meridian
    crop = GeoTiffSource(ramp.path).read(48.85, 3.0, 80, 40, bearing).pixels[..., 0].astype(int)
    assert (np.diff(crop, axis=0) < 0).all(), "the top is brightest"
    assert np.ptp(crop, axis=1).max() <= 1


def test_bearings_a_turn_apart_are_the_same(write_ramp: Write, tmp_path: Path) -> None:
    source = GeoTiffSource(write_ramp(tmp_path / "a.tif", "EPSG:3857", 48.85, 2.35).path)
    first, second = source.read(48.85, 2.35, 60, 32, -90), source.read(48.85, 2.35, 60, 32, 270)
    np.testing.assert_array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize("name", ["UTM 31 N", "web mercator", "degrees"])
@pytest.mark.parametrize("bearing", [0.0, 33.0])
def test_mask_ends_where_the_raster_ends(name: str, bearing: float, write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", *PLACES[name], pixels=_grey(200))
    source = GeoTiffSource(ramp.path)
    for place in ((128, 0), (-128, 0), (0, 128), (0, -128), (120, 120), (-140, -130)):
        lat, lon = ramp.moved(*place)
        crop = source.read(lat, lon, 60, 60, bearing)
        columns, rows = ramp.at(lat, lon, 60, 60, bearing)
        depth = np.minimum.reduce([columns + 0.5, 255.5 - columns, rows + 0.5, 255.5 - rows])  # pixels from the rim
        clear = np.abs(depth) > 0.1
        np.testing.assert_array_equal(crop.mask[clear], depth[clear] > 0)
        assert 0 < crop.mask.mean() < 1
        assert (crop.pixels[~crop.mask] == 0).all()
        assert (crop.pixels[crop.mask] >= 199).all(), "colours must not fade at the rim"


def test_mask_of_a_coarse_crop_ends_where_the_raster_ends(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=_grey(200))
    lat, lon = ramp.moved(128, 0)
    crop = GeoTiffSource(ramp.path).read(lat, lon, 100, 20)
    columns, rows = ramp.at(lat, lon, 100, 20)
    depth = np.minimum.reduce([columns + 0.5, 255.5 - columns, rows + 0.5, 255.5 - rows])
    clear = np.abs(depth) > 5  # half a pixel of the crop
    np.testing.assert_array_equal(crop.mask[clear], depth[clear] > 0)
    assert (crop.pixels[crop.mask] >= 199).all()


@pytest.mark.parametrize("name", PLACES)
def test_crop_outside_is_empty(name: str, write_ramp: Write, tmp_path: Path) -> None:
    crs, lat, lon = PLACES[name]
    source = GeoTiffSource(write_ramp(tmp_path / "a.tif", crs, lat, lon, TIFFTAG_COPYRIGHT="x").path)
    for far_lat, far_lon in ((lat + 0.1, lon), (lat, lon + 1), (-lat, lon), (lat, lon - 90 if lon > 0 else lon + 90)):
        crop = source.read(far_lat, far_lon, 100, 12)
        assert crop.mask.shape == (12, 12)
        assert not crop.mask.any()
        assert not crop.pixels.any()


@pytest.mark.parametrize("name", PLACES)
def test_crop_on_the_other_side_of_the_earth_is_empty(name: str, write_ramp: Write, tmp_path: Path) -> None:
    crs, lat, lon = PLACES[name]
    source = GeoTiffSource(write_ramp(tmp_path / "a.tif", crs, lat, lon).path)
    for far_lat, far_lon in ((-lat, (lon + 360) % 360 - 180), (lat, (lon + 360) % 360 - 180), (lat, lon + 88)):
        crop = source.read(far_lat, far_lon, 100, 12)
        assert not crop.mask.any()
        assert not crop.pixels.any()


@pytest.mark.parametrize(("crs", "lat"), [("EPSG:4326", -17.0), ("EPSG:32760", -17.0), ("EPSG:32701", 0.0)])
def test_raster_across_the_antimeridian_is_read_from_both_sides(
    crs: str, lat: float, write_ramp: Write, tmp_path: Path
) -> None:
    ramp = write_ramp(tmp_path / "a.tif", crs, lat, 180.0 if crs != "EPSG:32701" else -180.0)
    source = GeoTiffSource(ramp.path)
    for lon in (180.0, -180.0, 179.9999, -179.9999):
        _check(source.read(lat, lon, 60, 60, 33), *ramp.at(lat, lon, 60, 60, 33), 0.5)
        assert source.covers([lat], [lon]).all()
    assert not source.covers([lat, lat], [0, 179.9]).any()
    west, _, east, _ = source.bounds
    assert 179.99 < west < 180
    assert -180 < east < -179.99


def test_nodata_is_no_imagery(write_ramp: Write, tmp_path: Path) -> None:
    pixels = _grey(120)
    pixels[:, :, 128:] = 0
    pixels[0, 20:30, 200:210] = 5  # nodata in two of three bands only: imagery
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=pixels, nodata=0)
    crop = GeoTiffSource(ramp.path).read(48.85, 2.35, 100, 100)
    columns, rows = ramp.at(48.85, 2.35, 100, 100)
    expected = (columns < 127.5) | ((columns > 199.5) & (columns < 209.5) & (rows > 19.5) & (rows < 29.5))
    clear = np.minimum.reduce(
        [np.abs(columns - c) for c in (127.5, 199.5, 209.5)] + [np.abs(rows - 19.5), np.abs(rows - 29.5)]
    )
    np.testing.assert_array_equal(crop.mask[clear > 1], expected[clear > 1])
    assert (crop.pixels[~crop.mask] == 0).all()


@pytest.mark.parametrize("size_px", [100, 200])
def test_colours_do_not_fade_beside_nodata(size_px: int, write_ramp: Write, tmp_path: Path) -> None:
    pixels = _grey(200)
    pixels[:, :, 128:] = 0
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=pixels, nodata=0)
    crop = GeoTiffSource(ramp.path).read(48.85, 2.35, 100, size_px, 10)
    assert crop.pixels[crop.mask].min() >= 190


def _bands(count: int) -> UInt8:
    """Colours of one value a band, and a last band that is 0 in the east."""
    pixels = np.stack([np.full((256, 256), 50 * (band + 1), np.uint8) for band in range(count)])
    pixels[-1, :, 128:] = 0
    pixels[-1, :, :128] = 255
    return pixels


@pytest.mark.parametrize("name", ["grey", "grey and alpha", "colour", "colour and alpha", "colour and infrared"])
def test_kinds_of_bands(name: str, write_ramp: Write, tmp_path: Path) -> None:
    kinds: dict[str, tuple[UInt8, dict[str, Any], list[int], bool]] = {
        "grey": (_grey(60, bands=1), {}, [60, 60, 60], False),
        "grey and alpha": (_bands(2), {"ALPHA": "YES"}, [50, 50, 50], True),
        "colour": (np.stack([_grey(v, bands=1)[0] for v in (10, 20, 30)]), {}, [10, 20, 30], False),
        "colour and alpha": (_bands(4), {"photometric": "RGB", "ALPHA": "YES"}, [50, 100, 150], True),
        "colour and infrared": (_bands(4), {"photometric": "RGB", "ALPHA": "NO"}, [50, 100, 150], False),
    }
    pixels, options, colour, half = kinds[name]
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=pixels, **options)
    with rasterio.open(ramp.path) as dataset:
        assert (ColorInterp.alpha in dataset.colorinterp) == ("alpha" in name)
    crop = GeoTiffSource(ramp.path).read(48.85, 2.35, 100, 50)
    columns, _ = ramp.at(48.85, 2.35, 100, 50)
    clear = np.abs(columns - 127.5) > 2  # half a pixel of the crop
    np.testing.assert_array_equal(crop.mask[clear], (columns < 127.5)[clear] if half else True)
    assert (crop.pixels[crop.mask & clear] == colour).all()
    assert (crop.pixels[~crop.mask] == 0).all()


# What the bands show, and those that are red, green and blue, or grey.
ORDERS = [
    ("blue green red", [2, 1, 0]), ("alpha red green blue", [1, 2, 3]), ("alpha blue green red", [3, 2, 1]),
    ("alpha gray", [1]), ("gray alpha", [0]), ("nir red green blue", [1, 2, 3]), ("red green blue nir alpha", [0, 1, 2]),
    ("gray undefined", [0]), ("gray undefined undefined alpha", [0, 1, 2]), ("gray undefined undefined", [0, 1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["tif", "vrt", "folder"])
def test_colours_and_mask_are_the_bands_that_the_file_says(kind: str, write_ramp: Write, tmp_path: Path) -> None:
    for number, (names, colours) in enumerate(ORDERS):
        order = names.split()
        pixels = np.stack([_grey(10 * (band + 1), bands=1)[0] for band in range(len(order))])
        if "alpha" in order:
            pixels[order.index("alpha")] = 255
            pixels[order.index("alpha"), :, 128:] = 0
        folder = tmp_path / str(number)
        ramp = write_ramp(folder / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=pixels, photometric="MINISBLACK")
        with rasterio.open(ramp.path, "r+") as dataset:
            dataset.colorinterp = [ColorInterp[name] for name in order]
        with rasterio.open(ramp.path) as dataset:
            assert [each.name for each in dataset.colorinterp] == order
        path = folder if kind == "folder" else ramp.path
        if kind == "vrt":
            with rasterio.open(ramp.path) as dataset:
                rasterio.shutil.copy(dataset, path := folder / "a.vrt", driver="VRT")
        crop = open_source(path).read(48.85, 2.35, 100, 50)
        columns, _ = ramp.at(48.85, 2.35, 100, 50)
        clear = np.abs(columns - 127.5) > 2
        np.testing.assert_array_equal(crop.mask[clear], (columns < 127.5)[clear] if "alpha" in order else True)
        expected = [10 * (band + 1) for band in colours]
        assert (crop.pixels[crop.mask & clear] == expected).all(), order


def test_alpha_before_colours_and_nodata_or_a_mask_both_hide(write_ramp: Write, tmp_path: Path) -> None:
    pixels = np.stack([_grey(value, bands=1)[0] for value in (255, 10, 20, 30)])
    pixels[0, :, 128:] = 0
    pixels[:, 128:] = 0
    masked = np.ones((256, 256), bool)
    masked[128:] = False

    def finish(file: Any) -> None:
        file.colorinterp = [ColorInterp[name] for name in ("alpha", "red", "green", "blue")]

    def finish_masked(file: Any) -> None:
        finish(file)
        file.write_mask(masked)

    for after, options in ((finish, {"nodata": 0}), (finish_masked, {})):
        ramp = write_ramp(
            tmp_path / f"{len(options)}.tif", "EPSG:32631", 48.85, 2.35, pixels=pixels, after=after,
            photometric="MINISBLACK", **options,
        )  # fmt: skip
        crop = GeoTiffSource(ramp.path).read(48.85, 2.35, 100, 50)
        columns, rows = ramp.at(48.85, 2.35, 100, 50)
        clear = (np.abs(columns - 127.5) > 2) & (np.abs(rows - 127.5) > 2)
        np.testing.assert_array_equal(crop.mask[clear], ((columns < 127.5) & (rows < 127.5))[clear])
        assert (crop.pixels[crop.mask & clear] == [10, 20, 30]).all()


def test_mask_of_the_file_is_followed(write_ramp: Write, tmp_path: Path) -> None:
    valid = np.zeros((256, 256), bool)
    valid[:, :128] = True
    path = tmp_path / "a.tif"
    ramp = write_ramp(path, "EPSG:32631", 48.85, 2.35, pixels=_grey(90), after=lambda file: file.write_mask(valid))
    crop = GeoTiffSource(path).read(48.85, 2.35, 100, 50)
    columns, _ = ramp.at(48.85, 2.35, 100, 50)
    clear = np.abs(columns - 127.5) > 2  # half a pixel of the crop
    np.testing.assert_array_equal(crop.mask[clear], (columns < 127.5)[clear])


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("side", [1024, 1000, 1021])
def test_overviews_are_used_and_not_shifted(side: int, axis: int, write_ramp: Write, tmp_path: Path) -> None:
    """The file is changed after its overviews were made, so that a crop tells which of them it was read from."""
    ramp_band = (np.indices((side, side))[axis] // 4).astype(np.uint8)
    pixels = np.stack([ramp_band, 255 - ramp_band, np.full_like(ramp_band, 200)])
    ramp = write_ramp(
        tmp_path / "a.tif",
        "EPSG:32631",
        48.85,
        2.35,
        size=(side, side),
        pixels=pixels,
        after=lambda dataset: dataset.build_overviews([2, 4, 8, 16], Resampling.average),
        tiled=True,
    )
    with rasterio.open(ramp.path, "r+") as dataset:
        dataset.write(np.full((side, side), 50, np.uint8), 3)
    source = GeoTiffSource(ramp.path)
    fine = source.read(48.85, 2.35, 60, 120)
    assert (fine.pixels[..., 2] == 50).all()
    for size_px in (24, 50, 75, 100):
        coarse = source.read(48.85, 2.35, 350, size_px, 10)
        assert (coarse.pixels[..., 2] == 200).all()
        red, green = coarse.pixels[..., 0].astype(float), coarse.pixels[..., 1]
        expected = ramp.at(48.85, 2.35, 350, size_px, 10)[1 - axis]
        error = (red + 255 - green) / 2 * 4 + 1.5 - expected  # four pixels share a value
        half = 0.5 * 700 / size_px
        # GDAL stretches overviews that do not divide the side, by less than one of their pixels.
        stretch_px = 3.0 if side % 8 else 0.0
        assert np.abs(error).max() < half + 2.1 + stretch_px
        assert abs(error.mean()) < half / 10 + stretch_px / 2 + 0.1


def test_compressed_tiles_and_vrt_read_as_the_plain_file(write_ramp: Write, tmp_path: Path) -> None:
    plain = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35)
    packed = write_ramp(
        tmp_path / "b.tif", "EPSG:32631", 48.85, 2.35, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    expected = GeoTiffSource(plain.path).read(48.85, 2.35, 70, 64, 12)
    got = GeoTiffSource(packed.path).read(48.85, 2.35, 70, 64, 12)
    np.testing.assert_array_equal(got.pixels, expected.pixels)
    with rasterio.open(plain.path) as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "c.vrt", driver="VRT")
    np.testing.assert_array_equal(open_source(tmp_path / "c.vrt").read(48.85, 2.35, 70, 64, 12).pixels, expected.pixels)


@pytest.mark.parametrize(
    ("dtype", "bands", "says"),
    [
        ("uint16", 3, "uint16 values"),
        ("float32", 1, "float32 values"),
        ("int8", 3, "int8 values"),
        ("uint8", 5, "5 bands"),
    ],
)
def test_pixels_that_cannot_be_understood_are_refused(
    dtype: str, bands: int, says: str, write_ramp: Write, tmp_path: Path
) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=_grey(60, bands=bands), dtype=dtype)
    with pytest.raises(InputError, match=says) as caught:
        GeoTiffSource(ramp.path)
    assert str(ramp.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_palette_is_refused_with_the_way_out(write_ramp: Write, tmp_path: Path) -> None:
    def finish(dataset: Any) -> None:
        dataset.write_colormap(1, {value: (value, 0, 0, 255) for value in range(256)})

    ramp = write_ramp(
        tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=_grey(60, bands=1), after=finish, photometric="palette"
    )
    with pytest.raises(InputError, match="-expand rgb`"):
        GeoTiffSource(ramp.path)
    with rasterio.open(ramp.path, "r+") as dataset:
        dataset.nodata = 7  # would be a colour without alpha
    with pytest.raises(InputError, match="-expand rgba`"):
        GeoTiffSource(ramp.path)


def test_colours_of_another_kind_are_refused(write_ramp: Write, tmp_path: Path) -> None:
    def finish(file: Any) -> None:
        file.colorinterp = [ColorInterp[name] for name in ("cyan", "magenta", "yellow", "black")]

    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=_bands(4), after=finish)
    with pytest.raises(InputError, match="the colours cyan, magenta, yellow, black; red, green and blue are required"):
        GeoTiffSource(ramp.path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("lacks", ["crs", "transform"])
def test_raster_without_georeference_is_refused_with_the_way_out(lacks: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options = {"crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, 452_000, 0, -0.5, 5_411_000)}
    del options[lacks]
    with rasterio.open(path, "w", "GTiff", 64, 64, 3, dtype="uint8", **options) as dataset:
        dataset.write(_grey(60, size=64))
    says = {"crs": "no CRS", "transform": "no position"}[lacks]
    with pytest.raises(InputError, match=rf"no georeference \({says}\)") as caught:
        GeoTiffSource(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_advice_for_a_raster_without_a_crs_or_grid_keeps_the_position_that_it_has(tmp_path: Path) -> None:
    where, path = rasterio.Affine(0.5, 0, 452_000, 0, -0.5, 5_411_000), tmp_path / "a.tif"
    corners = [(0, 0), (0, 64), (64, 0), (64, 64)]
    points = [rasterio.control.GroundControlPoint(row, column, *(where @ (column, row))) for row, column in corners]

    def advice(world_file: bool = False, **options: Any) -> str:
        with rasterio.open(path, "w", "GTiff", 64, 64, 3, dtype="uint8", **options) as dataset:
            dataset.write(_grey(60, size=64))
        if world_file:
            path.with_suffix(".tfw").write_text("0.5\n0\n0\n-0.5\n452000.25\n5410999.75\n")
        with pytest.raises(InputError, match="no georeference") as caught:
            GeoTiffSource(path)
        return str(caught.value)

    assert "`gdalwarp -tps -t_srs EPSG:3857 -r bilinear -dstalpha IN.tif OUT.tif`" in advice(
        gcps=points, crs="EPSG:32631"
    )
    with rasterio.vrt.WarpedVRT(
        rasterio.open(path), src_crs="EPSG:32631", crs="EPSG:32631"
    ) as warped:  # as gdalwarp does
        assert warped.transform.almost_equals(where, 1e-3)
    assert "gdal_translate -a_srs EPSG:CODE IN.tif OUT.tif" in advice(world_file=True)
    with rasterio.open(path) as dataset:
        assert dataset.transform.almost_equals(where)
        rasterio.shutil.copy(dataset, tmp_path / "b.tif", driver="GTiff")  # what gdal_translate does
    with rasterio.open(tmp_path / "b.tif", "r+") as dataset:
        dataset.crs = "EPSG:32631"
        assert dataset.transform.almost_equals(where)
    assert GeoTiffSource(tmp_path / "b.tif").bounds[0] == pytest.approx(2.3456, abs=1e-3)


def test_wrong_crs_that_leads_off_the_globe_is_refused(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35)
    with rasterio.open(ramp.path, "r+") as dataset:
        dataset.crs = "EPSG:4326"  # eastings and northings taken for degrees
    with pytest.raises(InputError, match="outside valid coordinates"):
        GeoTiffSource(ramp.path)


@pytest.mark.parametrize("content", [b"", b"no raster at all", b"II*\0\x08\0\0\0"])
def test_file_that_is_no_raster_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a raster") as caught:
        GeoTiffSource(path)
    assert str(path) in str(caught.value)


def test_raster_that_ends_early_gives_a_sentence_when_read(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, tiled=True, blockxsize=64, blockysize=64)
    whole = ramp.path.read_bytes()
    ramp.path.write_bytes(whole[: len(whole) // 2])
    source = GeoTiffSource(ramp.path)
    with pytest.raises(InputError, match=r"a\.tif"):
        source.read(48.85, 2.35, 100, 50)


def test_attribution_licence_and_date_come_from_the_files_tags(write_ramp: Write, tmp_path: Path) -> None:
    def tag(**tags: str) -> Callable[[Any], None]:
        return lambda dataset: dataset.update_tags(**tags)

    full = tag(
        TIFFTAG_COPYRIGHT="© IGN", TIFFTAG_ARTIST="Someone", LICENSE="CC0", TIFFTAG_DATETIME="2023:07:04 12:30:00"
    )
    source = GeoTiffSource(write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, after=full).path)
    assert (source.attribution, source.licence, source.date) == ("© IGN", "CC0", "2023-07-04")
    assert source.read(48.85, 2.35, 50, 20).attribution == "© IGN"
    other = tag(TIFFTAG_ARTIST="Someone", LICENCE="ODbL", TIFFTAG_DATETIME="summer")
    source = GeoTiffSource(write_ramp(tmp_path / "b.tif", "EPSG:32631", 48.85, 2.35, after=other).path)
    assert (source.attribution, source.licence, source.date) == ("Someone", "ODbL", None)
    source = GeoTiffSource(write_ramp(tmp_path / "c.tif", "EPSG:32631", 48.85, 2.35).path)
    assert (source.attribution, source.licence, source.date) == ("", "", None)


def test_identity_follows_the_imagery_and_not_the_folder(write_ramp: Write, tmp_path: Path) -> None:
    first = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35)
    identity = GeoTiffSource(first.path).identity
    assert GeoTiffSource(first.path).identity == identity
    (tmp_path / "moved").mkdir()
    assert GeoTiffSource(first.path.rename(tmp_path / "moved/a.tif")).identity == identity
    elsewhere = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.86, 2.35)
    assert GeoTiffSource(elsewhere.path).identity != identity
    larger = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, size=(300, 256))
    assert GeoTiffSource(larger.path).identity != identity


def test_identity_changes_with_the_pixels(write_ramp: Write, tmp_path: Path) -> None:
    first = GeoTiffSource(write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=_grey(10)).path).identity
    second = GeoTiffSource(write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, pixels=_grey(99)).path).identity
    assert first != second


def test_identity_of_a_vrt_changes_with_the_files_it_refers_to(write_ramp: Write, tmp_path: Path) -> None:
    tile = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35).path
    with rasterio.open(tile) as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "c.vrt", driver="VRT")
    before = GeoTiffSource(tmp_path / "c.vrt").identity
    assert GeoTiffSource(tmp_path / "c.vrt").identity == before
    was = tile.stat()
    os.utime(tile, ns=(was.st_atime_ns, was.st_mtime_ns + 10**9))
    assert GeoTiffSource(tmp_path / "c.vrt").identity != before
    os.utime(tile, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert GeoTiffSource(tmp_path / "c.vrt").identity == before
    with tile.open("ab") as file:
        file.write(b"more")
    os.utime(tile, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert GeoTiffSource(tmp_path / "c.vrt").identity != before


@pytest.mark.parametrize("name", PLACES)
def test_footprint_is_the_outline_of_the_raster(name: str, write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", *PLACES[name])
    source = GeoTiffSource(ramp.path)
    inside = [ramp.moved(*place) for place in ((0, 0), (127.9, 127.9), (-127.9, 127.9), (127.9, -127.9), (-127.9, 0))]
    outside = [ramp.moved(*place) for place in ((128.1, 0), (-128.1, 0), (0, 128.1), (0, -128.1), (300, 300))]
    assert source.covers(*np.array(inside).T).all()
    assert not source.covers(*np.array(outside).T).any()
    corners = np.array([ramp.moved(*place) for place in ((-128, -128), (-128, 128), (128, -128), (128, 128))])
    west, south, east, north = source.bounds
    assert (west, east) == pytest.approx((corners[:, 1].min(), corners[:, 1].max()), abs=1e-6)
    assert (south, north) == pytest.approx((corners[:, 0].min(), corners[:, 0].max()), abs=1e-6)


def test_threads_may_share_a_source(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35, tiled=True, compress="deflate")
    source = GeoTiffSource(ramp.path)
    bearings = np.linspace(0, 360, 60).tolist()
    expected = [source.read(48.85, 2.35, 60, 32, bearing).pixels for bearing in bearings]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda bearing: source.read(48.85, 2.35, 60, 32, bearing).pixels, bearings))
    np.testing.assert_array_equal(got, expected)


def test_closed_source_can_be_read_again(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", 48.85, 2.35)
    with GeoTiffSource(ramp.path) as source:
        first = source.read(48.85, 2.35, 60, 32)
    np.testing.assert_array_equal(source.read(48.85, 2.35, 60, 32).pixels, first.pixels)
    source.close()


def test_short_offsets_lead_from_crop_to_crop(write_ramp: Write, tmp_path: Path) -> None:
    """The middle of a crop is what lies at the right place of a larger crop beside it."""
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:3857", 48.85, 2.35)
    source = GeoTiffSource(ramp.path)
    large = source.read(48.85, 2.35, 100, 100)
    lat, lon = distance.offset(48.85, 2.35, 20.5, 10.5)  # the centre of column 70, row 39
    small = source.read(float(lat), float(lon), 1.0, 1)
    assert np.abs(small.pixels[0, 0].astype(int) - large.pixels[39, 70]).max() <= 1


def test_source_is_opened_by_its_kind(write_ramp: Write, tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "rasters/a.tif", "EPSG:32631", 48.85, 2.35)
    for spec in (ramp.path, str(ramp.path)):
        source = open_source(spec)
        assert isinstance(source, GeoTiffSource)
        assert isinstance(source, AerialSource)
        assert open_source(source) is source
    mosaic = open_source(tmp_path / "rasters")
    assert isinstance(mosaic, MosaicSource)
    assert isinstance(mosaic, AerialSource)


def test_source_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.tif does not exist"):
        open_source(tmp_path / "nothing.tif")
    with pytest.raises(UsageError, match=r"end in \.tif"):
        open_source("https://a.example.org/c")
