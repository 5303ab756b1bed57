"""A folder of shards, opened as the database that it was cut from: every table is that of the whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import unseal

from cellcode.database import Database, split
from cellcode.database.store.shards import KIND, SHARDS, ShardedDatabase, open_database
from cellcode.errors import InputError


@pytest.fixture(scope="module")
def folder(town_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("split") / "shards"
    assert len(split(town_cells, 2, out=out)) == 2
    return out


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "shards"))


def test_every_table_is_that_of_the_whole(town_cells: Database, folder: Path) -> None:
    found = open_database(folder)
    assert isinstance(found, ShardedDatabase)
    assert len(found.shards) == 2
    np.testing.assert_array_equal(found.ids, town_cells.ids)
    rows = np.random.default_rng(0).permutation(len(found.ids))[:50]
    cut = len(found.shards[0].ids)
    for choice in (
        rows,
        3,
        rows.reshape(2, 25),
        slice(None),
        slice(cut - 3, cut + 3),
        slice(2, 5),
        slice(0, 0),
        slice(0, 9, 2),
    ):
        np.testing.assert_array_equal(found.codes[choice], town_cells.codes[choice])
        for ours, theirs in zip(
            (*found.terms(), found.tiles(), found.code_set.coarse),
            (*town_cells.terms(), town_cells.tiles(), town_cells.code_set.coarse),
            strict=True,
        ):
            assert ours is not None
            assert theirs is not None
            np.testing.assert_array_equal(ours[choice], theirs[choice])
    for name, values in vars(town_cells.facts).items():
        np.testing.assert_array_equal(getattr(found.facts, name), values)
    np.testing.assert_array_equal(found.tile_digests(), town_cells.tile_digests())
    np.testing.assert_array_equal(found.queries, town_cells.queries)
    assert found.calibration == town_cells.calibration
    assert (found.identity, found.bytes, found.level) == (town_cells.identity, town_cells.bytes, town_cells.level)
    assert found.region_bounds == town_cells.region_bounds
    found.verify()


def test_a_list_of_the_version_before_digests_opens(copied: Path, town_cells: Database) -> None:
    unseal(copied, 1)
    assert open_database(copied).identity == town_cells.identity


def test_an_open_database_is_returned_as_it_is(town_cells: Database) -> None:
    assert open_database(town_cells) is town_cells
    assert open_database(town_cells.folder).identity == town_cells.identity


def _remove_shard(folder: Path, other: Database) -> None:
    shutil.rmtree(folder / "001.cells")


def _damage(folder: Path, other: Database) -> None:
    with (folder / "001.cells" / "codes.npy").open("r+b") as file:
        file.truncate(1000)


def _add_another_run(folder: Path, other: Database) -> None:
    shutil.copytree(other.folder, folder / "009.cells")


def _other_runs_without_list(folder: Path, other: Database) -> None:
    _add_another_run(folder, other)
    (folder / SHARDS).unlink()


def _without_list(folder: Path, other: Database) -> None:
    (folder / SHARDS).unlink()


def _damage_list(folder: Path, other: Database) -> None:
    KIND.write(folder / SHARDS, {})


def _change_list(folder: Path, other: Database) -> None:
    text = (folder / SHARDS).read_text()
    (folder / SHARDS).write_text(text.replace('"cells": ', '"cells": 1', 1))


def _twice(folder: Path, other: Database) -> None:
    shutil.copytree(folder / "000.cells", folder / "003.cells")


def _empty(folder: Path, other: Database) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_remove_shard, r"the shard 001\.cells is missing"),
        (_damage, r"001\.cells/codes\.npy is truncated"),
        (_add_another_run, "were built from different runs"),
        (_other_runs_without_list, "were built from different runs"),
        (_without_list, r"has no shards\.json"),
        (_damage_list, r"shards\.json is damaged"),
        (_change_list, r"shards\.json was changed or damaged after it was written"),
        (_twice, r"003\.cells is not one of the shards"),
        (_empty, "the folder is empty"),
    ],
)
def test_what_is_no_complete_set_of_shards_is_one_sentence(
    copied: Path, wide_cells: Database, change: Callable[[Path, Database], None], words: str
) -> None:
    change(copied, wide_cells)
    with pytest.raises(InputError) as caught:
        open_database(copied)
    assert re.search(words, str(caught.value))
    assert len(str(caught.value).splitlines()) == 1
