"""PMTiles of a region, read back with the package's own reader."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cellcode.aerial import open_source
from cellcode.aerial.tiles.pmtiles import export, read_tile
from cellcode.aerial.tiles.service import Facts
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.template import TemplateTiles
from cellcode.cli import main
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.http import Client

pytest.importorskip("pmtiles")
LAT, LON = 52.0, 5.1
Z, X, Y = 16, 33696, 21647


@pytest.fixture
def raster(write_ramp: Callable[..., Any], waves: Any, tmp_path: Path) -> Path:
    """The waves in UTM, a metre a pixel, 400 m wide."""
    place: dict[str, Any] = {"pixel_m": 1.0, "size": (400, 400)}
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", LAT, LON, **place)
    left, top, side = ramp.transform.c, ramp.transform.f, 400 * ramp.transform.a
    pixels = waves.box(left, top - side, left + side, top, 400, "EPSG:32631").transpose(2, 0, 1)

    def describe(dataset: Any) -> None:
        dataset.update_tags(TIFFTAG_COPYRIGHT="Town")

    return Path(write_ramp(ramp.path, "EPSG:32631", LAT, LON, pixels=pixels, after=describe, **place).path)


def _images(path: Path) -> tuple[dict[tuple[int, int, int], Any], dict[str, Any], dict[str, Any]]:
    from pmtiles.reader import MmapSource, Reader, all_tiles

    with path.open("rb") as file:
        source = MmapSource(file)
        reader = Reader(source)
        tiles = {key: np.asarray(Image.open(io.BytesIO(body)).convert("RGBA")) for key, body in all_tiles(source)}
        return tiles, reader.header(), reader.metadata()


def test_tile_of_any_source_is_that_of_web_maps(raster: Path, waves: Any) -> None:
    source = open_source(raster)
    image = read_tile(source, 17, 2 * X, 2 * Y + 1)
    assert image is not None
    seen = np.asarray(image)
    where = seen[..., 3] == 255
    assert where.any()
    wanted = waves.tile(17, 2 * X, 2 * Y + 1).astype(int)
    assert np.abs(seen[..., :3] - wanted)[where].max() < 5  # 0.2 m


def test_archive_holds_the_pyramid_of_the_region(raster: Path, waves: Any, tmp_path: Path) -> None:
    out = tmp_path / "a.pmtiles"
    written = export(open_source(raster), None, out, max_zoom=17, min_zoom=14)
    tiles, header, metadata = _images(out)
    assert len(tiles) == written
    assert {z for z, _, _ in tiles} == {14, 15, 16, 17}
    assert metadata["attribution"] == "Town"
    west, south, east, north = open_source(raster).bounds
    assert [header[f"{name}_e7"] / 1e7 for name in ("min_lon", "min_lat", "max_lon", "max_lat")] == pytest.approx(
        [west, south, east, north], abs=1e-6
    )
    for z in (16, 17):
        key = next(key for key, pixels in tiles.items() if key[0] == z and (pixels[..., 3] == 255).mean() > 0.3)
        inside = tiles[key][..., 3] == 255
        difference = np.abs(tiles[key][..., :3].astype(int) - waves.tile(*key))[inside]
        assert difference.mean() < 6  # WebP is lossy
    assert any((pixels[..., 3] == 0).any() for pixels in tiles.values())  # around the raster


def test_only_the_region_is_written(raster: Path, tmp_path: Path) -> None:
    region = Region.bbox(LON - 0.0005, LAT - 0.0003, LON, LAT)
    export(open_source(raster), region, tmp_path / "a.pmtiles", max_zoom=18, min_zoom=18)
    tiles, _, _ = _images(tmp_path / "a.pmtiles")
    assert 1 <= len(tiles) <= 6
    with pytest.raises(InputError, match="no imagery in the region"):
        export(open_source(raster), Region.bbox(9, 50, 9.001, 50.001), tmp_path / "b.pmtiles", max_zoom=16)
    assert not (tmp_path / "b.pmtiles").exists()
    with pytest.raises(UsageError, match="must ascend"):
        export(open_source(raster), region, tmp_path / "b.pmtiles", max_zoom=10, min_zoom=12)


def test_command_names_the_file_and_says_what_is_in_it(
    raster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.pmtiles"
    with pytest.raises(SystemExit) as end:
        main(["pmtiles", str(raster), "--out", str(out), "--max-zoom", "16", "--min-zoom", "15"])
    assert not end.value.code
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out)
    assert f"tiles in {out}" in shown.err


def test_tile_that_could_not_be_fetched_leaves_no_file(
    tile_server: Any, waves: Any, encode: Callable[[Any], bytes], hasty: Client, tmp_path: Path
) -> None:
    tile_server.route = lambda path, query: encode(waves.tile(*(int(part) for part in path.strip("/").split("/"))))
    tile_server.faults[f"/{Z}/{X}/{Y}"] = ["500..."]
    source = TileSource(TemplateTiles(tile_server.url + "/{z}/{x}/{y}", Facts(min_zoom=16, max_zoom=16), hasty))
    with pytest.raises(InputError, match=r"1 server error; .* is not written"):
        export(source, Region.bbox(LON - 1e-3, LAT - 1e-3, LON + 1e-3, LAT + 1e-3), tmp_path / "a.pmtiles", max_zoom=16)
    assert not (tmp_path / "a.pmtiles").exists()
