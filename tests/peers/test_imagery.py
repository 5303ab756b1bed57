"""Imagery through servers that others wrote: titiler's tiles and WMTS, and a COG in an object store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import requests

from cellcode.aerial import AerialSource, open_source
from cellcode.geography import distance
from cellcode.simulation import Simulation

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("loopback")]
SIZE_M, SIZE_PX = 154.0, 256
SHIFT_M = 0.6  # twice what crops of one raster may be apart
PLACES = ((0.0, 0.0), (-180.0, 140.0), (210.0, -90.0))  # metres east and north of the town's middle


def assert_same_imagery(town: Simulation, served: AerialSource) -> None:
    """Crops show what the file shows there, and less of what it shows a little beside it."""
    local = open_source(town.aerial_path)
    west, south, east, north = town.region.bounds
    for east_m, north_m in PLACES:
        lat, lon = (float(each) for each in distance.offset((south + north) / 2, (west + east) / 2, east_m, north_m))
        crop = served.read(lat, lon, SIZE_M, SIZE_PX)
        assert crop.mask.all()

        def difference(east_m: float, north_m: float) -> float:
            moved = (float(each) for each in distance.offset(lat, lon, east_m, north_m))  # noqa: B023
            beside = local.read(*moved, SIZE_M, SIZE_PX).pixels.astype(float)
            return float(np.abs(beside - crop.pixels).mean())  # noqa: B023

        here = difference(0, 0)
        assert here < 12
        for shift in ((SHIFT_M, 0), (-SHIFT_M, 0), (0, SHIFT_M), (0, -SHIFT_M)):
            assert here < difference(*shift)


def raster(town: Simulation) -> str:
    return quote(str(town.aerial_path), safe="")


@pytest.mark.parametrize("tile_px", [256, 512])
def test_titiler_xyz(titiler: str, town: Simulation, tile_px: int) -> None:
    template = f"{titiler}/cog/tiles/WebMercatorQuad/{{z}}/{{x}}/{{y}}.png?tilesize={tile_px}&url={raster(town)}"
    served = open_source(f"{template}#max_zoom=20&attribution=rendered")
    assert_same_imagery(town, served)
    assert served.attribution == "rendered"
    assert not served.read(town.region.bounds[1] - 0.05, town.region.bounds[0], SIZE_M, SIZE_PX).mask.any()


@pytest.mark.parametrize("matrix_set", ["WebMercatorQuad", "WGS1984Quad", "EuropeanETRS89_LAEAQuad"])
def test_titiler_wmts(titiler: str, town: Simulation, matrix_set: str) -> None:
    capabilities = f"{titiler}/cog/WMTSCapabilities.xml?url={raster(town)}"
    text = requests.get(capabilities, timeout=60).text
    layers = [name for name in _identifiers(text) if name.endswith(f"{matrix_set}_default")]
    assert layers, _identifiers(text)[:5]
    assert_same_imagery(town, open_source(f"wmts:{capabilities}#{layers[0]}"))


def _identifiers(capabilities: str) -> list[str]:
    return [part.split("<", 1)[0] for part in capabilities.split("<ows:Identifier>")[1:]]


def test_cog_in_an_object_store(moto: str, s3_cog: str, town: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_S3_ENDPOINT", moto)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    assert_same_imagery(town, open_source(f"s3://{s3_cog}"))


def test_cog_by_http_range_requests(moto: str, s3_cog: str, town: Simulation) -> None:
    assert_same_imagery(town, open_source(f"{moto}/{s3_cog}"))


def test_object_that_is_not_there_is_named(moto: str, s3_cog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellcode.errors import InputError

    monkeypatch.setenv("AWS_S3_ENDPOINT", moto)
    with pytest.raises(InputError, match=r"s3://imagery/nothing\.tif"):
        open_source("s3://imagery/nothing.tif")


def test_tiles_are_kept(titiler: str, town: Simulation, tmp_path: Path) -> None:
    template = f"{titiler}/cog/tiles/WebMercatorQuad/{{z}}/{{x}}/{{y}}.png?tilesize=256&url={raster(town)}#max_zoom=20"
    west, south, east, north = town.region.bounds
    open_source(template).read((south + north) / 2, (west + east) / 2, SIZE_M, SIZE_PX)
    kept = list((tmp_path / "cache").rglob("*.mbtiles"))
    assert len(kept) == 1
    again = open_source(kept[0]).read((south + north) / 2, (west + east) / 2, SIZE_M, SIZE_PX)
    assert again.mask.all()
