"""Shards on a Ray cluster of two local nodes: the same answers as one process, and what happens when actors go."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.database import Database, split
from cellcode.database.store.layout import KIND
from cellcode.errors import InputError, MissingExtraError, UsageError
from cellcode.geography import Region, s2
from cellcode.integrity import describe
from cellcode.photos import PhotoTable
from cellcode.search import Answer, Locator, cluster
from cellcode.search.cluster import ClusterSearcher, ShardActor, ShardError, ShardUnusable
from cellcode.search.searcher import DatabaseSearcher, Hits
from cellcode.search.sharded import ShardedSearcher

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

IDS = Region.bbox(3.0, 52.0, 3.2, 52.1).cells(16)
RNG = np.random.default_rng(0)
STEP = 2.0**-5  # codes are whole multiples, so their int8 codes are exact
CODES = ((RNG.standard_normal((len(IDS), 24)) / STEP).round().clip(-127, 127) * STEP).astype(np.float16)
CODES[::5] = CODES[0]  # scores that tie across shards
QUERIES = RNG.standard_normal((7, 24)).astype(np.float32)
PART = Region.bbox(3.05, 52.02, 3.08, 52.05)
CORNER = Region.bbox(3.0, 52.0, 3.02, 52.01)  # cells of one shard only
SHARD = np.arange(len(IDS)) * 3 // len(IDS)
DEATH, ERROR, SLEEP = 1.0, 2.0, 3.0  # first figure of a query


class MoodyActor(ShardActor):
    """Its second shard fails at the first query of each kind; a file remembers it beyond the process."""

    def search(self, queries: Any, *question: Any) -> Any:
        mood = float(queries[0, 0])
        mark = Path(f"{self.folder}.{mood}")
        if mood in (DEATH, ERROR, SLEEP) and "1.cells" in self.folder and not mark.exists():
            mark.touch()
            if mood == DEATH:
                os._exit(1)
            if mood == ERROR:
                raise RuntimeError("an error inside")
            time.sleep(600)
        return super().search(queries, *question)


def write(like: Database, folder: Path, of: Any, **changes: Any) -> Path:
    """Write a database of some of the cells with the run and the calibration of `like`."""
    folder.mkdir()
    np.save(folder / "ids.npy", IDS[of])
    np.save(folder / "codes.npy", CODES[of])
    shutil.copy(like.folder / "config.yaml", folder)
    for name in ("cells.parquet", "ground.safetensors", "queries.npy"):
        shutil.copy(like.folder / name, folder)
    np.save(folder / "codes_int8.npy", (CODES[of] / STEP).astype(np.int8))
    files = describe(folder, [path.name for path in folder.iterdir()])
    codes_of = {**like.manifest["codes"], "int8_step": STEP, "int8_error": 0.0, "longest": 12.0}
    own = {"cells": {"total": len(IDS[of])}, "dim": 24, "codes": codes_of, "search": None, "files": files}
    KIND.write(folder / "manifest.json", {**like.manifest, **own, **changes})
    return folder


@pytest.fixture(scope="module")
def folders(town_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("shards")
    return [write(town_cells, root / f"{number}.cells", number == SHARD) for number in range(3)]


@pytest.fixture(scope="module")
def whole(town_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> DatabaseSearcher:
    return DatabaseSearcher.open(write(town_cells, tmp_path_factory.mktemp("whole") / "all.cells", SHARD >= 0))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of this machine, with two logical processors each; this process is connected to them."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 2, "object_store_memory": 80 << 20}
    # A lost node is missed sooner, and no workers are started before they are needed.
    settings = {
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 3,
        "prestart_worker_first_driver": False,
    }
    head = {**node, "include_dashboard": False, "_system_config": settings}
    local = Cluster(initialize_head=True, head_node_args=head)
    try:
        local.add_node(**node)
        ray.init(address=local.address, log_to_driver=False, logging_level="ERROR")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nodes cannot import the tests
        yield local
    finally:
        ray.shutdown()
        local.shutdown()


def test_a_locator_searches_a_folder_of_shards_on_the_cluster(
    nodes: Any, town_cells: Database, town_photos: PhotoTable, tmp_path: Path
) -> None:
    """Before the searcher below takes the processors. Cells and scores bit for bit; masses are summed by each shard."""
    split(town_cells, 2, out=tmp_path / "shards")
    files, whole = town_photos.of_split("test").files[:8], Locator(town_cells)
    with Locator.open(tmp_path / "shards", cluster="auto") as locator:
        assert isinstance(locator.searcher, ClusterSearcher)
        for ours, alone in zip(locator.locate_many(files), whole.locate_many(files), strict=True):
            assert isinstance(ours, Answer)
            assert isinstance(alone, Answer)
            assert [(each.cell, each.score) for each in ours.candidates] == [
                (each.cell, each.score) for each in alone.candidates
            ]
            assert ours.probability == pytest.approx(alone.probability, rel=1e-3)
            assert ours.radius_90_m == pytest.approx(alone.radius_90_m, rel=1e-2)
            assert (ours.in_region, ours.search.cells) == (alone.in_region, alone.search.cells)
    with pytest.raises(UsageError, match="closed"):
        locator.locate(files[0])


@pytest.fixture(scope="module")
def searcher(nodes: Any, folders: list[Path]) -> Iterator[ClusterSearcher]:
    actor, cluster.ShardActor = cluster.ShardActor, MoodyActor  # type: ignore[misc]
    with ClusterSearcher.start(folders) as started:
        yield started
    cluster.ShardActor = actor  # type: ignore[misc]


def pids(searcher: ClusterSearcher) -> list[int]:
    return list(ray.get([actor.pid.remote() for actor in searcher._actors]))


def assert_same(hits: Hits, expected: Hits) -> None:
    np.testing.assert_array_equal(hits.cell_ids, expected.cell_ids)
    np.testing.assert_array_equal(hits.scores, expected.scores)
    assert (hits.searched.cells, hits.searched.exact) == (expected.searched.cells, expected.searched.exact)


@pytest.mark.parametrize("region", [None, PART, CORNER], ids=["everywhere", "part", "corner"])
def test_the_cluster_answers_bit_for_bit_as_one_process(
    searcher: ClusterSearcher, whole: DatabaseSearcher, folders: list[Path], region: Region | None
) -> None:
    assert searcher.count(region) == whole.count(region) > 10
    for k in (1, 10, whole.count(region)):
        hits = searcher.search(QUERIES, k, region, 0.3)
        assert_same(hits, whole.search(QUERIES, k, region, 0.3))
        np.testing.assert_array_equal(
            hits.log_mass, ShardedSearcher.open(folders).search(QUERIES, k, region, 0.3).log_mass
        )
        assert hits.searched.missing == ()


def test_actors_are_spread_and_have_one_thread(searcher: ClusterSearcher) -> None:
    assert len(set(pids(searcher))) == 3
    used = {each["NodeID"]: each["Resources"]["CPU"] for each in ray.nodes()}
    free = ray._private.state.available_resources_per_node()
    assert sorted(used[node] - free[node].get("CPU", 0) for node in used) == [1, 2]


def test_wrong_questions_are_answered_with_the_same_errors(searcher: ClusterSearcher) -> None:
    before = pids(searcher)
    with pytest.raises(InputError, match="no cell"):
        searcher.search(QUERIES, 1, Region.bbox(10, 10, 11, 11))
    assert searcher.count(Region.bbox(10, 10, 11, 11)) == 0
    with pytest.raises(InputError, match="ask for fewer"):
        searcher.search(QUERIES, len(IDS) + 1)
    with pytest.raises(InputError, match="wide"):
        searcher.search(QUERIES[:, :5], 1)
    assert pids(searcher) == before  # no reason to start anything again


def test_a_process_that_ends_in_a_stream_of_queries_is_replaced(
    searcher: ClusterSearcher, whole: DatabaseSearcher
) -> None:
    before = pids(searcher)
    for number in range(12):
        queries = RNG.standard_normal((3, 24)).astype(np.float32)
        if number == 4:
            queries[0, 0] = DEATH  # in the middle of its search
        if number == 8:
            os.kill(before[2], signal.SIGKILL)
        hits = searcher.search(queries, 10)
        assert_same(hits, whole.search(queries, 10))
        assert hits.searched.missing == ()
    after = pids(searcher)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert after[2] != before[2]


def test_an_actor_with_an_error_inside_is_replaced(searcher: ClusterSearcher, whole: DatabaseSearcher) -> None:
    queries, before = QUERIES.copy(), pids(searcher)
    queries[0, 0] = ERROR
    assert_same(searcher.search(queries, 10), whole.search(queries, 10))
    assert pids(searcher)[1] != before[1]


def test_an_actor_that_hangs_is_named_and_replaced(
    searcher: ClusterSearcher, whole: DatabaseSearcher, folders: list[Path]
) -> None:
    queries, searcher.timeout_s = QUERIES.copy(), 1.0
    queries[0, 0] = SLEEP
    try:
        with pytest.raises(ShardError, match=rf"1 of 3 shards were not searched: {folders[1]} .*no answer within 1 s"):
            searcher.search(queries, 10)
    finally:
        searcher.timeout_s = 60.0
    assert_same(searcher.search(queries, 10), whole.search(queries, 10))


def test_a_node_that_goes_takes_no_answers_with_it(
    searcher: ClusterSearcher, whole: DatabaseSearcher, nodes: Any
) -> None:
    third = nodes.add_node(num_cpus=2, object_store_memory=80 << 20)  # where the actors of the second find a place
    second = [node for node in nodes.list_all_nodes() if node not in (nodes.head_node, third)]
    nodes.remove_node(second[0], allow_graceful=False)
    assert_same(searcher.search(QUERIES, 10), whole.search(QUERIES, 10))


def test_without_restarts_a_dead_shard_is_an_error_or_named_in_a_partial_answer(
    searcher: ClusterSearcher, folders: list[Path]
) -> None:
    """Comes after all tests that need the actors alive."""
    searcher.restarts = 0
    ray.kill(searcher._actors[1])
    with pytest.raises(ShardError, match=rf"1 of 3 shards were not searched: {folders[1]} .*died"):
        searcher.search(QUERIES, 10)
    with pytest.raises(ShardError, match=r"1\.cells"):
        searcher.count(PART)
    searcher.allow_partial = True
    others = ShardedSearcher.open([folders[0], folders[2]])
    hits = searcher.search(QUERIES, 10, temperature=0.3)
    assert_same(hits, others.search(QUERIES, 10))
    (missing,) = hits.searched.missing
    mine = IDS[SHARD == 1]
    assert missing == "{} ({} to {})".format(folders[1], *s2.tokens(mine[[0, -1]]))
    assert searcher.count() == others.count()
    with pytest.raises(ShardError, match=rf"have {others.count()}; 1 of 3"):
        searcher.search(QUERIES, len(IDS))
    searcher.allow_partial = False
    assert searcher.search(QUERIES, 10, CORNER).searched.missing == ()  # all of it in other shards
    searcher.allow_partial = True
    ray.kill(searcher._actors[0])
    ray.kill(searcher._actors[2])
    with pytest.raises(ShardError, match="3 of 3"):  # nothing is no partial answer
        searcher.search(QUERIES, 10)


def test_shards_that_do_not_start_are_named(
    nodes: Any, searcher: ClusterSearcher, town_cells: Database, folders: list[Path], tmp_path: Path
) -> None:
    searcher.close()  # leaves its processors
    with pytest.raises(UsageError, match="closed"):
        searcher.search(QUERIES, 1)
    with pytest.raises(ShardError, match=r"1 of 1 shards did not start: .*gone\.cells.* is not a cell-code database"):
        ClusterSearcher.start([tmp_path / "gone.cells"], restarts=0)
    again = write(town_cells, tmp_path / "again", np.arange(8, 12))
    with pytest.raises(InputError, match=r"0\.cells and .*again share cells"):
        ClusterSearcher.start([folders[0], again])
    with pytest.raises(ShardError, match=r"no answer within 0\.5 s"):
        ClusterSearcher.start(folders[:1], resources=[{"moon": 1}], timeout_s=0.5)
    with pytest.raises(UsageError, match="at least one"):
        ClusterSearcher.start([])
    with pytest.raises(UsageError, match="2 resources for 1 shards"):
        ClusterSearcher.start(folders[:1], resources=[{}, {}])
    deadline = time.monotonic() + 20
    while ray.cluster_resources()["CPU"] != ray.available_resources().get("CPU"):
        assert time.monotonic() < deadline, "actors of searchers that did not start are left"
        time.sleep(0.1)


def test_a_ray_of_our_own_leaves_no_process_behind(folders: list[Path], tmp_path: Path) -> None:
    script = """
import os, subprocess, sys
import numpy as np
from cellcode.search.cluster import ClusterSearcher
if __name__ == "__main__":
    with ClusterSearcher.start(sys.argv[1:]) as searcher:
        import ray
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert searcher.search(np.ones((1, 24), np.float32), 3).cell_ids.shape == (1, 3)
        print(ray._private.worker._global_node.get_session_dir_path())
    assert not ray.is_initialized()
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, folders[:1])],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    session = done.stdout.strip().splitlines()[-1]
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if session in _text(path)]
    assert not left


def test_a_replaced_actor_does_not_search_another_database(folders: list[Path]) -> None:
    facts = ShardActor(str(folders[0])).facts()
    assert ShardActor(str(folders[0]), facts).count(None) == facts.cells
    rebuilt = ShardActor(str(folders[0]), dataclasses.replace(facts, identity="another"))
    with pytest.raises(ShardUnusable, match="another since the search was started"):
        rebuilt.count(None)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"cellcode\[ray\]"):
        ClusterSearcher.start(["somewhere"])


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""
