"""WMTS from its capabilities, by query and by template, in Web Mercator and in other reference systems."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rasterio.warp

from cellcode.aerial import open_source
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.wmts import WmtsTiles
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, RemoteError

Encode = Callable[[Any], bytes]
LAT, LON, SIZE_M, SIZE_PX = 52.0, 5.1, 100.0, 96

CAPABILITIES = """<?xml version="1.0"?>
<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1"
  xmlns:xlink="http://www.w3.org/1999/xlink" version="1.0.0">
<ows:ServiceIdentification><ows:Fees>none</ows:Fees><ows:AccessConstraints>CC BY 4.0</ows:AccessConstraints>
</ows:ServiceIdentification>
<ows:ServiceProvider><ows:ProviderName>Survey of the town</ows:ProviderName></ows:ServiceProvider>
<ows:OperationsMetadata><ows:Operation name="GetTile"><ows:DCP><ows:HTTP>
<ows:Get xlink:href="{url}/rest/"><ows:Constraint name="GetEncoding"><ows:AllowedValues><ows:Value>RESTful</ows:Value>
</ows:AllowedValues></ows:Constraint></ows:Get>
<ows:Get xlink:href="{url}/kvp?map=town&amp;"><ows:Constraint name="GetEncoding"><ows:AllowedValues><ows:Value>KVP</ows:Value>
</ows:AllowedValues></ows:Constraint></ows:Get>
</ows:HTTP></ows:DCP></ows:Operation></ows:OperationsMetadata>
<Contents>
<Layer><ows:Identifier>ortho</ows:Identifier>
<ows:WGS84BoundingBox><ows:LowerCorner>5 51.9</ows:LowerCorner>
<ows:UpperCorner>5.2 52.1</ows:UpperCorner></ows:WGS84BoundingBox>
<Style><ows:Identifier>grey</ows:Identifier></Style><Style isDefault="true"><ows:Identifier>true colour</ows:Identifier></Style>
<Format>application/pdf</Format><Format>image/png</Format>
<Dimension><ows:Identifier>Time</ows:Identifier><Default>2024</Default><Value>2023</Value><Value>2024</Value></Dimension>
{links}
{rest}
</Layer>
<Layer><ows:Identifier>map</ows:Identifier><Format>image/png</Format>{links}</Layer>
{sets}
</Contents></Capabilities>"""
REST = (
    '<ResourceURL format="image/png" resourceType="tile" template="{url}/rest/{{Style}}/{{time}}/{{TileMatrixSet}}/'
    '{{TileMatrix}}/{{TileRow}}/{{TileCol}}.png"/>'
)


class Set:
    """A TileMatrixSet of three levels around the place, and what its tiles show."""

    def __init__(self, name: str, crs: str, urn: str, resolution: float, unit_m: float, swapped: bool) -> None:
        self.name, self.crs, self.urn, self.unit_m, self.swapped = name, crs, urn, unit_m, swapped
        x, y = rasterio.warp.transform("EPSG:4326", crs, [LON], [LAT])
        self.levels: dict[str, tuple[float, float, float, int]] = {}  # left, top, span, tiles along a side
        for number in range(3):
            span = resolution * 2 ** (2 - number) * 256
            tiles = 8 * 2**number
            self.levels[f"{name}/L{number}"] = (x[0] - 0.4 * tiles * span, y[0] + 0.55 * tiles * span, span, tiles)

    def xml(self) -> str:
        matrices = ""
        for name, (left, top, span, tiles) in self.levels.items():
            corner = f"{top!r} {left!r}" if self.swapped else f"{left!r} {top!r}"
            matrices += (
                f"<TileMatrix><ows:Identifier>{name}</ows:Identifier>"
                f"<ScaleDenominator>{span / 256 * self.unit_m / 0.00028!r}</ScaleDenominator><TopLeftCorner>{corner}"
                f"</TopLeftCorner><TileWidth>256</TileWidth><TileHeight>256</TileHeight><MatrixWidth>{tiles}</MatrixWidth>"
                f"<MatrixHeight>{tiles}</MatrixHeight></TileMatrix>"
            )
        return (
            f"<TileMatrixSet><ows:Identifier>{self.name}</ows:Identifier><ows:SupportedCRS>{self.urn}</ows:SupportedCRS>"
            f"{matrices}</TileMatrixSet>"
        )

    def tile(self, waves: Any, matrix: str, row: int, column: int) -> Any:
        left, top, span, tiles = self.levels[matrix]
        assert 0 <= row < tiles
        assert 0 <= column < tiles
        left, top = left + column * span, top - row * span
        return waves.box(left, top - span, left + span, top, 256, self.crs)


def _sets() -> dict[str, Set]:
    degree_m = 111_319.49079327358
    return {
        "web": Set("web", "EPSG:3857", "urn:ogc:def:crs:EPSG::3857", 0.9, 1, False),
        "web-wrong": Set("web-wrong", "EPSG:3857", "urn:ogc:def:crs:EPSG::3857", 0.9, 1, True),
        "utm": Set("utm", "EPSG:32631", "urn:ogc:def:crs:EPSG::32631", 0.5, 1, False),
        "laea": Set("laea", "EPSG:3035", "urn:ogc:def:crs:EPSG::3035", 0.5, 1, True),
        "laea-wrong": Set("laea-wrong", "EPSG:3035", "urn:ogc:def:crs:EPSG::3035", 0.5, 1, False),
        "degrees": Set("degrees", "EPSG:4326", "urn:ogc:def:crs:EPSG::4326", 0.5 / degree_m, degree_m, True),
        "crs84": Set("crs84", "EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84", 0.5 / degree_m, degree_m, False),
        "feet": Set("feet", "EPSG:2263", "EPSG:2263", 1.6, 0.3048006096012192, False),
    }


@pytest.fixture
def serve(tile_server: Any, waves: Any, encode: Encode) -> Callable[..., str]:
    """Serve sets and return the address of the capabilities."""

    def serve(*names: str, rest: bool = True, limits: str = "") -> str:
        sets = {name: _sets()[name] for name in names}
        links = "".join(
            f"<TileMatrixSetLink><TileMatrixSet>{name}</TileMatrixSet>{limits}</TileMatrixSetLink>" for name in names
        )
        text = CAPABILITIES.format(
            url=tile_server.url,
            links=links,
            rest=REST.format(url=tile_server.url) if rest else "",
            sets="".join(each.xml() for each in sets.values()),
        )

        def route(path: str, query: dict[str, str]) -> bytes | None:
            if path == "/capabilities.xml" or query.get("request") == "GetCapabilities":
                return text.encode()
            if path == "/kvp":
                assert (query["map"], query["service"], query["version"]) == ("town", "WMTS", "1.0.0")
                assert (query["layer"], query["style"], query["time"]) == ("ortho", "true colour", "2024")
                assert query["format"] == "image/png"
                matrix, row, column = query["tilematrix"], int(query["tilerow"]), int(query["tilecol"])
                return encode(sets[query["tilematrixset"]].tile(waves, matrix, row, column))
            found = re.fullmatch(r"/rest/true%20colour/2024/([\w-]+)/([\w-]+%2FL\d)/(\d+)/(\d+)\.png", path)
            assert found, path
            matrix = found[2].replace("%2F", "/")
            return encode(sets[found[1]].tile(waves, matrix, int(found[3]), int(found[4])))

        tile_server.route = route
        return str(tile_server.url + "/capabilities.xml")

    return serve


@pytest.mark.parametrize("name", ["web", "web-wrong", "utm", "laea", "laea-wrong", "degrees", "crs84"])
@pytest.mark.parametrize("rest", [True, False], ids=["rest", "kvp"])
def test_layer_shows_the_place(serve: Callable[..., str], waves: Any, hasty: Client, name: str, rest: bool) -> None:
    source = TileSource(WmtsTiles(serve(name, rest=rest) + "#ortho", None, hasty))
    for bearing in (0.0, 25.0):
        crop = source.read(LAT, LON, SIZE_M, SIZE_PX, bearing)
        assert crop.mask.all()
        assert np.abs(crop.pixels - waves.crop(LAT, LON, SIZE_M, SIZE_PX, bearing)).max() < 4
    assert not source.missing


def test_web_mercator_is_preferred_and_a_set_can_be_named(serve: Callable[..., str], hasty: Client) -> None:
    address = serve("utm", "web", "laea")
    assert WmtsTiles(address + "#ortho", None, hasty).grid.crs == "EPSG:3857"
    assert WmtsTiles(address + "#ortho@laea", None, hasty).grid.crs == "EPSG:3035"


def test_coarser_levels_are_read_for_coarser_crops(serve: Callable[..., str], tile_server: Any, hasty: Client) -> None:
    source = TileSource(WmtsTiles(serve("web") + "#ortho", None, hasty))
    source.read(LAT, LON, 400.0, 128)  # 3.1 m on the ground are 5 m of Web Mercator
    assert all("L0" in path for path in tile_server.paths()[1:])


def test_units_of_a_set_are_those_of_its_reference_system(serve: Callable[..., str], hasty: Client) -> None:
    level = WmtsTiles(serve("feet") + "#ortho", None, hasty).grid.levels[2]
    assert level.span == pytest.approx(1.6 * 256)


def test_facts_come_from_the_document(serve: Callable[..., str]) -> None:
    source = open_source("wmts:" + serve("web") + "#ortho")
    assert source.bounds == (5, 51.9, 5.2, 52.1)
    assert source.attribution == "Survey of the town"
    assert source.licence == "CC BY 4.0"
    assert source.read(LAT, LON, SIZE_M, SIZE_PX).mask.all()


def test_tiles_beyond_the_limits_are_not_asked_for(serve: Callable[..., str], tile_server: Any, hasty: Client) -> None:
    limits = (
        "<TileMatrixSetLimits><TileMatrixLimits><TileMatrix>web/L2</TileMatrix><MinTileRow>0</MinTileRow>"
        "<MaxTileRow>31</MaxTileRow><MinTileCol>12</MinTileCol><MaxTileCol>12</MaxTileCol></TileMatrixLimits>"
        "</TileMatrixSetLimits>"
    )
    tiles = WmtsTiles(serve("web", limits=limits) + "#ortho", None, hasty)
    assert len(tiles.grid.levels) == 1
    TileSource(tiles).read(LAT, LON, 2 * SIZE_M, SIZE_PX)
    assert {path.split("/")[-1] for path in tile_server.paths()[1:]} == {"12.png"}


def test_address_of_the_service_is_completed(serve: Callable[..., str], tile_server: Any, hasty: Client) -> None:
    serve("web")
    tiles = WmtsTiles(tile_server.url + "/service?map=town#ortho", None, hasty)
    asked = tile_server.asked[0][0]
    assert "REQUEST=GetCapabilities" in asked
    assert "map=town" in asked
    assert tiles.host == "127.0.0.1"


def test_layers_and_sets_that_there_are_are_named(serve: Callable[..., str], hasty: Client) -> None:
    address = serve("web", "utm")
    with pytest.raises(UsageError, match=r"no layer orto; .*one of map, ortho"):
        WmtsTiles(address + "#orto", None, hasty)
    with pytest.raises(UsageError, match="none was named"):
        WmtsTiles(address, None, hasty)
    with pytest.raises(UsageError, match="no TileMatrixSet far; it has utm, web"):
        WmtsTiles(address + "#ortho@far", None, hasty)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html><body>sorry", "did not answer with a document"),
        (b"<a/>", "no layers"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "EntitiesForbidden"),
        (b'<e:ExceptionReport xmlns:e="http://o"><e:Text>closed today</e:Text></e:ExceptionReport>', "closed"),
    ],
)
def test_document_that_is_none_is_said_so(tile_server: Any, hasty: Client, body: bytes, words: str) -> None:
    tile_server.route = lambda path, query: body
    with pytest.raises(InputError, match=words):
        WmtsTiles(tile_server.url + "/capabilities.xml#ortho", None, hasty)


def test_grid_that_misses_its_bounds_is_refused(serve: Callable[..., str], tile_server: Any, hasty: Client) -> None:
    address = serve("web", "utm")
    route = tile_server.route
    for old, new in (
        (b"5 51.9", b"15 11.9"),
        (b"<ScaleDenominator>", b"<ScaleDenominator>-"),
        (b"<TopLeftCorner>", b"<TopLeftCorner>nan"),
    ):
        tile_server.route = lambda path, query, old=old, new=new: (
            route(path, query).replace(old, new).replace(b"5.2 52.1", b"15.2 12.1" if old == b"5 51.9" else b"5.2 52.1")
        )
        with pytest.raises(
            InputError, match=r"none of the layer's TileMatrixSets can be used .*(outside the bounds|damaged)"
        ):
            WmtsTiles(address + "#ortho", None, hasty)
    with pytest.raises(InputError, match=r"its tiles lie outside its bounds, 3,86,7,89 degrees"):
        open_source(tile_server.url + "/{z}/{x}/{y}#bounds=3,86,7,89")


def test_document_that_leads_to_a_private_address_is_refused(
    tile_server: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve("web")
    monkeypatch.delenv("CELLCODE_ALLOW_PRIVATE")
    with pytest.raises(RemoteError, match="private address"):
        open_source("wmts:" + address + "#ortho")


def test_document_with_tiles_of_web_maps_has_their_numbers(tile_server: Any, hasty: Client) -> None:
    matrices = "".join(
        f"<TileMatrix><ows:Identifier>z{z}</ows:Identifier><ScaleDenominator>{559082264.0287178 / 2**z!r}</ScaleDenominator>"
        "<TopLeftCorner>-20037508.3427892 20037508.3427892</TopLeftCorner><TileWidth>256</TileWidth>"
        f"<TileHeight>256</TileHeight><MatrixWidth>{2**z}</MatrixWidth><MatrixHeight>{2**z}</MatrixHeight></TileMatrix>"
        for z in range(5, 8)
    )
    text = CAPABILITIES.format(
        url=tile_server.url,
        links="<TileMatrixSetLink><TileMatrixSet>G</TileMatrixSet></TileMatrixSetLink>",
        rest="",
        sets="<TileMatrixSet><ows:Identifier>G</ows:Identifier><ows:SupportedCRS>urn:ogc:def:crs:EPSG:6.18.3:3857"
        f"</ows:SupportedCRS>{matrices}</TileMatrixSet>",
    )
    tile_server.route = lambda path, query: text.encode()
    tiles = WmtsTiles(tile_server.url + "/capabilities.xml#ortho", None, hasty)
    assert tiles.grid.is_mercator
    assert sorted(tiles.grid.levels) == [5, 6, 7]
