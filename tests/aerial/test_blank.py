"""Tiles that show nothing are masked and counted; dark, uniform and repeated imagery is not lost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cellcode.aerial.missing import Missing
from cellcode.aerial.tiles.service import Facts
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.template import TemplateTiles
from cellcode.http import Client

Encode = Callable[[Any], bytes]
LAT, LON = 52.0, 5.1
FACTS = Facts(min_zoom=17, max_zoom=17)
BLANK = {Missing("blank", "127.0.0.1"): 1}


def _flat(red: int, green: int, blue: int, *alpha: int) -> Any:
    return np.full((256, 256, 3 + len(alpha)), (red, green, blue, *alpha), np.uint8)


def _read_with(tile_server: Any, hasty: Client, waves: Any, encode: Encode, odd: Any) -> tuple[Any, TileSource]:
    """Read a place where one tile is `odd`."""
    held = {}

    def route(path: str, query: dict[str, str]) -> bytes | None:
        z, x, y = (int(number) for number in path.strip("/").split("/"))
        if x == 0:
            return None
        held.setdefault("odd", path)
        return encode(odd if path == held["odd"] else waves.tile(z, x, y))

    tile_server.route = route
    source = TileSource(TemplateTiles(tile_server.url + "/{z}/{x}/{y}", FACTS, hasty))
    return source.read(LAT, LON, 250.0, 64), source


@pytest.mark.parametrize(
    "odd",
    [_flat(255, 255, 255), _flat(0, 0, 0), _flat(204, 204, 204), _flat(242, 239, 233), _flat(90, 120, 40, 0)],
    ids=["white", "black", "grey", "beige", "transparent"],
)
def test_blank_tile_is_masked_and_counted(
    tile_server: Any, hasty: Client, waves: Any, encode: Encode, odd: Any
) -> None:
    crop, source = _read_with(tile_server, hasty, waves, encode, odd)
    assert 0 < crop.mask.mean() < 1
    assert not crop.pixels[~crop.mask].any()
    assert source.missing == BLANK
    assert crop.complete


def test_dark_grey_and_green_tiles_stay(tile_server: Any, hasty: Client, waves: Any, encode: Encode) -> None:
    night = np.random.default_rng(0).integers(0, 3, (256, 256, 3)).astype(np.uint8)
    fog = np.random.default_rng(1).integers(199, 201, (256, 256, 3)).astype(np.uint8)
    for odd in (night, fog, _flat(60, 110, 45), _flat(40, 80, 150)):
        crop, source = _read_with(tile_server, hasty, waves, encode, odd)
        assert crop.mask.all()
        assert not source.missing


def test_transparent_pixels_are_masked(tile_server: Any, hasty: Client, waves: Any, encode: Encode) -> None:
    odd = np.dstack([waves.tile(17, 5, 5), np.full((256, 256), 255, np.uint8)])
    odd[:, :128, 3] = 0
    crop, source = _read_with(tile_server, hasty, waves, encode, odd)
    assert 0 < crop.mask.mean() < 1
    assert not source.missing


def _sorry() -> Any:
    """A picture that says that there is none."""
    image = Image.new("RGB", (256, 256), (230, 230, 230))
    image.paste((90, 90, 90), (60, 120, 200, 140))
    return np.asarray(image)


def test_placeholder_is_known_from_where_there_can_be_no_imagery(
    tile_server: Any, hasty: Client, encode: Encode
) -> None:
    tile_server.route = lambda path, query: encode(_sorry())
    source = TileSource(TemplateTiles(tile_server.url + "/{z}/{x}/{y}", FACTS, hasty))
    assert not source.read(LAT, LON, 30.0, 16).mask.any()
    assert list(source.missing) == [Missing("placeholder", "127.0.0.1")]
    assert source.missing.total() == len(set(tile_server.paths())) - 1


def test_picture_that_comes_for_three_tiles_is_a_placeholder(tile_server: Any, hasty: Client, encode: Encode) -> None:
    # Not at the corner of the world: it is recognised late, and the crops made before are told of.
    tile_server.route = lambda path, query: None if path == "/17/0/0" else encode(_sorry())
    source = TileSource(TemplateTiles(tile_server.url + "/{z}/{x}/{y}", FACTS, hasty))
    lons = (LON, LON + 0.01, LON + 0.02)
    seen = [source.read(LAT, lon, 20.0, 16).mask.all() for lon in lons]
    assert seen[0]
    assert not seen[-1]
    assert source.missing[Missing("placeholder seen late", "127.0.0.1")] >= 1
    assert not any(source.read(LAT, lon, 20.0, 16).mask.any() for lon in lons)
    assert source.missing.keys() == {Missing("placeholder", "127.0.0.1")}
