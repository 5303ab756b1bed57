"""MBTiles as a source, and as the cache of a service."""

import gzip
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.aerial import open_source, read_crops
from cellcode.aerial.missing import Missing
from cellcode.aerial.tiles import decoder, mbtiles
from cellcode.aerial.tiles.cache import CachedTiles, CacheRules, cache_folder, cached
from cellcode.aerial.tiles.mbtiles import MbTiles
from cellcode.aerial.tiles.service import Facts
from cellcode.aerial.tiles.source import TileSource
from cellcode.aerial.tiles.template import TemplateTiles
from cellcode.errors import InputError, OutputError, UsageError
from cellcode.http import Client, MissingError, RemoteError

Encode = Callable[[Any], bytes]
LAT, LON, SIZE_M, SIZE_PX = 52.0, 5.1, 100.0, 96
Z, X, Y = 17, 67392, 43295  # of the tile there
FACTS = Facts(min_zoom=17, max_zoom=17, attribution="Town", licence="CC0", bounds=(5, 51, 6, 53))


@pytest.fixture
def write(waves: Any, encode: Encode, tmp_path: Path) -> Callable[..., Path]:
    """Write a file with the 5 x 5 tiles around the place, as its specification has it."""

    def write(name: str = "a.mbtiles", skip: tuple[int, int] | None = None, **metadata: str) -> Path:
        path = tmp_path / name
        with sqlite3.connect(path) as file:
            file.execute("CREATE TABLE metadata (name text, value text)")
            file.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
            file.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")
            file.executemany("INSERT INTO metadata VALUES (?, ?)", ({"format": "png"} | metadata).items())
            for x in range(X - 2, X + 3):
                for y in range(Y - 2, Y + 3):
                    if (x, y) != skip:
                        row = (Z, x, 2**Z - 1 - y, encode(waves.tile(Z, x, y)))
                        file.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", row)
        file.close()
        return path

    return write


@pytest.fixture
def served(tile_server: Any, waves: Any, encode: Encode) -> Any:
    def route(path: str, query: dict[str, str]) -> bytes | None:
        z, x, y = (int(number) for number in path.strip("/").split("/"))
        return None if x == 0 else encode(waves.tile(z, x, y))

    tile_server.route, tile_server.etags = route, True
    return tile_server


def test_file_shows_the_place(write: Callable[..., Path], waves: Any) -> None:
    source = open_source(write(attribution="Town", license="CC0", bounds="5.09,51.99,5.11,52.01"))
    assert (source.attribution, source.licence, source.bounds) == ("Town", "CC0", (5.09, 51.99, 5.11, 52.01))
    crop = source.read(LAT, LON, SIZE_M, SIZE_PX, 20.0)
    assert crop.mask.all()
    assert np.abs(crop.pixels - waves.crop(LAT, LON, SIZE_M, SIZE_PX, 20.0)).max() < 2.5
    assert source.covers(LAT, LON)
    assert not source.covers(52.1, LON)


def test_bounds_come_from_the_tiles_where_the_file_does_not_say_them(write: Callable[..., Path]) -> None:
    source = open_source(write())
    west, south, east, north = source.bounds
    side_deg = 360 / 2**Z
    assert (west, east) == pytest.approx(((X - 2) * side_deg - 180, (X + 3) * side_deg - 180))
    assert south < LAT < north
    crop = source.read(north, LON, SIZE_M, SIZE_PX)  # half of it lies outside
    assert crop.mask[60:].all()
    assert not crop.mask[:40].any()
    assert not source.missing


def test_tile_that_is_not_there_is_masked_and_counted(write: Callable[..., Path]) -> None:
    source = open_source(write(skip=(X, Y)))
    crop = source.read(LAT, LON, SIZE_M, SIZE_PX)
    assert 0 < crop.mask.mean() < 1
    assert crop.complete
    assert source.missing == {Missing("not there", "a.mbtiles"): 1}


def test_identity_follows_the_tiles(write: Callable[..., Path]) -> None:
    first, again, other = write("a.mbtiles"), write("b.mbtiles"), write("c.mbtiles", skip=(X, Y))
    assert open_source(first).identity == open_source(again).identity != open_source(other).identity


def test_several_threads_read_one_file(write: Callable[..., Path]) -> None:
    path = write()
    rng = np.random.default_rng(0)
    lat, lon = LAT + rng.uniform(-1, 1, 40) * 1e-3, LON + rng.uniform(-1, 1, 40) * 1e-3
    with TileSource(MbTiles(path)) as source:
        crops = read_crops(source, lat, lon, size_m=80, size_px=32)
    with TileSource(MbTiles(path)) as source:
        for row in range(40):
            np.testing.assert_array_equal(
                crops.pixels[row], source.read(float(lat[row]), float(lon[row]), 80, 32).pixels
            )


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"format": "pbf"}, "vector tiles"),
        ({"bounds": "5,52,6"}, "not west,south,east,north"),
        ({"bounds": "500,52,600,53"}, "not west,south,east,north"),
    ],
)
def test_file_that_cannot_be_used_is_said_so(write: Callable[..., Path], metadata: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_source(write(**metadata))


def test_damaged_files_are_said_so(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "text.mbtiles").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="cannot be read as MBTiles"):
        open_source(tmp_path / "text.mbtiles")
    path = write()
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM tiles")
    file.close()
    with pytest.raises(InputError, match="holds no tiles"):
        open_source(path)


def _edit(path: Path, *statements: str, **values: Any) -> Path:
    with sqlite3.connect(path) as file:
        for statement in statements:
            file.execute(statement, values)
    file.close()
    return path


def test_damaged_tiles_are_missing_ones_that_are_counted(
    write: Callable[..., Path],
    encode: Encode,
    waves: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mbtiles, "MAX_TILE_BYTES", 2**19)
    own = f"WHERE tile_column = {X} AND tile_row = {2**Z - 1 - Y}"
    whole = encode(waves.tile(Z, X, Y))
    scans = b"\xff\xd8" + 200 * b"\xff\xda"
    for number, body in enumerate((b"\0\1", whole[:500], b"%!PS-Adobe-3.0 EPSF-3.0\n", scans, "text", bytes(2**20))):
        source = open_source(_edit(write(f"{number}.mbtiles"), f"UPDATE tiles SET tile_data = :body {own}", body=body))
        crop = source.read(LAT, LON, SIZE_M, SIZE_PX)
        assert 0 < crop.mask.mean() < 1
        assert crop.complete
        assert source.missing == {Missing("damaged", f"{number}.mbtiles"): 1}
        assert f"tile {Z}/{X}/{Y} cannot be read" in caplog.records[-1].message
    source = open_source(_edit(write("all.mbtiles"), "UPDATE tiles SET tile_data = x'00'"))
    monkeypatch.setattr(decoder, "REFUSED_IN_A_ROW", 9)
    with pytest.raises(InputError, match=r"9 consecutive tiles .* all.mbtiles: tile 17/\d+/\d+ cannot be read"):
        source.read(LAT, LON, 600, SIZE_PX)
    packed = _edit(write("gzip.mbtiles"), f"UPDATE tiles SET tile_data = :body {own}", body=gzip.compress(whole))
    assert open_source(packed).read(LAT, LON, SIZE_M, SIZE_PX).mask.all()
    bomb = _edit(write("bomb.mbtiles"), f"UPDATE tiles SET tile_data = :body {own}", body=gzip.compress(bytes(2**20)))
    assert not open_source(bomb).read(LAT, LON, 10, SIZE_PX).mask.any()


def test_rows_from_the_north_are_found_by_the_bounds(write: Callable[..., Path], waves: Any) -> None:
    flip = f"UPDATE tiles SET tile_row = {2**Z - 1} - tile_row"
    for metadata in ({"bounds": "5,51,6,53"}, {"scheme": "xyz"}, {"bounds": "5,51,6,53", "scheme": "tms"}):
        path = _edit(write(f"{len(metadata)}{next(iter(metadata))}.mbtiles", **metadata), flip)
        crop = open_source(path).read(LAT, LON, SIZE_M, SIZE_PX, 20.0)
        assert crop.mask.all()
        assert np.abs(crop.pixels - waves.crop(LAT, LON, SIZE_M, SIZE_PX, 20.0)).max() < 2.5
    ordinary = write("xyz.mbtiles", bounds="5,51,6,53", scheme="xyz")  # the bounds decide
    assert open_source(ordinary).read(LAT, LON, SIZE_M, SIZE_PX).mask.all()
    with pytest.raises(
        InputError, match=r"a\.mbtiles: its tiles lie in 5\.09.*, outside its bounds; correct its metadata"
    ):
        open_source(write(bounds="15,11,16,13"))
    with pytest.raises(InputError, match="which do not exist"):
        open_source(
            _edit(
                write("text.mbtiles"),
                f"UPDATE tiles SET tile_row = 'x' WHERE tile_column = {X} AND tile_row = {2**Z - 1 - Y}",
            )
        )


def test_files_that_never_end_or_call_functions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbtiles, "QUERY_S", 0.2)
    count = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"
    tile = f"SELECT {Z} AS zoom_level, {X} AS tile_column, {2**Z - 1 - Y} AS tile_row"
    bad = {
        "endless": (f"{count} SELECT 1 zoom_level, n tile_column, n tile_row, x'00' tile_data FROM c", "within 0.2 s"),
        "huge": (f"{tile}, zeroblob(900000000) AS tile_data", "too big"),
        "code": (f"{tile}, load_extension('x') AS tile_data", "unsafe use of load_extension"),
    }
    for name, (view, words) in bad.items():
        path = _edit(
            tmp_path / f"{name}.mbtiles", "CREATE TABLE metadata (name, value)", f"CREATE VIEW tiles AS {view}"
        )
        with pytest.raises(InputError, match=words):
            open_source(path)
    path = _edit(
        tmp_path / "long.mbtiles", f"CREATE VIEW metadata AS {count} SELECT 'k' || n AS name, zeroblob(1000) AS value FROM c",
        f"CREATE TABLE tiles AS {tile}, x'00' AS tile_data",
    )  # fmt: skip
    assert open_source(path).bounds[0] == pytest.approx(LON, abs=1e-2)


def test_what_was_fetched_is_not_fetched_again_and_is_a_file_of_its_own(
    served: Any, waves: Any, hasty: Client, tmp_path: Path
) -> None:
    address = served.url + "/{z}/{x}/{y}"
    with cached(TemplateTiles(address, FACTS, hasty)) as source:
        first = source.read(LAT, LON, SIZE_M, SIZE_PX)
    asked = len(served.asked)
    with cached(TemplateTiles(address, FACTS, hasty)) as source:
        again = source.read(LAT, LON, SIZE_M, SIZE_PX)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert len(served.asked) == asked
    assert cache_folder() == tmp_path / "cache/tiles"
    (path,) = cache_folder().glob("*.mbtiles")
    with TileSource(MbTiles(path)) as file:
        assert (file.attribution, file.licence, file.bounds) == ("Town", "CC0", FACTS.bounds)
        np.testing.assert_array_equal(file.read(LAT, LON, SIZE_M, SIZE_PX).pixels, first.pixels)


def test_other_layers_have_other_files(served: Any, hasty: Client) -> None:
    for query in ("a", "b", "a"):
        cached(TemplateTiles(f"{served.url}/{{z}}/{{x}}/{{y}}?layer={query}", FACTS, hasty)).close()
    assert len(list(cache_folder().glob("*.mbtiles"))) == 2


def test_old_tile_is_fetched_again_only_if_it_has_changed(
    served: Any, waves: Any, encode: Encode, hasty: Client, tmp_path: Path
) -> None:
    tiles = CachedTiles(
        TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty), tmp_path / "c.mbtiles", CacheRules(refresh_after_s=0)
    )
    body = tiles.fetch(Z, X, Y).body
    before = hasty.fetched_bytes
    assert tiles.fetch(Z, X, Y).body == body
    assert served.asked[-1][1]["If-None-Match"]
    assert hasty.fetched_bytes == before
    served.route = lambda path, query: encode(waves.tile(Z, X, Y + 1))
    changed = tiles.fetch(Z, X, Y).body
    assert changed is not None
    assert changed != body
    served.faults[f"/{Z}/{X}/{Y}"] = ["500..."]
    assert tiles.fetch(Z, X, Y).body == changed  # an old tile is better than none


def test_missing_tile_is_asked_for_again_only_after_its_age(
    served: Any, hasty: Client, tmp_path: Path, encode: Encode, waves: Any
) -> None:
    provider = TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty)
    tiles = CachedTiles(provider, tmp_path / "c.mbtiles")
    served.faults[f"/{Z}/{X}/{Y}"] = ["404"]
    for _ in range(3):
        with pytest.raises(MissingError):
            tiles.fetch(Z, X, Y)
    assert len(served.asked) == 1
    tiles.close()
    later = CachedTiles(provider, tmp_path / "c.mbtiles", CacheRules(missing_after_s=0))
    assert later.fetch(Z, X, Y).body == encode(waves.tile(Z, X, Y))


def test_passing_fault_is_not_kept(served: Any, hasty: Client, tmp_path: Path) -> None:
    tiles = CachedTiles(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty), tmp_path / "c.mbtiles")
    served.faults[f"/{Z}/{X}/{Y}"] = ["500", "500", "500"]
    with pytest.raises(RemoteError, match="server failed"):
        tiles.fetch(Z, X, Y)
    assert tiles.fetch(Z, X, Y).body is not None


def test_oldest_tiles_are_removed_beyond_the_cap(served: Any, hasty: Client, tmp_path: Path) -> None:
    provider = TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty)
    tiles = CachedTiles(provider, tmp_path / "c.mbtiles")
    sizes = []
    for x in range(10):
        body = tiles.fetch(Z, X + x, Y).body
        assert body is not None
        sizes.append(len(body))
        time.sleep(0.002)
    assert tiles.kept_bytes() == sum(sizes)
    tiles.close()
    cap = sum(sizes) // 2
    small = CachedTiles(provider, tmp_path / "c.mbtiles", CacheRules(max_bytes=cap))
    small.trim()
    assert 0.3 * cap < small.kept_bytes() <= 0.9 * cap
    asked = len(served.asked)
    small.fetch(Z, X + 9, Y)  # the last one is still there, the first is not
    assert len(served.asked) == asked
    small.fetch(Z, X, Y)
    assert len(served.asked) == asked + 1


def test_cap_can_be_set(served: Any, hasty: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLCODE_CACHE_GB", "0.5")
    source = cached(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))
    assert isinstance(source.provider, CachedTiles)
    assert source.provider.rules.max_bytes == 2**29
    monkeypatch.setenv("CELLCODE_CACHE_GB", "much")
    with pytest.raises(UsageError, match="CELLCODE_CACHE_GB is 'much'"):
        cached(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty))


def test_placeholders_are_remembered(served: Any, encode: Encode, hasty: Client) -> None:
    odd = np.zeros((256, 256, 3), np.uint8)
    odd[100:140, 60:200] = 200
    served.route = lambda path, query: None if "/0/" in path else encode(odd)
    address = served.url + "/{z}/{x}/{y}"
    with cached(TemplateTiles(address, FACTS, hasty)) as source:
        source.read(LAT, LON, 1000.0, 64)
        assert any(why.transient for why in source.missing)  # some were taken for imagery: the work must be done again
    with cached(TemplateTiles(address, FACTS, hasty)) as source:
        assert not source.read(LAT, LON, 1000.0, 64).mask.any()
        assert {why.reason for why in source.missing} == {"placeholder"}
        assert not any(why.transient for why in source.missing)


def test_damaged_cache_is_named(served: Any, hasty: Client, tmp_path: Path) -> None:
    path = tmp_path / "c.mbtiles"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"c.mbtiles cannot be used .*remove the file"):
        CachedTiles(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty), path)


def test_full_disk_is_told_from_a_damaged_cache(served: Any, hasty: Client, tmp_path: Path) -> None:
    tiles = CachedTiles(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty), tmp_path / "c.mbtiles")
    tiles._execute("PRAGMA max_page_count = 1")  # of the pages that it has
    with pytest.raises(OutputError, match=r"c\.mbtiles: the disk is full; make room"):
        list(map(tiles.fetch, [Z] * 50, range(X, X + 50), [Y] * 50))
    tiles._execute("PRAGMA max_page_count = 1000000")
    assert tiles.fetch(Z, X, Y).body is not None  # nothing is locked


def test_many_threads_write_one_cache(served: Any, hasty: Client, tmp_path: Path) -> None:
    tiles = CachedTiles(TemplateTiles(served.url + "/{z}/{x}/{y}", FACTS, hasty), tmp_path / "c.mbtiles")
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for x in range(first, first + 8):
                tiles.fetch(Z, X + x, Y)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 4, 8, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert _keys(tmp_path / "c.mbtiles") == {X + x for x in range(20)}


WRITER = """
import sys
from pathlib import Path
from cellcode.aerial.tiles.service import Facts
from cellcode.aerial.tiles.template import TemplateTiles
from cellcode.aerial.tiles.cache import CachedTiles
tiles = CachedTiles(TemplateTiles(sys.argv[1] + "/{z}/{x}/{y}", Facts(max_zoom=17)), Path(sys.argv[2]))
for x in range(int(sys.argv[3]), int(sys.argv[3]) + 8):
    tiles.fetch(17, x, 43295)
"""


def test_two_processes_write_one_cache(served: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.mbtiles"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, served.url, str(path), str(X + first)]) for first in (0, 5)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert _keys(path) == {X + x for x in range(13)}


def _keys(path: Path) -> set[int]:
    file = sqlite3.connect(path)
    (check,) = file.execute("PRAGMA integrity_check").fetchone()
    assert check == "ok"
    columns = {column for (column,) in file.execute("SELECT tile_column FROM tiles")}
    file.close()
    return columns
