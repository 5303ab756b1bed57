"""Crops from tiles of the web: where they lie, and what happens when tiles are missing or a server misbehaves."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cellcode.aerial import open_source, read_crops
from cellcode.aerial.missing import Missing, refuse_transient, summary
from cellcode.aerial.tiles.decoder import IN_A_ROW
from cellcode.aerial.tiles.service import Facts
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.template import TemplateTiles, quadkey
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, Politeness, RemoteError

Encode = Callable[[Any], bytes]
LAT, LON, SIZE_M, SIZE_PX = 52.0, 5.1, 100.0, 96
FACTS = Facts(max_zoom=17)


@pytest.fixture
def served(tile_server: Any, waves: Any, encode: Encode) -> Any:
    """The server with the waves at /z/x/y, up to zoom 17; nothing in the Arctic."""

    def route(path: str, query: dict[str, str]) -> bytes | None:
        z, x, y = (int(number) for number in re.findall(r"\d+", path)[:3])
        return None if (x, y) == (0, 0) or z > 17 else encode(waves.tile(z, x, y))

    tile_server.route = route
    return tile_server


def _shift_m(source: Any, waves: Any, lat: float = LAT, lon: float = LON, bearing: float = 0.0) -> float:
    """How far a crop is from the place it should show, by least squares on the colours' slopes."""
    crop = source.read(lat, lon, SIZE_M, SIZE_PX, bearing)
    assert crop.mask.all()
    wanted = waves.crop(lat, lon, SIZE_M, SIZE_PX, bearing)
    down, right = np.gradient(wanted, axis=(0, 1))
    slopes = np.stack([right.ravel(), down.ravel()], axis=1)
    shift, *_ = np.linalg.lstsq(slopes, (crop.pixels - wanted).ravel(), rcond=None)
    assert np.abs(crop.pixels - wanted).max() < 6
    return float(np.hypot(*shift) * SIZE_M / SIZE_PX)


@pytest.mark.parametrize("lat", [0.0001, 52.0, 68.0, -33.9])
@pytest.mark.parametrize("bearing", [0.0, 37.0])
def test_crop_shows_the_place_to_a_few_centimetres(
    served: Any, waves: Any, hasty: Client, lat: float, bearing: float
) -> None:
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))
    assert _shift_m(source, waves, lat, LON, bearing) < 0.05
    assert not source.missing


def test_crop_across_180_degrees(served: Any, waves: Any, hasty: Client) -> None:
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))
    seen = source.read(-17.0, 179.9999, SIZE_M, SIZE_PX)
    assert seen.mask.all()
    left = waves.crop(-17.0, 179.9999, SIZE_M, SIZE_PX)[:, :48]
    assert np.abs(seen.pixels[:, :48] - left).max() < 2.5
    columns = {int(path.split("/")[2]) for path in served.paths() if path != "/17/0/0"}
    assert columns == {0, 2**17 - 1}


@pytest.mark.parametrize(
    ("template", "first"),
    [
        ("/{z}/{x}/{-y}", "/17/67392/{flipped}"),
        ("/tms/{zoom}/{x}/{-y}.png?v=1", "/tms/17/67392/{flipped}.png"),
        ("/{TileMatrix}/{TileRow}/{TileCol}", "/17/{row}/67392"),
        ("/a{quadkey}.png", "/a{quadkey}.png"),
        ("/{z}/{x}/{y}{r}.png", "/17/67392/{row}@2x.png"),
    ],
)
def test_template_names_the_tile(tile_server: Any, hasty: Client, template: str, first: str) -> None:
    row = 43200
    url = TemplateTiles(tile_server.url + template, FACTS, hasty).url(17, 67392, row)
    wanted = first.format(flipped=2**17 - 1 - row, row=row, quadkey=quadkey(17, 67392, row))
    assert url.removeprefix(tile_server.url).partition("?")[0] == wanted


def test_quadkey_is_that_of_its_definition() -> None:
    assert quadkey(3, 3, 5) == "213"  # the example of its inventors
    assert quadkey(0, 0, 0) == ""


def test_subdomains_are_all_used_and_one_for_each_tile(hasty: Client) -> None:
    tiles = TemplateTiles("http://{switch:127.0.0.1,127.0.0.2}:1/{z}/{x}/{y}", FACTS, hasty)
    hosts = {tiles.url(17, x, 5).split(":1/")[0] for x in range(4)}
    assert hosts == {"http://127.0.0.1", "http://127.0.0.2"}
    assert tiles.url(17, 3, 5) == tiles.url(17, 3, 5)
    assert "http://c." in TemplateTiles("http://{s}.localhost:1/{z}/{x}/{y}", FACTS, hasty).url(17, 1, 1)


def test_key_comes_from_the_environment_and_is_shown_nowhere(
    served: Any, hasty: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="TILE_KEY is not set"):
        TemplateTiles(served.url + "/{z}/{x}/{y}?key={env:TILE_KEY}", FACTS, hasty)
    monkeypatch.setenv("TILE_KEY", "s3cret")
    tiles = TemplateTiles(served.url + "/{z}/{x}/{y}?key={env:TILE_KEY}", FACTS, hasty)
    assert tiles.url(1, 1, 0).endswith("?key=s3cret")
    served.faults["/17/5/5"] = ["403"]
    with pytest.raises(RemoteError) as refused:
        tiles.fetch(17, 5, 5)
    assert "s3cret" not in f"{refused.value} {tiles.name} {tiles.identity}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("http://h/{z}/{x}", "needs"),
        ("http://h/{z}/{x}/{y}/{style}", "style"),
        ("http://h/{z}/{x}/{y}#max_zoom=far", "whole number"),
        ("http://h/{z}/{x}/{y}#zoom=3", "unknown option zoom"),
        ("http://h/{z}/{x}/{y}#min_zoom=9&max_zoom=4", "ascend"),
        ("http://h/{z}/{x}/{y}#bounds=1,2,3", "west,south,east,north"),
        ("http://h/{z}/{x}/{y}#bounds=1,60,3,50", "west, south, east, north"),
    ],
)
def test_template_that_cannot_be_understood_is_refused(hasty: Client, template: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TemplateTiles(template, None, hasty)


def test_private_address_is_refused_unless_allowed(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLCODE_ALLOW_PRIVATE")
    with pytest.raises(RemoteError, match="private address"):
        open_source(served.url + "/{z}/{x}/{y}.png")
    assert not served.asked


def test_facts_behind_the_template(served: Any, waves: Any) -> None:
    source = open_source(
        served.url + "/{z}/{x}/{y}#max_zoom=17&attribution=Town&licence=CC0&bounds=5,51,6,53&date=2024-05-01"
    )
    assert (source.attribution, source.licence, source.date) == ("Town", "CC0", "2024-05-01")
    assert source.bounds == (5, 51, 6, 53)
    assert _shift_m(source, waves) < 0.05
    asked = len(served.asked)
    assert not source.read(50.0, 5.5, SIZE_M, SIZE_PX).mask.any()  # outside its bounds: not asked for, not missing
    assert len(served.asked) == asked
    assert not source.missing


def test_retina_tiles_are_found_to_be_larger(tile_server: Any, waves: Any, encode: Encode, hasty: Client) -> None:
    def route(path: str, query: dict[str, str]) -> bytes | None:
        z, x, y = (int(number) for number in path.removesuffix("@2x").strip("/").split("/"))
        return None if x == 0 else encode(waves.tile(z, x, y, 512))

    tile_server.route = route
    source = TileSource(TemplateTiles(tile_server.url + "/{z}/{x}/{y}{r}", Facts(), hasty))
    assert _shift_m(source, waves) < 0.05
    zooms = [path.split("/")[1] for path in tile_server.paths()]
    assert zooms.count("17") <= 2  # the first tile, and the corner of the world
    assert set(zooms[2:]) == {"16"}


def test_beyond_the_finest_zoom_tiles_are_enlarged(served: Any, hasty: Client) -> None:
    known = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", Facts(max_zoom=16), hasty))
    guessed = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", Facts(max_zoom=22), hasty))
    fine = known.read(LAT, LON, 60.0, 200)  # 0.3 m: zoom 18 where there is one
    assert fine.mask.all()
    again = guessed.read(LAT, LON, 60.0, 200)
    assert again.mask.all()
    assert not guessed.missing
    exact = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", Facts(max_zoom=17), hasty)).read(LAT, LON, 60.0, 200)
    assert np.abs(again.pixels.astype(int) - exact.pixels).mean() < 1.5


def test_finer_tiles_than_asked_are_reduced(served: Any, waves: Any, hasty: Client) -> None:
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", Facts(min_zoom=17, max_zoom=17), hasty))
    crop = source.read(LAT, LON, 400.0, 100)  # 4 m a pixel, tiles have 0.7
    wanted = waves.crop(LAT, LON, 400.0, 800).reshape(100, 8, 100, 8, 3).mean(axis=(1, 3))
    assert np.corrcoef(crop.pixels.ravel(), wanted.ravel())[0, 1] > 0.995


def test_crop_that_would_need_thousands_of_tiles_is_refused(served: Any, hasty: Client) -> None:
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", Facts(min_zoom=17, max_zoom=17), hasty))
    with pytest.raises(InputError, match="smaller crop"):
        source.read(LAT, LON, 100_000, 64)


def _client(fault: str, hasty: Client) -> Client:
    """A client that waits for an answer no longer than a test may take; short only where no answer comes."""
    if not fault.startswith("hang"):
        return hasty
    return Client(Politeness(requests_per_s=2000, tries=2, timeout_s=0.5, first_wait_s=0.01), allow_private=True)


@pytest.mark.parametrize("fault", ["429", "429 after", "500", "503", "hang", "cut", "long", "truncated", "html"])
def test_passing_fault_is_asked_again(served: Any, waves: Any, hasty: Client, fault: str) -> None:
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))
    source.read(LAT, LON, SIZE_M, SIZE_PX)
    path = served.paths()[-1]
    served.faults[path] = [fault]
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, _client(fault, hasty)))
    assert _shift_m(source, waves) < 0.05
    assert not source.missing
    assert served.paths().count(path) >= 3


@pytest.mark.parametrize(
    ("fault", "reason", "passing"),
    [
        ("429", "too many requests", True),
        ("500", "server error", True),
        ("hang", "timeout", True),
        ("cut", "cut body", True),
        ("html", "not an image", True),
        ("truncated", "damaged", True),
        ("elsewhere", "redirect to another host", True),
        ("404", "not there", False),
        ("204", "not there", False),
        ("empty", "not there", False),
        ("403", "refused", False),
        ("400", "bad request", False),
    ],
)
def test_fault_that_stays_is_masked_and_counted(
    served: Any, hasty: Client, fault: str, reason: str, passing: bool
) -> None:
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", Facts(min_zoom=17, max_zoom=17), hasty))
    whole = source.read(LAT, LON, SIZE_M, SIZE_PX)
    path = served.paths()[-1]
    served.faults[path] = [fault + "..."]
    client = _client(fault, hasty)
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", Facts(min_zoom=17, max_zoom=17), client))
    for _ in range(2):  # the second time it is not asked for again, and not counted again
        asked = served.paths().count(path)
        crop = source.read(LAT, LON, SIZE_M, SIZE_PX)
        assert 0 < crop.mask.mean() < 1
        assert crop.complete == (not passing)
        seen = crop.mask & np.roll(crop.mask, 2, axis=0) & np.roll(crop.mask, 2, axis=1)
        assert np.abs(crop.pixels.astype(int) - whole.pixels)[seen].max() <= 8  # resampled another way beside a gap
        assert source.missing == {Missing(reason, "127.0.0.1", passing): 1}
    assert served.paths().count(path) == asked
    assert summary(source.missing) == f"1 tile of 127.0.0.1 missing: 1 {reason}"
    if passing:
        with pytest.raises(InputError, match=f"1 {reason}; run it again"):
            refuse_transient(source.missing, "run it again")
    else:
        refuse_transient(source.missing, "run it again")


def test_service_that_is_down_ends_the_work(tile_server: Any, hasty: Client) -> None:
    tile_server.route = lambda path, query: b"<html>down for maintenance</html>"
    source = TileSource(TemplateTiles(tile_server.url + "/{z}/{x}/{y}", FACTS, hasty))
    lat = np.linspace(52, 52.1, 40)
    with pytest.raises(RemoteError, match=f"{IN_A_ROW} consecutive tiles could not be fetched"):
        read_crops(source, lat, np.full(40, 5.0), size_m=50, size_px=16)


def test_wrong_key_is_said_at_once(tile_server: Any, served: Any, hasty: Client) -> None:
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))
    source.read(LAT, LON, SIZE_M, SIZE_PX)
    served.faults[served.paths()[-1]] = ["401..."]
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))
    with pytest.raises(RemoteError, match="key or token"):
        source.read(LAT, LON, SIZE_M, SIZE_PX)


def test_crops_are_the_same_in_any_order_and_tiles_are_fetched_once(served: Any, hasty: Client) -> None:
    rng = np.random.default_rng(3)
    lat, lon = LAT + rng.uniform(-1, 1, 30) * 2e-3, LON + rng.uniform(-1, 1, 30) * 2e-3
    first = read_crops(
        TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty)), lat, lon, size_m=80, size_px=32
    )
    assert len(served.asked) == len(set(served.paths()))
    source = TileSource(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))
    for row in rng.permutation(30):
        crop = source.read(float(lat[row]), float(lon[row]), 80, 32)
        np.testing.assert_array_equal(crop.pixels, first.pixels[row])
