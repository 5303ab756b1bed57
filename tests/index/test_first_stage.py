from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.index import first_stage
from cellcode.index.first_stage import FirstStage


def filled(world: Any, over: str, dims: int, levels: int) -> FirstStage:
    codes = world.exact.astype(np.float32)
    starts = first_stage.parent_starts(world.parents) if over == "parents" else None
    entries = codes if starts is None else first_stage.means(codes, starts)
    builder = first_stage.train(entries, world.tuning, dims, levels)
    for first in range(0, len(entries), 1000):
        builder.add(entries[first : first + 1000])
    return builder.made(starts)


@pytest.fixture(scope="module", params=[("cells", 32, 1), ("parents", 32, 1), ("cells", 16, 2)], ids=str)
def stage(request: pytest.FixtureRequest, world: Any) -> FirstStage:
    return filled(world, *request.param)


def test_parents_stand_for_their_own_cells(world: Any) -> None:
    starts = first_stage.parent_starts(world.parents)
    sizes = np.diff(starts)
    assert set(sizes.tolist()) == {1, 2, 3, 4}  # some are incomplete
    distinct, counts = np.unique(world.parents, return_counts=True)
    np.testing.assert_array_equal(world.parents[starts[:-1]], distinct)
    np.testing.assert_array_equal(sizes, counts)
    means = first_stage.means(world.exact.astype(np.float32), starts)
    for entry in (*range(20), len(sizes) - 1):
        own = s2.parents(world.codes.ids, 15) == distinct[entry]
        np.testing.assert_allclose(means[entry], world.exact[own].astype(np.float64).mean(axis=0), atol=1e-5)


def test_one_row_is_one_parent() -> None:
    starts = first_stage.parent_starts(np.array([4], np.uint64))
    assert starts.tolist() == [0, 1]
    np.testing.assert_array_equal(first_stage.means(np.ones((1, 3), np.float32), starts), np.ones((1, 3)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_expanding_gives_the_rows_of_each_entry(dtype: type) -> None:
    starts = np.array([0, 4, 5, 5 + 3, 10], dtype)
    assert first_stage.expand(starts, np.array([0, 2, 3])).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert first_stage.expand(starts, np.array([1])).tolist() == [4]
    assert first_stage.expand(starts, np.array([3, 0])).tolist() == [8, 9, 0, 1, 2, 3]


def test_all_entries_are_all_rows(world: Any, stage: FirstStage) -> None:
    for rows in stage.search(world.checking[:3], stage.entries):
        np.testing.assert_array_equal(rows, np.arange(len(world.codes)))
    assert stage.rows == len(world.codes)
    assert stage.rows_an_entry() == pytest.approx(len(world.codes) / stage.entries)
    assert stage.entry_bytes == len(stage.directions.for_codes) * stage.levels // 4 == 8


def test_the_order_is_about_that_of_the_exact_scores(world: Any, stage: FirstStage) -> None:
    scores = world.scores(world.checking)
    if stage.starts is not None:
        sums = np.add.reduceat(scores, stage.starts[:-1], axis=1)
        scores = sums / np.diff(stage.starts)
    found = stage.order(world.checking, 50)
    assert found.shape == (len(world.checking), 50)
    best = scores.argmax(axis=1)
    assert (found == best[:, None]).any(axis=1).mean() > 0.95
    assert all(len(set(row)) == 50 for row in found.tolist())


def test_a_second_level_comes_closer_to_the_scores_than_the_first(world: Any) -> None:
    """By the definition: what the first level leaves is quantised by the second; entries are scored by the sum."""
    errors = []
    scores = world.scores(world.checking[:50])
    for levels in (1, 2):
        stage = filled(world, "cells", 32, levels)
        order = stage.order(world.checking[:50], 200)
        rank = np.take_along_axis(scores, order, axis=1)
        errors.append(float((np.sort(scores, axis=1)[:, :-201:-1] - rank).mean()))
    assert errors[1] < 0.5 * errors[0]


def test_it_is_read_as_it_was_written(world: Any, stage: FirstStage, tmp_path: Path) -> None:
    stage.save(tmp_path / "a.faiss")
    again = first_stage.load(tmp_path / "a.faiss", stage.directions, stage.starts, stage.entries, stage.levels)
    assert again.over == stage.over
    np.testing.assert_array_equal(again.order(world.checking, 100), stage.order(world.checking, 100))


def test_filling_another_with_the_same_codes_gives_the_same(world: Any, stage: FirstStage) -> None:
    before = stage.order(world.checking, 100)
    builder = stage.like()
    codes = world.exact.astype(np.float32)
    entries = codes if stage.starts is None else first_stage.means(codes, stage.starts)
    for first in range(0, len(entries), 77):
        builder.add(entries[first : first + 77])
    made = builder.made(stage.starts)
    np.testing.assert_array_equal(made.order(world.checking, 100), before)
    np.testing.assert_array_equal(stage.order(world.checking, 100), before)  # the original is left alone


def test_a_file_that_is_no_index_is_refused(stage: FirstStage, tmp_path: Path) -> None:
    path = tmp_path / "a.faiss"
    stage.save(path)
    data = path.read_bytes()
    for damaged in (b"", b"nothing of the kind" * 100, data[: len(data) // 2], data[:30]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.faiss is not a search index that can be read"):
            first_stage.load(path, stage.directions, stage.starts, stage.entries, stage.levels)
    with pytest.raises(InputError, match=r"b\.faiss"):
        first_stage.load(tmp_path / "b.faiss", stage.directions, stage.starts, stage.entries, stage.levels)


def test_an_index_of_other_cells_is_refused(stage: FirstStage, tmp_path: Path) -> None:
    path = tmp_path / "a.faiss"
    stage.save(path)
    with pytest.raises(InputError, match=rf"holds {stage.entries} entries of width 32, the database has 12 of"):
        first_stage.load(path, stage.directions, stage.starts, 12, stage.levels)
    narrow = stage.directions._replace(for_codes=stage.directions.for_codes[:-2])
    with pytest.raises(InputError, match=rf"of {len(narrow.for_codes) * stage.levels};"):
        first_stage.load(path, narrow, stage.starts, stage.entries, stage.levels)


def test_an_index_of_another_kind_is_refused(stage: FirstStage, tmp_path: Path) -> None:
    flat = faiss.IndexFlatIP(32)
    flat.add(np.zeros((stage.entries, 32), np.float32))
    faiss.write_index(flat, str(tmp_path / "flat.faiss"))
    with pytest.raises(InputError, match=r"flat\.faiss is not a search index"):
        first_stage.load(tmp_path / "flat.faiss", stage.directions, stage.starts, stage.entries, stage.levels)


def test_the_worst_entries_come_last_and_are_not_lost() -> None:
    """faiss does not return an entry that is the worst in every piece, however many are asked for."""
    rng = np.random.default_rng(0)
    codes, queries = (rng.standard_normal((count, 8)).astype(np.float32) for count in (300, 2000))
    builder = first_stage.train(codes, None, 8, 1)
    builder.add(codes)
    stage = builder.made(None)
    _, plain = stage.index.search(queries @ stage.directions.for_queries.T, 300)
    lost = np.flatnonzero((plain < 0).any(axis=1))
    assert len(lost) > 0
    order = stage.order(queries, 300)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.broadcast_to(np.arange(300), (2000, 300)))
    np.testing.assert_array_equal(order[lost][plain[lost] >= 0], plain[lost][plain[lost] >= 0])
    assert [rows.tolist() for rows in stage.search(queries[lost[:1]], 300)] == [list(range(300))]


def test_an_index_that_finds_nothing_is_not_used_silently(world: Any, stage: FirstStage) -> None:
    class Empty:
        ntotal, d = stage.index.ntotal, stage.index.d

        def search(self, asked: Any, k: int) -> Any:
            return np.zeros((len(asked), k)), np.full((len(asked), k), -1)

    with pytest.raises(InputError, match="does not hold the cells"):
        FirstStage(Empty(), stage.directions, stage.starts).order(world.checking[:2], 20)


def test_fewer_codes_than_centroids_make_a_first_stage() -> None:
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((5, 8)).astype(np.float32)
    builder = first_stage.train(codes, None, 8, 2)
    builder.add(codes)
    made = builder.made(None)
    assert [rows.tolist() for rows in made.search(codes[:2], 5)] == [[0, 1, 2, 3, 4]] * 2
