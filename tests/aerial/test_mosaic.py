from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from cellcode.aerial import open_source
from cellcode.aerial.missing import Missing
from cellcode.aerial.rasters.geotiff import MosaicSource
from cellcode.errors import InputError, UsageError
from cellcode.types import Bools, UInt8

Write = Callable[..., Any]
LAT, LON = 48.85, 2.35


def _ramp(size: int = 256, blue: int = 0) -> UInt8:
    rows, columns = np.indices((size, size))
    return np.stack([columns, rows, np.full_like(rows, blue)]).astype(np.uint8)


def _tag(**tags: str) -> Callable[[Any], None]:
    return lambda dataset: dataset.update_tags(**tags)


def _check(crop: Any, part: Bools, ramp: Any, *where: float) -> None:
    """The pixels of `part` are those of the ramp."""
    columns, rows = ramp.at(*where)
    for band, expected in ((0, columns), (1, rows)):
        assert np.abs(crop.pixels[..., band] - expected)[part].max() < 1.6  # half a pixel of the crop, and 8 bits


def test_rasters_in_different_crs_act_as_one_and_gaps_are_filled(write_ramp: Write, tmp_path: Path) -> None:
    """The first misses its east and has more of the crop; the second misses the south, in another projection."""
    holed = _ramp(blue=100)
    holed[:, :, 150:] = 0
    first = write_ramp(
        tmp_path / "m/a.tif", "EPSG:32631", LAT, LON, pixels=holed, nodata=0, after=_tag(TIFFTAG_COPYRIGHT="One")
    )
    north_lat, _ = first.moved(0, -130)
    second = write_ramp(
        tmp_path / "m/b.TIFF", "EPSG:3857", north_lat, LON, pixels=_ramp(blue=200), after=_tag(TIFFTAG_COPYRIGHT="Two")
    )
    crop = MosaicSource(tmp_path / "m").read(LAT, LON, 90, 90, 10)
    here = (LAT, LON, 90, 90, 10)
    columns, _ = first.at(*here)
    _, rows_second = second.at(*here)
    from_first, from_second = crop.pixels[..., 2] == 99, crop.pixels[..., 2] == 199
    from_first |= crop.pixels[..., 2] == 100
    from_second |= crop.pixels[..., 2] == 200
    clear = (np.abs(columns - 149.5) > 1.5) & (np.abs(rows_second - 255.5) > 1)
    np.testing.assert_array_equal(from_first[clear], (columns < 149.5)[clear])
    np.testing.assert_array_equal(from_second[clear], ((columns > 149.5) & (rows_second < 255.5))[clear])
    np.testing.assert_array_equal(crop.mask[clear], (from_first | from_second)[clear])
    assert from_first.any()
    assert from_second.any()
    assert not crop.mask.all()
    assert (crop.pixels[~crop.mask] == 0).all()
    _check(crop, from_first & clear, first, *here)
    _check(crop, from_second & clear, second, *here)
    assert crop.attribution == "One; Two"


def test_raster_with_more_imagery_comes_first(write_ramp: Write, tmp_path: Path) -> None:
    """Whichever of two overlapping rasters covers more of a crop is taken for all of the overlap."""
    west = write_ramp(tmp_path / "m/west.tif", "EPSG:32631", LAT, LON, pixels=np.full((3, 256, 256), 50, np.uint8))
    lat, lon = west.moved(150, 0)  # they overlap by 106 columns
    write_ramp(tmp_path / "m/east.tif", "EPSG:32631", lat, lon, pixels=np.full((3, 256, 256), 150, np.uint8))
    mosaic = MosaicSource(tmp_path / "m")
    for shift, expected in ((60, 50), (90, 150)):
        crop = mosaic.read(*west.moved(shift, 0), 100, 50)
        columns, _ = west.at(*west.moved(shift, 0), 100, 50)
        assert crop.mask.all()
        overlap = (columns > 152) & (columns < 253)
        assert (crop.pixels[overlap] == expected).all()
        assert set(np.unique(crop.pixels)) == {50, 150}


def test_only_sources_that_show_are_named(write_ramp: Write, tmp_path: Path) -> None:
    for name, lat in (("a", LAT), ("b", LAT + 0.1)):
        write_ramp(tmp_path / f"m/{name}.tif", "EPSG:32631", lat, LON, after=_tag(TIFFTAG_COPYRIGHT=name.upper()))
    mosaic = MosaicSource(tmp_path / "m")
    assert mosaic.attribution == "A; B"
    assert mosaic.read(LAT, LON, 50, 20).attribution == "A"
    assert mosaic.read(LAT + 0.1, LON, 50, 20).attribution == "B"
    nothing = mosaic.read(LAT + 0.05, LON, 50, 20)
    assert nothing.attribution == ""
    assert not nothing.mask.any()
    assert not nothing.pixels.any()


def test_a_crop_has_the_oldest_date_of_the_rasters_that_show(write_ramp: Write, tmp_path: Path) -> None:
    west = write_ramp(tmp_path / "m/w.tif", "EPSG:32631", LAT, LON, after=_tag(TIFFTAG_DATETIME="2023:07:04 00:00:00"))
    lat, lon = west.moved(256, 0)
    write_ramp(tmp_path / "m/e.tif", "EPSG:32631", lat, lon, after=_tag(TIFFTAG_DATETIME="2021:13:99 10:00:00"))
    lat, lon = west.moved(0, 256)
    write_ramp(tmp_path / "m/s.tif", "EPSG:32631", lat, lon, after=_tag(TIFFTAG_DATETIME="2019:01:02 10:00:00"))
    mosaic = MosaicSource(tmp_path / "m")
    assert mosaic.read(LAT, LON, 50, 20).date == "2023-07-04"
    assert mosaic.read(*west.moved(0, 128), 50, 20).date == "2019-01-02"
    assert mosaic.read(*west.moved(256, 0), 50, 20).date is None  # a tag that is no date


def test_tags_of_all_files_are_joined(write_ramp: Write, tmp_path: Path) -> None:
    tags = [
        {"TIFFTAG_COPYRIGHT": "B", "LICENSE": "CC0", "TIFFTAG_DATETIME": "2021:01:01 00:00:00"},
        {"TIFFTAG_COPYRIGHT": "A", "LICENSE": "ODbL", "TIFFTAG_DATETIME": "2023:07:04 00:00:00"},
        {"TIFFTAG_COPYRIGHT": "B"},
    ]
    for number, values in enumerate(tags):
        write_ramp(tmp_path / f"m/{number}.tif", "EPSG:32631", LAT + number / 100, LON, after=_tag(**values))
    mosaic = MosaicSource(tmp_path / "m")
    assert (mosaic.attribution, mosaic.licence, mosaic.date) == ("A; B", "CC0; ODbL", "2023-07-04")


def test_footprint_is_the_union(write_ramp: Write, tmp_path: Path) -> None:
    ramps = [
        write_ramp(tmp_path / "m/a.tif", "EPSG:32631", LAT, LON),
        write_ramp(tmp_path / "m/b.tif", "EPSG:4326", LAT + 0.01, LON + 0.01),
    ]
    mosaic = MosaicSource(tmp_path / "m")
    inside = np.array([ramp.moved(*place) for ramp in ramps for place in ((0, 0), (127.9, 100), (-127.9, -100))])
    assert mosaic.covers(inside[:, 0], inside[:, 1]).all()
    assert not mosaic.covers([LAT + 0.005], [LON + 0.005]).any()
    west, south = inside.min(axis=0)[::-1]
    east, north = inside.max(axis=0)[::-1]
    assert mosaic.bounds == pytest.approx((west, south, east, north), abs=1e-3)
    assert mosaic.bounds[0] < west
    assert mosaic.bounds[3] > north


def test_turned_crop_reaches_rasters_at_its_corners(write_ramp: Write, tmp_path: Path) -> None:
    """A square turned by 45 degrees reaches 1.4 times as far as one that is not."""
    white = np.full((3, 64, 64), 250, np.uint8)
    ramp = write_ramp(tmp_path / "m/a.tif", "EPSG:32631", LAT, LON, pixels=white, size=(64, 64))
    lat, lon = ramp.moved(0, 32 + 2 * 65)  # 65 m south of the raster
    mosaic = MosaicSource(tmp_path / "m")
    assert not mosaic.read(lat, lon, 100, 50, 0).mask.any()
    assert mosaic.read(lat, lon, 100, 50, 45).mask.any()


def test_rasters_on_both_sides_of_the_antimeridian_join(write_ramp: Write, tmp_path: Path) -> None:
    """Each reaches a few metres beyond 180 degrees."""
    half_deg = 60 / 111_320 / np.cos(np.deg2rad(17))
    white = np.full((3, 256, 256), 250, np.uint8)
    for name, lon in (("east", 180 - half_deg), ("west", -180 + half_deg)):
        write_ramp(tmp_path / f"m/{name}.tif", "EPSG:4326", -17.0, lon, pixels=white)
    mosaic = MosaicSource(tmp_path / "m")
    for lon in (180.0, -180.0, 179.9999, -179.9999):
        assert mosaic.read(-17.0, lon, 80, 40).mask.all()
        assert mosaic.covers([-17.0], [lon]).all()


def test_identity_changes_with_the_files(write_ramp: Write, tmp_path: Path) -> None:
    write_ramp(tmp_path / "m/a.tif", "EPSG:32631", LAT, LON)
    alone = MosaicSource(tmp_path / "m").identity
    assert MosaicSource(tmp_path / "m").identity == alone
    write_ramp(tmp_path / "m/b.tif", "EPSG:32631", LAT + 0.01, LON)
    assert MosaicSource(tmp_path / "m").identity != alone


def test_files_that_are_not_used_are_counted_by_kind_and_links_may_lead_in_circles(
    write_ramp: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "m"
    ramp = write_ramp(folder / "sheets/1/a.tif", "EPSG:32631", LAT, LON)
    with rasterio.open(ramp.path) as dataset:
        rasterio.shutil.copy(dataset, folder / "sheets/b.jp2", driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    (folder / "sheets/loop").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    (folder / "twice").symlink_to(folder / "sheets")
    for name in ("photo.jpg", "other.jpg", "readme", "sheets/b.j2w.txt"):
        (folder / name).write_text("x")
    source = open_source(folder)  # it has none of its own
    assert [path.name for path in (Path(each.path) for each in source.sources)] == ["a.tif", "b.jp2"]  # type: ignore[attr-defined]
    assert source.read(LAT, LON, 50, 20).mask.all()
    assert "2 rasters are used; not used: 2 .jpg, 1 without a suffix, 1 .txt" in caplog.text
    write_ramp(folder / "own.tif", "EPSG:32631", LAT, LON)
    assert len(MosaicSource(folder).sources) == 1
    assert "1 rasters are used; not used: 2 .jpg, " in caplog.text
    assert "2 rasters in sub-folders (name their folder to use them)" in caplog.text


def test_folder_without_rasters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"holds no rasters \(\.tif, \.tiff, \.vrt\)") as caught:
        MosaicSource(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_raster_that_cannot_be_used_is_named(write_ramp: Write, tmp_path: Path) -> None:
    write_ramp(tmp_path / "m/a.tif", "EPSG:32631", LAT, LON)
    (tmp_path / "m/broken.tif").write_bytes(b"no raster")
    (tmp_path / "m/notes.txt").write_text("passed over")
    with pytest.raises(InputError, match=r"broken\.tif cannot be read as a raster"):
        MosaicSource(tmp_path / "m")


def test_newest_raster_comes_first_if_that_is_preferred(write_ramp: Write, tmp_path: Path) -> None:
    """The older has all of the crop, the newer half of it; a raster without a date comes last."""

    def write(name: str, value: int, columns: float, date: str | None) -> Any:
        pixels = np.full((3, 256, 256), value, np.uint8)
        tag = _tag(TIFFTAG_DATETIME=f"{date}:01:01 00:00:00") if date else None
        lat, lon = (LAT, LON) if not columns else first.moved(columns, 0)
        return write_ramp(tmp_path / "m" / name, "EPSG:32631", lat, lon, pixels=pixels, after=tag)

    first = write("undated.tif", 20, 0, None)
    write("old.tif", 100, 0, "2019")
    write("new.tif", 200, 128, "2023")
    crop = open_source(f"{tmp_path / 'm'}#prefer=newest").read(LAT, LON, 90, 90)
    columns, _ = first.at(LAT, LON, 90, 90)
    clear = np.abs(columns - 127.5) > 2
    np.testing.assert_array_equal(crop.pixels[clear][:, 0], np.where(columns > 127.5, 200, 100)[clear])
    assert crop.date == "2019-01-01"
    most = MosaicSource(tmp_path / "m")
    assert set(np.unique(most.read(LAT, LON, 90, 90).pixels)) == {100}
    assert MosaicSource(tmp_path / "m", "newest").identity != most.identity
    with pytest.raises(UsageError, match="must be one of imagery, newest"):
        open_source(f"{tmp_path / 'm'}#prefer=oldest")


def test_raster_off_the_globe_is_left_out_named_and_counted(
    write_ramp: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_ramp(tmp_path / "m/good.tif", "EPSG:32631", LAT, LON)
    bad = write_ramp(tmp_path / "m/bad.tif", "EPSG:32631", LAT, LON)
    with rasterio.open(bad.path, "r+") as dataset:
        dataset.crs = "EPSG:4326"  # eastings and northings taken for degrees
    mosaic = MosaicSource(tmp_path / "m")
    assert mosaic.read(LAT, LON, 50, 20).mask.all()
    assert mosaic.missing == {Missing("outside valid coordinates", "bad.tif"): 1}
    assert "1 of 2 rasters left out: " in caplog.text
    (tmp_path / "m/good.tif").unlink()
    with pytest.raises(InputError, match=r"bad\.tif: its georeference is outside valid coordinates"):
        MosaicSource(tmp_path / "m")
