"""Against milvus-lite, which runs inside the process; a server is spoken to with the same calls."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.cli import export
from cellcode.database import Database
from cellcode.errors import InputError, MissingExtraError, UsageError
from cellcode.geography import Region, s2
from cellcode.search import milvus
from cellcode.search.milvus import MilvusError, MilvusSearcher
from cellcode.search.searcher import DatabaseSearcher
from cellcode.types import Float32, Ids

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

RNG = np.random.default_rng(0)
QUERIES = RNG.standard_normal((5, 32)).astype(np.float32)
QUERIES /= np.linalg.norm(QUERIES, axis=1, keepdims=True)
TOKEN = "root:a-secret-nobody-may-see"


@pytest.fixture(scope="module")
def large(town_cells: Database) -> Database:
    """The town's database with many more cells: a level finer, in memory."""
    ids = Region.bbox(3.0, 52.0, 3.1, 52.05).cells(17)
    codes = RNG.standard_normal((len(ids), 32)).astype(np.float16)
    own = {"levels": {"prototype": 16, "cell": 17}, "identity": "large", "search": None, "files": {}}
    own["codes"] = {**town_cells.manifest["codes"], "int8_step": 1.0, "int8_error": 0.0, "longest": 14.0}
    manifest = {**town_cells.manifest, **own}
    return dataclasses.replace(town_cells, ids=ids, codes=codes, manifest=manifest)


@pytest.fixture(scope="module")
def uri(town_cells: Database, large: Database, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("milvus") / "codes.db")
    assert milvus.export(town_cells, path, "town") == len(town_cells.ids)
    assert milvus.export(large, path, "large", batch=500) == len(large.ids)
    return path


@pytest.fixture(scope="module")
def searcher(uri: str) -> Iterator[MilvusSearcher]:
    with MilvusSearcher(uri, "large") as opened:
        yield opened


def regions() -> dict[str, Region | None]:
    lat, lon = 52.025, 3.05
    turn = np.linspace(0, 2 * np.pi, 21)
    reach = np.where(np.arange(21) % 2, 0.004, 0.02)
    star = np.stack([lon + reach * np.cos(turn), lat + reach * np.sin(turn)], axis=1)
    star[-1] = star[0]
    return {
        "everywhere": None,
        "box": Region.bbox(3.02, 52.01, 3.05, 52.03),
        "circle": Region.cap(lat, lon, 600.0),
        "star": Region.geojson({"type": "Polygon", "coordinates": [star.tolist()]}),
    }


@pytest.mark.parametrize("name", ["everywhere", "box", "circle", "star"])
@pytest.mark.parametrize("ranges", [3, 256])
def test_ids_are_those_of_exact_search(
    monkeypatch: pytest.MonkeyPatch, searcher: MilvusSearcher, large: Database, name: str, ranges: int
) -> None:
    monkeypatch.setattr(milvus, "RANGES", ranges)  # few: several filtered calls
    exact, region = DatabaseSearcher(large), regions()[name]
    assert searcher.count(region) == exact.count(region) > 50
    for k in (1, 20, exact.count(region)):
        hits, expected = searcher.search(QUERIES, k, region, 0.1), exact.search(QUERIES, k, region, 0.1)
        np.testing.assert_allclose(hits.scores, expected.scores, atol=2e-6)
        assert_same_but_for_rounding(hits.cell_ids, expected.cell_ids, expected.scores)
        assert (hits.cell_ids.dtype, hits.scores.dtype) == (np.uint64, np.float32)
        assert (hits.searched.method, hits.searched.cells, hits.searched.exact) == ("milvus", exact.count(region), True)
        if k == exact.count(region):
            np.testing.assert_allclose(hits.log_mass, expected.log_mass, rtol=1e-5)
        else:
            assert hits.log_mass is None


def assert_same_but_for_rounding(ids: Ids, expected: Ids, scores: Float32) -> None:
    """Neighbours in a list of thousands may be closer than float32 sums tell apart; only those may change places."""
    query, place = np.nonzero(ids != expected)
    gaps = np.pad(np.abs(np.diff(scores, axis=1)), ((0, 0), (1, 1)), constant_values=np.inf)
    assert (np.minimum(gaps[query, place], gaps[query, place + 1]) < 2e-6).all()
    if ids.shape[1] <= 20:
        np.testing.assert_array_equal(ids, expected)


def test_a_real_database_gives_its_best_cells(uri: str, town_cells: Database) -> None:
    with MilvusSearcher(uri, "town") as opened:
        assert (opened.identity, opened.level) == (town_cells.identity, 16)
        assert opened.temperature == town_cells.calibration.temperature
        np.testing.assert_array_equal(
            opened.search(QUERIES, 10).cell_ids, DatabaseSearcher(town_cells).search(QUERIES, 10).cell_ids
        )


def test_keys_keep_ids_and_their_order_on_all_faces() -> None:
    ids = np.sort(s2.cell_ids(RNG.uniform(-90, 90, 500), RNG.uniform(-180, 180, 500), 30))
    assert ids.max() > 1 << 63 > ids.min()
    keys = milvus.to_keys(ids)
    assert keys.dtype == np.int64
    assert (np.diff(keys) > 0).all()
    np.testing.assert_array_equal(milvus.from_keys(keys), ids)
    first = s2.range_min(np.array([1 << 60], np.uint64))  # the first cell there is
    assert milvus.to_keys(first)[0] == -(2**63) + 1  # whose digits still fit int64, which Milvus reads without the sign


def test_filters_nest_no_deeper_than_milvus_can_read() -> None:
    ranges = np.arange(512, dtype=np.uint64).reshape(256, 2)
    depth = deepest = 0
    for letter in milvus.id_filter(ranges):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        deepest = max(deepest, depth)
    assert deepest <= 10
    assert milvus.id_filter(ranges).count(">=") == 256


def test_the_same_database_is_written_once(
    monkeypatch: pytest.MonkeyPatch, uri: str, town_cells: Database, large: Database
) -> None:
    assert milvus.export(town_cells, uri, "town") == 0
    with pytest.raises(InputError, match=rf"holds database {town_cells.identity} .*replace it"):
        milvus.export(large, uri, "town")
    with pytest.raises(InputError, match="float32 HNSW"):
        milvus.export(town_cells, uri, "town", index="HNSW")
    assert milvus.export(large, uri, "other") > 0
    assert milvus.export(town_cells, uri, "other", replace=True) == len(town_cells.ids)
    with MilvusSearcher(uri, "other") as opened:
        assert opened.count() == len(town_cells.ids)


def test_an_interrupted_export_is_noticed_and_written_again(
    monkeypatch: pytest.MonkeyPatch, uri: str, town_cells: Database
) -> None:
    class Interrupted(milvus.Meter):
        def advance(self, steps: int = 1) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(milvus, "Meter", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            milvus.export(town_cells, uri, "half", batch=30)
    with pytest.raises(InputError, match=rf"has 30 of the {len(town_cells.ids)} cells"):
        MilvusSearcher(uri, "half")
    assert milvus.export(town_cells, uri, "half", batch=30) == len(town_cells.ids)
    with MilvusSearcher(uri, "half") as opened:
        assert opened.count() == len(town_cells.ids)


def test_collections_of_others_are_neither_searched_nor_dropped(uri: str, town_cells: Database) -> None:
    client = pymilvus.MilvusClient(uri)
    client.create_collection("foreign", dimension=8)
    for replace in (False, True):
        with pytest.raises(InputError, match="not cellcode's"):
            milvus.export(town_cells, uri, "foreign", replace=replace)
    assert client.has_collection("foreign")
    with pytest.raises(InputError, match="not written by"):
        MilvusSearcher(uri, "foreign")
    with pytest.raises(InputError, match="no collection nowhere"):
        MilvusSearcher(uri, "nowhere")
    client.close()


def test_bad_questions_are_refused(searcher: MilvusSearcher, uri: str, town_cells: Database) -> None:
    box = Region.bbox(3.02, 52.01, 3.05, 52.03)
    with pytest.raises(InputError, match="ask for fewer"):
        searcher.search(QUERIES, searcher.count(box) + 1, box)
    with pytest.raises(InputError, match="no cell"):
        searcher.search(QUERIES, 1, Region.bbox(10, 10, 10.1, 10.1))
    with pytest.raises(InputError, match="32"):
        searcher.search(QUERIES[:, :5], 1)
    with pytest.raises(InputError, match="not finite"):
        searcher.search(np.full((1, 32), np.nan, np.float32), 1)
    with pytest.raises(UsageError, match="float32 only"):
        milvus.export(town_cells, uri, vector="float16")
    with pytest.raises(UsageError, match="neither"):
        MilvusSearcher("some/folder")


def test_a_file_that_cannot_be_opened_gives_one_sentence(
    town_cells: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.db").write_text("no collection")
    with pytest.raises(MilvusError, match="another process may have it open"):
        milvus.export(town_cells, str(tmp_path / "other.db"))
    with pytest.raises(MilvusError, match="nowhere not exists"):
        milvus.export(town_cells, str(tmp_path / "nowhere" / "x.db"))
    assert "Traceback" not in capfd.readouterr().err


def test_the_command_says_what_it_did(town_cells: Database, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    export.command(town_cells.folder, export.Target.milvus, uri, "by_command")
    export.command(town_cells.folder, export.Target.milvus, uri, "by_command")
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"by_command at {uri}: {len(town_cells.ids)} cells written"
    assert second == f"by_command at {uri}: already there"


def test_the_token_comes_from_the_environment_and_is_told_to_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []
    real = pymilvus.MilvusClient

    def client(*arguments: Any, **named: Any) -> Any:
        given.append(named["token"])
        return real(*arguments, **named, timeout=0.5)

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(pymilvus, "MilvusClient", client)
    monkeypatch.setenv("TOWN_TOKEN", TOKEN)
    with pytest.raises(MilvusError) as caught:
        MilvusSearcher("http://127.0.0.1:9", token_env="TOWN_TOKEN")
    assert given == [TOKEN]
    shown = capfd.readouterr()
    for text in (str(caught.value), repr(caught.value.__cause__), caplog.text, shown.out, shown.err):
        assert TOKEN not in text
        assert "a-secret" not in text
    with pytest.raises(UsageError, match=r"must hold no password; put it into \$MILVUS_TOKEN") as refused:
        MilvusSearcher(f"http://{TOKEN}@127.0.0.1:9")
    assert TOKEN not in str(refused.value)


def test_a_server_gets_float16(town_cells: Database) -> None:
    """Rows and queries as pymilvus packs them for a server: two bytes a figure."""
    from pymilvus.client.prepare import Prepare

    schema = pymilvus.MilvusClient.create_schema()
    schema.add_field(milvus.CELL, pymilvus.DataType.INT64, is_primary=True)
    schema.add_field(milvus.CODE, pymilvus.DataType.FLOAT16_VECTOR, dim=32)
    rows = [{milvus.CELL: 1, milvus.CODE: town_cells.codes[0]}]
    fields = [field.to_dict() for field in schema.fields]
    request = Prepare.row_insert_param("town", rows, "", fields)
    packed = {each.field_name: each for each in request.fields_data}[milvus.CODE]
    assert np.frombuffer(packed.vectors.float16_vector, np.float16).tolist() == town_cells.codes[0].tolist()


@pytest.mark.parametrize(
    ("version", "has"),
    [("2.3.5", False), ("v2.4.0", True), ("2.6.4-gpu", True), ("3.0", True), ("milvus_lite-3.2", False)],
)
def test_float16_is_left_to_servers_that_know_it(version: str, has: bool) -> None:
    assert milvus._has_float16(version) is has


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, town_cells: Database) -> None:
    monkeypatch.setitem(sys.modules, "milvus_lite", None)
    with pytest.raises(MissingExtraError, match=r"cellcode\[milvus\]"):
        milvus.export(town_cells, str(tmp_path / "x.db"))
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"cellcode\[milvus\]"):
        MilvusSearcher("http://127.0.0.1:9")
