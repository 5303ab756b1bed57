import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.database import Database
from cellcode.database.store.layout import KIND
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, s2
from cellcode.integrity import describe
from cellcode.search.searcher import DatabaseSearcher
from cellcode.search.sharded import ShardedSearcher, merge
from cellcode.types import Float16, Ids

IDS = Region.bbox(3.0, 52.0, 3.2, 52.1).cells(16)
RNG = np.random.default_rng(0)
STEP = 2.0**-5  # codes are whole multiples, so their int8 codes are exact
CODES = ((RNG.standard_normal((len(IDS), 24)) / STEP).round().clip(-127, 127) * STEP).astype(np.float16)
CODES[::5] = CODES[0]  # scores that tie across shards
QUERIES = RNG.standard_normal((7, 24)).astype(np.float32)
PART = Region.bbox(3.05, 52.02, 3.08, 52.05)
CORNER = Region.bbox(3.0, 52.0, 3.02, 52.01)


def write(like: Database, folder: Path, ids: Ids, codes: Float16, **changes: Any) -> Path:
    """Write a database of other cells with the run and the calibration of `like`."""
    folder.mkdir()
    np.save(folder / "ids.npy", ids)
    np.save(folder / "codes.npy", codes)
    shutil.copy(like.folder / "config.yaml", folder)
    for name in ("cells.parquet", "ground.safetensors", "queries.npy"):
        shutil.copy(like.folder / name, folder)
    np.save(folder / "codes_int8.npy", (codes / STEP).astype(np.int8))
    files = describe(folder, [path.name for path in folder.iterdir()])
    codes_of = {**like.manifest["codes"], "int8_step": STEP, "int8_error": 0.0, "longest": 12.0}
    own = {"cells": {"total": len(ids)}, "dim": 24, "codes": codes_of, "search": None, "files": files}
    KIND.write(folder / "manifest.json", {**like.manifest, **own, **changes})
    return folder


@pytest.fixture(scope="module")
def whole(town_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> DatabaseSearcher:
    return DatabaseSearcher.open(write(town_cells, tmp_path_factory.mktemp("whole") / "all.cells", IDS, CODES))


@pytest.fixture(scope="module", params=["by range", "interleaved"])
def folders(
    request: pytest.FixtureRequest, town_cells: Database, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    rows = np.arange(len(IDS))
    of = rows * 4 // len(IDS) if request.param == "by range" else rows % 4
    root = tmp_path_factory.mktemp("shards")
    return [write(town_cells, root / f"{n}.cells", IDS[of == n], CODES[of == n]) for n in range(4)]


@pytest.mark.parametrize("region", [None, PART, CORNER], ids=["everywhere", "part", "corner"])
@pytest.mark.parametrize("k", [1, 10, None])
def test_shards_answer_bit_for_bit_as_one_database(
    whole: DatabaseSearcher, folders: list[Path], region: Region | None, k: int | None
) -> None:
    shards = ShardedSearcher.open(folders)
    assert shards.count(region) == whole.count(region) > 10
    k = k or whole.count(region)
    ours, alone = shards.search(QUERIES, k, region, 0.3), whole.search(QUERIES, k, region, 0.3)
    assert ours.cell_ids.shape == (len(QUERIES), k)
    np.testing.assert_array_equal(ours.cell_ids, alone.cell_ids)
    np.testing.assert_array_equal(ours.scores, alone.scores)
    assert (ours.cell_ids.dtype, ours.scores.dtype) == (np.uint64, np.float32)
    assert ours.log_mass is not None
    assert alone.log_mass is not None
    np.testing.assert_allclose(ours.log_mass, alone.log_mass, rtol=1e-6)
    assert (ours.searched.cells, ours.searched.exact) == (whole.count(region), True)
    assert ours.searched.missing == ()


def test_without_a_temperature_there_is_no_mass(folders: list[Path]) -> None:
    assert ShardedSearcher.open(folders).search(QUERIES, 3).log_mass is None


def test_one_inexact_shard_makes_the_answer_inexact(whole: DatabaseSearcher) -> None:
    hits = whole.search(QUERIES, 4, temperature=1.0)
    other = dataclasses.replace(
        hits,
        cell_ids=hits.cell_ids + np.uint64(2),
        log_mass=None,
        searched=dataclasses.replace(hits.searched, method="two_stage", exact=False),
    )
    joined = merge([hits, other], 4)
    assert not joined.searched.exact
    assert "two_stage" in joined.searched.method
    assert joined.searched.cells == 2 * len(IDS)
    assert joined.log_mass is None
    # Pairs of equal scores: the smaller id first.
    np.testing.assert_array_equal(joined.cell_ids[:, 1::2], joined.cell_ids[:, ::2] + np.uint64(2))


def test_bad_questions_are_refused(folders: list[Path]) -> None:
    shards = ShardedSearcher.open(folders)
    with pytest.raises(InputError, match="no cell"):
        shards.search(QUERIES, 1, Region.bbox(10, 10, 11, 11))
    with pytest.raises(InputError, match="ask for fewer"):
        shards.search(QUERIES, shards.count(PART) + 1, PART)
    with pytest.raises(UsageError, match="at least 1"):
        shards.search(QUERIES, 0)
    with pytest.raises(UsageError, match="whole number"):
        shards.search(QUERIES, 2.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="temperature must be above 0"):
        shards.search(QUERIES, 2, temperature=0.0)
    np.testing.assert_array_equal(shards.search(QUERIES, np.int64(2)).scores, shards.search(QUERIES, 2).scores)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="wide"):
        shards.search(QUERIES[:, :5], 1)
    with pytest.raises(UsageError, match="at least one"):
        ShardedSearcher([])


def test_databases_that_are_no_shards_of_one_whole_are_refused(
    town_cells: Database, folders: list[Path], tmp_path: Path
) -> None:
    other_run = write(town_cells, tmp_path / "run", IDS[:4], CODES[:4], run={"identity": "another", "name": "x"})
    with pytest.raises(InputError, match="different runs"):
        ShardedSearcher.open([folders[0], other_run])
    calibration = {**town_cells.manifest["calibration"], "kappa": 7.0}
    scaled = write(town_cells, tmp_path / "scaled", IDS[:4], CODES[:4], calibration=calibration)
    with pytest.raises(InputError, match="calibrations"):
        ShardedSearcher.open([folders[0], scaled])
    again = write(town_cells, tmp_path / "again", IDS[8:12], CODES[8:12])
    with pytest.raises(InputError, match=r"0\.cells and .*again share cells"):
        ShardedSearcher.open([folders[0], again])
    with pytest.raises(InputError, match="twice"):
        ShardedSearcher.open([folders[0], folders[0]])
    with pytest.raises(InputError, match="not a cell-code database"):
        ShardedSearcher.open([folders[0], tmp_path])


def test_an_error_in_one_shard_is_never_a_smaller_answer(whole: DatabaseSearcher) -> None:
    class Broken:
        def count(self, region: Region | None = None) -> int:
            return 5

        def search(self, *question: object) -> None:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        ShardedSearcher([whole, Broken()]).search(QUERIES, 3)  # type: ignore[list-item]


def test_the_range_of_a_shard_is_said_in_tokens(folders: list[Path]) -> None:
    from cellcode.search.sharded import Shard

    said = str(Shard.of(Database.open(folders[0])))
    assert s2.tokens(IDS[:1])[0] in said
    assert str(folders[0]) in said
