"""ArcGIS image services: a server that renders the waves, and errors that come as JSON with status 200."""

import json
from typing import Any

import numpy as np
import pytest

from cellcode.aerial import open_source
from cellcode.aerial.missing import Missing
from cellcode.aerial.tiles.arcgis import ArcGisTiles
from cellcode.aerial.tiles.source import TileSource
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, RemoteError

LAT, LON, SIZE_M, SIZE_PX = 52.0, 5.1, 100.0, 96
SERVICE = "/arcgis/rest/services/town/ImageServer"


@pytest.fixture
def service(tile_server: Any, waves: Any, encode: Any) -> Any:
    """The server, with what it says of itself in `about` and of a request in `says`."""
    tile_server.about = {
        "copyrightText": "Town of X",
        "maxImageWidth": 4100,
        "maxImageHeight": 300,
        # UTM 31 N around the place; 102100 and the like are names of Web Mercator.
        "extent": {
            "xmin": 640_000,
            "ymin": 5_760_000,
            "xmax": 650_000,
            "ymax": 5_768_000,
            "spatialReference": {"wkid": 25831, "latestWkid": 25831},
        },
    }
    tile_server.says = None

    def route(path: str, query: dict[str, str]) -> bytes | None:
        if path == SERVICE and query["f"] == "json":
            return json.dumps(tile_server.about).encode()
        if path != SERVICE + "/exportImage":
            return None
        if tile_server.says is not None:
            return json.dumps({"error": tile_server.says}).encode()
        width, height = map(int, query["size"].split(","))
        assert width == height <= 300
        assert (query["bboxsr"], query["imagesr"], query["f"]) == ("3857", "3857", "image")
        left, bottom, right, top = map(float, query["bbox"].split(","))
        return bytes(encode(waves.box(left, bottom, right, top, width)))

    tile_server.route = route
    return tile_server


def test_crop_shows_its_place(service: Any, waves: Any, hasty: Client) -> None:
    source = TileSource(ArcGisTiles(service.url + SERVICE, None, hasty))
    crop = source.read(LAT, LON, SIZE_M, SIZE_PX, 20.0)
    assert crop.mask.all()
    error = crop.pixels - waves.crop(LAT, LON, SIZE_M, SIZE_PX, 20.0)
    assert np.abs(error).max() < 8
    assert np.abs(error).mean() < 1.5


def test_service_says_bounds_attribution_and_size(service: Any, hasty: Client) -> None:
    tiles = ArcGisTiles(service.url + SERVICE + "/", None, hasty)
    assert tiles.attribution == "Town of X"
    assert tiles.bounds == pytest.approx((5.03, 51.97, 5.2, 52.05), abs=0.02)
    assert "size=256,256&" in tiles.url(17, 1, 1)
    named = ArcGisTiles(service.url + SERVICE + "#attribution=Mine&licence=CC0&bounds=5,51,6,53", None, hasty)
    assert (named.attribution, named.licence, named.bounds) == ("Mine", "CC0", (5, 51, 6, 53))
    for reference in ({}, {"wkid": 999999}):
        service.about["extent"]["spatialReference"] = reference
        assert ArcGisTiles(service.url + SERVICE, None, hasty).bounds[0] == -180


def test_extent_in_web_mercator_by_its_old_name(service: Any, hasty: Client) -> None:
    service.about["extent"] = {
        "xmin": 560_000,
        "ymin": 6_790_000,
        "xmax": 570_000,
        "ymax": 6_810_000,
        "spatialReference": {"wkid": 102100},
    }
    west, south, east, north = ArcGisTiles(service.url + SERVICE, None, hasty).bounds
    assert (west, east) == pytest.approx((5.0306, 5.1204), abs=1e-3)
    assert (south, north) == pytest.approx((51.95, 52.06), abs=0.01)


def test_error_of_a_tile_is_counted_by_what_it_is(service: Any, hasty: Client) -> None:
    tiles = ArcGisTiles(service.url + SERVICE, None, hasty)
    source = TileSource(tiles)
    service.says = {"code": 400, "message": "Invalid or missing input parameters.", "details": ["bbox"]}
    with pytest.raises(RemoteError, match=r"says: Invalid or missing input parameters\. bbox \(400\)"):
        tiles.fetch(17, 67392, 43200)
    assert not source.read(LAT, LON, SIZE_M, SIZE_PX).mask.any()
    assert set(source.missing) == {Missing("service exception", "127.0.0.1")}
    service.says = {"code": 498, "message": "Invalid token"}
    with pytest.raises(InputError, match=r"says: Invalid token \(498\); its address needs a valid token"):
        source.read(LAT + 0.01, LON, SIZE_M, SIZE_PX)


def test_service_that_refuses_at_once_says_why(service: Any, hasty: Client) -> None:
    service.about = {"error": {"code": 499, "message": "Token Required", "details": []}}
    with pytest.raises(InputError, match="Token Required"):
        ArcGisTiles(service.url + SERVICE, None, hasty)
    with pytest.raises(UsageError, match="must end in /ImageServer"):
        ArcGisTiles(service.url + "/arcgis/rest/services/town/MapServer", None, hasty)
    service.faults[SERVICE] = ["html..."]
    with pytest.raises(RemoteError, match="not JSON"):
        ArcGisTiles(service.url + SERVICE, None, hasty)


@pytest.mark.parametrize("fault", ["429", "500", "cut", "html", "elsewhere", "empty"])
def test_passing_fault_is_asked_again(service: Any, hasty: Client, fault: str) -> None:
    source = TileSource(ArcGisTiles(service.url + SERVICE, None, hasty))
    service.faults[SERVICE + "/exportImage"] = [fault]
    assert source.read(LAT, LON, SIZE_M, SIZE_PX).mask.all()
    assert not source.missing


def test_token_comes_from_the_environment_and_is_shown_nowhere(
    service: Any, hasty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWN_TOKEN", "s3cret")
    tiles = ArcGisTiles(service.url + SERVICE + "?token={env:TOWN_TOKEN}", None, hasty)
    assert "token=s3cret&bbox" in tiles.url(3, 1, 1)
    assert all("token=s3cret" in path for path, _ in service.asked)
    assert "s3cret" not in f"{tiles.name} {tiles.identity}"


def test_it_is_opened_by_its_prefix_and_kept(service: Any) -> None:
    spec = f"arcgis:{service.url}{SERVICE}"
    first = open_source(spec).read(LAT, LON, SIZE_M, SIZE_PX)
    asked = len([path for path in service.paths() if path.endswith("exportImage")])
    np.testing.assert_array_equal(open_source(spec).read(LAT, LON, SIZE_M, SIZE_PX).pixels, first.pixels)
    assert len([path for path in service.paths() if path.endswith("exportImage")]) == asked
