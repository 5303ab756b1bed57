"""WMS 1.1.1 and 1.3.0: a server that renders the waves and is strict about the axes, and what it says when it refuses."""

from typing import Any

import numpy as np
import pytest

from cellcode.aerial import open_source
from cellcode.aerial.missing import Missing
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.wms import WmsTiles
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, RemoteError

LAT, LON, SIZE_M, SIZE_PX = 52.0, 5.1, 100.0, 64
NORTH_FIRST = {"EPSG:4326", "EPSG:31467"}  # as the authority defines them

CAPABILITIES_130 = """<?xml version="1.0" encoding="UTF-8"?>
<WMS_Capabilities version="1.3.0" xmlns="http://www.opengis.net/wms" xmlns:xlink="http://www.w3.org/1999/xlink">
<Service><Name>WMS</Name><Title>Orthophotos</Title><ContactInformation><ContactPersonPrimary>
<ContactOrganization>Survey of the town</ContactOrganization></ContactPersonPrimary></ContactInformation>
<Fees>none</Fees><AccessConstraints>CC BY 4.0</AccessConstraints><MaxWidth>{limit}</MaxWidth><MaxHeight>4096</MaxHeight>
</Service>
<Capability><Request><GetMap><Format>image/png</Format><Format>image/tiff</Format></GetMap></Request>
<Layer>{crs}<EX_GeographicBoundingBox><westBoundLongitude>5</westBoundLongitude><eastBoundLongitude>5.2</eastBoundLongitude>
<southBoundLatitude>51.9</southBoundLatitude><northBoundLatitude>52.1</northBoundLatitude></EX_GeographicBoundingBox>
<Layer><Title>group</Title>{attribution}<Layer queryable="1"><Name>ortho</Name></Layer></Layer>
<Layer><Name>map</Name></Layer></Layer></Capability></WMS_Capabilities>"""
CAPABILITIES_111 = """<?xml version="1.0"?>
<!DOCTYPE WMT_MS_Capabilities SYSTEM "http://schemas.opengis.net/wms/1.1.1/WMS_MS_Capabilities.dtd">
<WMT_MS_Capabilities version="1.1.1"><Service><Name>OGC:WMS</Name><Title>Orthophotos</Title></Service>
<Capability><Request><GetMap><Format>image/png</Format></GetMap></Request>
<Layer>{crs}<LatLonBoundingBox minx="5" miny="51.9" maxx="5.2" maxy="52.1"/>
<Layer><Name>ortho</Name></Layer></Layer></Capability></WMT_MS_Capabilities>"""


@pytest.fixture
def wms(tile_server: Any, waves: Any, encode: Any) -> Any:
    """The server at /wms. Its attributes say what it offers."""
    tile_server.offered, tile_server.attribution, tile_server.limit = ["EPSG:3857"], "", 256
    tile_server.says: list[bytes] = []

    def route(path: str, query: dict[str, str]) -> bytes | None:
        if path != "/wms" or query.get("service") != "WMS":
            return None
        if query["request"] == "GetCapabilities":
            return capabilities(query.get("version", "1.3.0"))
        if tile_server.says:
            return bytes(tile_server.says[0])
        old = query["version"] == "1.1.1"
        crs = query["srs" if old else "crs"]
        assert ("crs" if old else "srs") not in query
        assert crs in tile_server.offered
        assert query["layers"] == "ortho"
        assert "styles" in query
        assert old or int(query["width"]) <= tile_server.limit  # 1.1.1 has no word for it
        box = [float(side) for side in query["bbox"].split(",")]
        if not old and crs in NORTH_FIRST:
            box = [box[1], box[0], box[3], box[2]]
        crs = {"CRS:84": "OGC:CRS84", "EPSG:900913": "EPSG:3857"}.get(crs, crs)
        return bytes(encode(waves.box(*box, int(query["width"]), crs)))

    def capabilities(version: str) -> bytes:
        kind = "SRS" if version == "1.1.1" else "CRS"
        text = CAPABILITIES_111 if version == "1.1.1" else CAPABILITIES_130
        crs = "".join(f"<{kind}>{name}</{kind}>" for name in tile_server.offered)
        return text.format(crs=crs, attribution=tile_server.attribution, limit=tile_server.limit).encode()

    tile_server.route = route
    return tile_server


def _maps(wms: Any) -> list[str]:
    return [path for path, _ in wms.asked if "GetMap" in path]


@pytest.mark.parametrize(
    ("version", "crs"),
    [
        ("1.1.1", "EPSG:3857"),
        ("1.1.1", "EPSG:4326"),
        ("1.3.0", "EPSG:3857"),
        ("1.3.0", "EPSG:4326"),
        ("1.3.0", "CRS:84"),
        ("1.3.0", "EPSG:25831"),
    ],
)
def test_crop_shows_its_place_in_every_version_and_reference_system(
    wms: Any, waves: Any, hasty: Client, version: str, crs: str
) -> None:
    wms.offered = [crs]
    source = TileSource(WmsTiles(f"{wms.url}/wms?LAYERS=ortho&VERSION={version}", None, hasty))
    crop = source.read(LAT, LON, SIZE_M, SIZE_PX, 37.0)
    assert crop.mask.all()
    error = crop.pixels - waves.crop(LAT, LON, SIZE_M, SIZE_PX, 37.0)
    assert np.abs(error).max() < 8
    assert np.abs(error).mean() < 1.5
    assert _maps(wms)
    assert not source.missing


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (["EPSG:4326", "EPSG:25831", "EPSG:3857"], "EPSG:3857"),
        (["EPSG:4326", "EPSG:900913"], "EPSG:900913"),
        (["EPSG:31467", "EPSG:4326", "EPSG:25833", "EPSG:25831"], "EPSG:25831"),
        (["EPSG:31467", "NONE:1", "EPSG:4326"], "EPSG:4326"),
    ],
)
def test_best_of_the_reference_systems_is_asked_for(wms: Any, hasty: Client, offered: list[str], taken: str) -> None:
    wms.offered = offered
    WmsTiles(f"{wms.url}/wms?LAYERS=ortho", None, hasty).fetch(3, 0, 0)
    assert f"CRS={taken}&" in _maps(wms)[0]


def test_reference_system_of_the_address_is_taken(wms: Any, hasty: Client) -> None:
    wms.offered = ["EPSG:4326", "EPSG:3857"]
    WmsTiles(f"{wms.url}/wms?LAYERS=ortho&SRS=EPSG:4326&VERSION=1.1.1", None, hasty).fetch(3, 0, 0)
    assert "SRS=EPSG:4326&" in _maps(wms)[0]
    with pytest.raises(UsageError, match=r"unknown reference systems .*NONE:5"):
        WmsTiles(f"{wms.url}/wms?LAYERS=ortho&CRS=NONE:5", None, hasty)


def test_capabilities_say_bounds_names_size_and_format(wms: Any, hasty: Client) -> None:
    wms.limit = 300
    tiles = WmsTiles(f"{wms.url}/wms?LAYERS=ortho", None, hasty)
    assert tiles.bounds == (5, 51.9, 5.2, 52.1)
    assert (tiles.attribution, tiles.licence) == ("Survey of the town", "CC BY 4.0")
    assert "WIDTH=256&HEIGHT=256&FORMAT=image/png&TRANSPARENT=TRUE" in tiles.url(17, 1, 1)
    wms.attribution = "<Attribution><Title>Town of X</Title></Attribution>"
    assert WmsTiles(f"{wms.url}/wms?LAYERS=ortho", None, hasty).attribution == "Town of X"
    source = TileSource(
        WmsTiles(f"{wms.url}/wms?LAYERS=ortho#attribution=Mine&bounds=5,51,6,53&date=2024-05-01", None, hasty)
    )
    assert (source.attribution, source.bounds, source.date) == ("Mine", (5, 51, 6, 53), "2024-05-01")


def test_layer_that_is_not_there_is_named_with_those_that_are(wms: Any, hasty: Client) -> None:
    with pytest.raises(UsageError, match=r"no layer dop; write LAYERS=\.\.\., one of map, ortho"):
        WmsTiles(f"{wms.url}/wms?LAYERS=dop", None, hasty)
    with pytest.raises(UsageError, match="names no layer"):
        WmsTiles(f"{wms.url}/wms", None, hasty)


@pytest.mark.parametrize("fault", ["500...", "html...", "404..."])
def test_address_is_enough_where_capabilities_cannot_be_had(
    wms: Any, waves: Any, hasty: Client, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    wms.faults["/wms"], wms.limit = [fault], 512
    tiles = WmsTiles(f"{wms.url}/wms?LAYERS=ortho&FORMAT=image/png", None, hasty)
    assert "capabilities of 127.0.0.1 cannot be read" in caplog.text
    wms.faults.clear()
    crop = TileSource(tiles).read(LAT, LON, SIZE_M, SIZE_PX)
    assert np.abs(crop.pixels - waves.crop(LAT, LON, SIZE_M, SIZE_PX)).mean() < 1.5


def test_request_that_is_wrong_ends_with_the_words_of_the_service(wms: Any, hasty: Client) -> None:
    source = TileSource(WmsTiles(f"{wms.url}/wms?LAYERS=ortho", None, hasty))
    wms.says = [
        b'<?xml version="1.0"?><ServiceExceptionReport version="1.3.0" xmlns="http://www.opengis.net/ogc">'
        b'<ServiceException code="StyleNotDefined">No such\n style</ServiceException></ServiceExceptionReport>'
    ]
    with pytest.raises(InputError, match=r"127\.0\.0\.1 says: StyleNotDefined: No such style; correct") as caught:
        source.read(LAT, LON, SIZE_M, SIZE_PX)
    assert not isinstance(caught.value, RemoteError)
    assert len(_maps(wms)) <= 4  # one for each thread, and none again


def test_exception_for_a_tile_is_counted_and_masked(wms: Any, hasty: Client) -> None:
    tiles = WmsTiles(f"{wms.url}/wms?LAYERS=ortho", None, hasty)
    source = TileSource(tiles)
    wms.says = [b"<ServiceExceptionReport><ServiceException>cannot render</ServiceException></ServiceExceptionReport>"]
    with pytest.raises(RemoteError, match="says: cannot render") as caught:
        tiles.fetch(17, 67392, 43200)
    assert caught.value.reason == "service exception"
    assert not source.read(LAT, LON, SIZE_M, SIZE_PX).mask.any()
    assert set(source.missing) == {Missing("service exception", "127.0.0.1")}


@pytest.mark.parametrize("fault", ["429", "429 after", "500", "cut", "truncated", "html", "elsewhere", "empty"])
def test_passing_fault_is_asked_again(wms: Any, hasty: Client, fault: str) -> None:
    source = TileSource(WmsTiles(f"{wms.url}/wms?LAYERS=ortho", None, hasty))
    wms.faults["/wms"] = [fault]
    assert source.read(LAT, LON, SIZE_M, SIZE_PX).mask.all()
    assert not source.missing


@pytest.mark.parametrize(("fault", "passing"), [("500...", True), ("html...", True), ("403...", False)])
def test_lasting_fault_is_counted(wms: Any, hasty: Client, fault: str, passing: bool) -> None:
    source = TileSource(WmsTiles(f"{wms.url}/wms?LAYERS=ortho", None, hasty))
    wms.faults["/wms"] = [fault]
    crop = source.read(LAT, LON, SIZE_M, SIZE_PX)
    assert not crop.mask.any()
    assert {why.transient for why in source.missing} == {passing}


def test_key_comes_from_the_environment_and_is_shown_nowhere(
    wms: Any, hasty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{wms.url}/wms?LAYERS=ortho&map=a&apikey={{env:WMS_KEY}}"
    with pytest.raises(UsageError, match="WMS_KEY is not set"):
        WmsTiles(address, None, hasty)
    monkeypatch.setenv("WMS_KEY", "s3cret")
    tiles = WmsTiles(address, None, hasty)
    tiles.fetch(3, 0, 0)
    assert "map=a&apikey=s3cret&" in _maps(wms)[0]
    wms.faults["/wms"] = ["403"]
    with pytest.raises(RemoteError) as refused:
        tiles.fetch(3, 0, 1)
    assert "s3cret" not in f"{refused.value} {tiles.name} {tiles.identity}"


def test_what_was_rendered_is_kept_and_another_reference_system_is_another_cache(wms: Any, waves: Any) -> None:
    address = f"wms:{wms.url}/wms?LAYERS=ortho"
    first = open_source(address).read(LAT, LON, SIZE_M, SIZE_PX)
    asked = len(_maps(wms))
    np.testing.assert_array_equal(open_source(address).read(LAT, LON, SIZE_M, SIZE_PX).pixels, first.pixels)
    assert len(_maps(wms)) == asked
    wms.offered = ["EPSG:25831"]
    other = open_source(address).read(LAT, LON, SIZE_M, SIZE_PX)
    assert len(_maps(wms)) > asked
    assert np.abs(other.pixels - waves.crop(LAT, LON, SIZE_M, SIZE_PX)).mean() < 1.5


def test_private_address_is_refused(wms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLCODE_ALLOW_PRIVATE")
    with pytest.raises(RemoteError, match="private address"):
        open_source(f"wms:{wms.url}/wms?LAYERS=ortho")
    assert not wms.asked
