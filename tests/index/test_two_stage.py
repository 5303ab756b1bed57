from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellcode.index import exact, first_stage, two_stage
from cellcode.index.codeset import CodeSet
from cellcode.index.first_stage import FirstStage
from cellcode.index.two_stage import Tail, among, candidates
from cellcode.types import Int64


@pytest.fixture(scope="module", params=["cells", "parents"])
def stage(request: pytest.FixtureRequest, world: Any) -> FirstStage:
    codes = world.exact.astype(np.float32)
    starts = first_stage.parent_starts(world.parents) if request.param == "parents" else None
    builder = first_stage.train(codes, world.tuning, 32, 1)
    builder.add(codes if starts is None else first_stage.means(codes, starts))
    return builder.made(starts)


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_with_all_entries_the_answer_is_the_exact_one(world: Any, stage: FirstStage, k: int) -> None:
    queries, everything = world.checking[:8], world.codes.everything
    rows = candidates(stage, queries, k, stage.entries, everything)
    assert rows is not None
    found = among(world.codes, rows, queries, k, 0.1, Tail(world.codes, everything))
    truth = exact.scan(world.codes, queries, k, everything, 0.1)
    np.testing.assert_array_equal(found.rows, truth.rows)
    np.testing.assert_array_equal(found.scores, truth.scores)
    by_definition = np.logaddexp.reduce(world.scores(queries) / 0.1, axis=1)
    np.testing.assert_allclose(found.log_mass, by_definition, atol=1e-4)


@pytest.mark.parametrize("entries", [50, 400])
def test_the_best_candidates_are_the_best_of_brute_force_among_them(
    world: Any, stage: FirstStage, entries: int
) -> None:
    queries = world.checking[:20]
    rows = candidates(stage, queries, 10, entries, world.codes.everything)
    assert rows is not None
    found = among(world.codes, rows, queries, 10)
    assert found.log_mass is None
    scores = world.scores(queries).astype(np.float32)
    for number, mine in enumerate(rows):
        assert (np.diff(mine) > 0).all()
        order = np.lexsort((mine, -scores[number, mine]))[:10]
        np.testing.assert_array_equal(found.rows[number], mine[order])
        np.testing.assert_array_equal(found.scores[number], scores[number, mine[order]])


SLICES = {
    "one": np.array([[2000, 7000]]),
    "several": np.array([[5, 900], [1000, 1001], [3000, 9000]]),
    "but for a few": np.array([[0, 4000], [4003, 9919]]),
}


@pytest.mark.parametrize("where", list(SLICES))
def test_in_a_region_the_answer_agrees_with_the_exact_one(world: Any, stage: FirstStage, where: str) -> None:
    slices, queries = SLICES[where], world.checking
    assert len(world.codes) == 9919
    rows = candidates(stage, queries, 10, 400, slices)
    assert rows is not None
    inside = np.concatenate([np.arange(start, stop) for start, stop in slices.tolist()])
    for mine in rows:
        assert np.isin(mine, inside).all()
        assert (np.diff(mine) > 0).all()
        assert len(mine) >= 400
    found, truth = among(world.codes, rows, queries, 10), exact.scan(world.codes, queries, 10, slices)
    assert (found.rows[:, 0] == truth.rows[:, 0]).mean() >= 0.995
    same = [len(set(one) & set(other)) / 10 for one, other in zip(found.rows, truth.rows, strict=True)]
    assert np.mean(same) >= 0.99


def test_too_few_candidates_in_the_region_are_none(world: Any, stage: FirstStage) -> None:
    """Where no photo's best entries lie: the part of the cells farthest from what the queries look like."""
    scores = world.scores(world.checking[:1])[0]
    worst = int(np.convolve(scores, np.ones(200), "valid").argmin())
    assert candidates(stage, world.checking[:1], 10, 100, np.array([[worst, worst + 200]])) is None


def test_fewer_candidates_than_asked_for_are_none(world: Any, stage: FirstStage) -> None:
    assert candidates(stage, world.checking[:2], 500, 100, world.codes.everything) is None


def test_all_rows_are_no_region_however_many_each_parent_has() -> None:
    """The number of parents times the mean of their rows need not be a whole number in floating point."""
    asked = []

    class Stage(FirstStage):
        def search(self, queries: Any, entries: int) -> list[Int64]:
            asked.append(entries)
            return [np.arange(49)]

    class Index:
        ntotal = 49

    for rows in range(49, 4 * 49 + 1):
        starts = np.minimum(np.arange(50) * 4, rows)
        starts[-1] = rows
        candidates(Stage(Index(), None, starts), np.zeros((1, 2), np.float32), 10, 20, np.array([[0, rows]]))  # type: ignore[arg-type]
    assert set(asked) == {20}


@pytest.mark.parametrize("temperature", [0.03, 0.1, 1.0])
@pytest.mark.parametrize("where", ["everywhere", "several"])
def test_the_mass_of_what_was_never_scored_is_estimated(
    world: Any, stage: FirstStage, where: str, temperature: float
) -> None:
    slices = world.codes.everything if where == "everywhere" else SLICES[where]
    queries = world.checking
    rows = candidates(stage, queries, 10, 400, slices)
    assert rows is not None
    found = among(world.codes, rows, queries, 10, temperature, Tail(world.codes, slices))
    inside = np.concatenate([np.arange(start, stop) for start, stop in slices.tolist()])
    expected = np.logaddexp.reduce(world.scores(queries)[:, inside] / temperature, axis=1)
    off = np.abs(np.exp(found.log_mass - expected) - 1)  # type: ignore[operator]
    assert np.quantile(off, 0.95) < 0.03
    assert off.max() < 0.1


def test_the_sample_of_the_tail_is_spread_evenly_over_the_slices(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_stage, "SAMPLE", 100)
    slices = SLICES["several"]
    tail = Tail(world.codes, slices)
    inside = np.concatenate([np.arange(start, stop) for start, stop in slices.tolist()])
    assert tail.count == len(inside)
    assert len(tail.rows) == 100
    places = np.searchsorted(inside, tail.rows)
    np.testing.assert_array_equal(inside[places], tail.rows)
    assert np.ptp(np.diff(places)) <= 1
    assert (places[0], places[-1]) == (0, len(inside) - 1)


def test_without_a_tail_the_mass_is_that_of_the_candidates(world: Any) -> None:
    rows = [np.array([3, 8, 4000])]
    found = among(world.codes, rows, world.checking[:1], 2, 0.2)
    expected = np.logaddexp.reduce(world.scores(world.checking[:1])[0, rows[0]] / 0.2)
    np.testing.assert_allclose(found.log_mass, [expected], rtol=1e-6)


def test_scores_that_float32_cannot_tell_apart_are_ranked_exactly() -> None:
    rng = np.random.default_rng(3)
    codes = np.repeat(rng.standard_normal((1, 64)).astype(np.float16), 500, axis=0)
    codes.view(np.uint16)[np.arange(500), rng.integers(0, 64, 500)] ^= 1
    code_set = CodeSet(np.arange(500, dtype=np.uint64), codes, longest=16.0)
    queries = rng.standard_normal((5, 64)).astype(np.float32)
    found = among(code_set, [np.arange(500)] * 5, queries, 20)
    scores = (queries.astype(np.float64) @ codes.astype(np.float64).T).astype(np.float32)
    np.testing.assert_array_equal(found.rows, np.argsort(-scores, axis=1, kind="stable")[:, :20])
