from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.aerial.crops import read_crops
from cellcode.aerial.protocol import AerialSource
from cellcode.aerial.rasters.geotiff import GeoTiffSource, MosaicSource

Write = Callable[..., Any]
LAT, LON = 48.85, 2.35


@pytest.fixture(params=["file", "folder"])
def source(request: pytest.FixtureRequest, write_ramp: Write, tmp_path: Path) -> AerialSource:
    ramp = write_ramp(tmp_path / "m/a.tif", "EPSG:32631", LAT, LON, tiled=True, compress="deflate")
    if request.param == "file":
        return GeoTiffSource(ramp.path)
    write_ramp(tmp_path / "m/b.tif", "EPSG:3857", *ramp.moved(200, 0))
    return MosaicSource(tmp_path / "m")


def _points(count: int) -> tuple[Any, Any]:
    """In and beside the raster, the first of them twice."""
    rng = np.random.default_rng(1)
    lat, lon = LAT + rng.uniform(-1, 1, count) * 0.001, LON + rng.uniform(-1, 1, count) * 0.002
    return np.append(lat, lat[0]), np.append(lon, lon[0])


def test_crops_are_those_read_one_by_one_in_the_order_of_the_points(source: AerialSource) -> None:
    lat, lon = _points(60)
    pixels, mask, *_ = read_crops(source, lat, lon, size_m=40, size_px=24, bearing_deg=20)
    assert (pixels.shape, pixels.dtype) == ((61, 24, 24, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((61, 24, 24), np.bool_)
    assert 0.05 < mask.mean() < 0.95
    for row in range(61):
        crop = source.read(float(lat[row]), float(lon[row]), 40, 24, 20)
        np.testing.assert_array_equal(pixels[row], crop.pixels)
        np.testing.assert_array_equal(mask[row], crop.mask)


def test_order_of_the_points_does_not_matter(source: AerialSource) -> None:
    lat, lon = _points(60)
    pixels, mask, *_ = read_crops(source, lat, lon, size_m=40, size_px=24)
    for order in (np.arange(61)[::-1], np.random.default_rng(2).permutation(61)):
        got_pixels, got_mask, *_ = read_crops(source, lat[order], lon[order], size_m=40, size_px=24)
        np.testing.assert_array_equal(got_pixels, pixels[order])
        np.testing.assert_array_equal(got_mask, mask[order])


def test_no_points_give_no_crops(source: AerialSource) -> None:
    pixels, mask, *_ = read_crops(source, np.empty(0), np.empty(0), size_m=40, size_px=24)
    assert (pixels.shape, mask.shape) == ((0, 24, 24, 3), (0, 24, 24))


def test_progress_is_shown_only_when_described(source: AerialSource, caplog: pytest.LogCaptureFixture) -> None:
    lat, lon = _points(5)
    quiet, *_ = read_crops(source, lat, lon, size_m=40, size_px=24)
    assert not caplog.messages
    shown, *_ = read_crops(source, lat, lon, size_m=40, size_px=24, description="cutting tiles")
    assert "cutting tiles: 6/6" in caplog.text
    np.testing.assert_array_equal(shown, quiet)


def test_failure_of_one_read_is_not_swallowed(write_ramp: Write, tmp_path: Path) -> None:
    class Failing(GeoTiffSource):
        def read(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("no more")

    failing = Failing(write_ramp(tmp_path / "a.tif", "EPSG:32631", LAT, LON).path)
    for description in (None, "cutting tiles"):
        with pytest.raises(RuntimeError, match="no more"):
            read_crops(failing, *_points(3), size_m=40, size_px=24, description=description)
