from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.database import Database
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges
from cellcode.index import tune, two_stage
from cellcode.index.codeset import CodeSet
from cellcode.search import CodeSearcher, DatabaseSearcher, Hits
from cellcode.types import Float32, Float64, Int64

HOLED = {
    "type": "Polygon",
    "coordinates": [
        [[3.02, 52.01], [3.18, 52.02], [3.15, 52.09], [3.03, 52.08], [3.02, 52.01]],
        [[3.08, 52.04], [3.08, 52.06], [3.12, 52.06], [3.12, 52.04], [3.08, 52.04]],
    ],
}
BOX = Region.bbox(3.05, 52.02, 3.12, 52.06)
REGIONS = {
    "box": BOX,
    "polygon with a hole": Region.geojson(HOLED),
    "cap": Region.cap(52.05, 3.1, 1500),
    "cells of another level": Region.of_cells(s2.cell_ids(np.array([52.03, 52.07]), np.array([3.05, 3.2]), 13)),
    "one cell": Region.of_cells(s2.cell_ids(52.05, 3.12, 16)),
    "all but a box": ~BOX,
    "all": Region.bbox(2.9, 51.9, 3.4, 52.2),
}


@pytest.fixture(scope="module")
def codes(wide_cells: Database) -> Float64:
    return np.asarray(wide_cells.codes[:], np.float64)


@pytest.fixture(scope="module")
def queries(wide_cells: Database) -> Float32:
    return wide_cells.queries[:9]


def assert_best(hits: Hits, ids: Any, codes: Any, queries: Any, k: int) -> None:
    """Against all float64 products, equal scores in the order of ids."""
    scores = (queries.astype(np.float64) @ codes.T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(hits.cell_ids, ids[order])
    np.testing.assert_array_equal(hits.scores, np.take_along_axis(scores, order, axis=1))


def two_stages_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small a database is compared faster than two stages are run; here it is not."""
    monkeypatch.setattr(tune, "BYTES_A_ROW", 0)


@pytest.mark.parametrize("k", [1, 100, None])
def test_exact_search_equals_sorting_all_scores(wide_cells: Database, codes: Any, queries: Any, k: int | None) -> None:
    k = k or len(codes)
    for searcher in (DatabaseSearcher(wide_cells, "exact"), CodeSearcher(wide_cells.code_set, 16)):
        hits = searcher.search(queries, k)
        assert_best(hits, wide_cells.ids, codes, queries, k)
        assert (hits.searched.method, hits.searched.exact, hits.searched.scored_again) == ("exact", True, 0)
        assert (hits.searched.cells, hits.searched.missing) == (len(codes), ())
        assert (hits.cell_ids.dtype, hits.scores.dtype, hits.log_mass) == (np.uint64, np.float32, None)


@pytest.mark.parametrize("method", ["auto", "exact"])
@pytest.mark.parametrize("where", list(REGIONS))
def test_a_region_gives_the_best_of_the_cells_with_their_centre_inside(
    wide_cells: Database, codes: Any, queries: Any, where: str, method: Any
) -> None:
    region, searcher = REGIONS[where], DatabaseSearcher(wide_cells, method)
    inside = region.contains(*s2.cell_centers(wide_cells.ids))
    assert searcher.count(region) == inside.sum() > 0
    for k in {1, min(20, int(inside.sum())), int(inside.sum())}:
        hits = searcher.search(queries, k, region)
        assert_best(hits, wide_cells.ids[inside], codes[inside], queries, k)
        assert hits.searched.cells == inside.sum()


def test_rows_outside_a_region_are_not_touched(wide_cells: Database, queries: Any) -> None:
    """The cost of a region is its own: not one byte of another row is asked for."""
    touched: list[Int64] = []

    class Watched:
        def __init__(self, array: Any) -> None:
            self.array, self.shape = array, array.shape

        def __len__(self) -> int:
            return len(self.array)

        def __getitem__(self, rows: Any) -> Any:
            touched.append(np.arange(len(self.array))[rows])
            return self.array[rows]

    whole = wide_cells.code_set
    watched = CodeSet(
        whole.ids,
        Watched(whole.exact),
        Watched(whole.coarse),
        whole.scale,
        whole.coarse_error,
        whole.longest,  # type: ignore[arg-type]
    )
    region = REGIONS["polygon with a hole"]
    CodeSearcher(watched, 16).search(queries, 5, region, temperature=0.1)
    slices = ranges.rows_of_ranges(wide_cells.ids, region.ranges(16))
    inside = np.concatenate([np.arange(start, stop) for start, stop in slices.tolist()])
    extra = np.setdiff1d(np.concatenate(touched), inside)
    assert len(extra) == 0


def test_the_mass_is_the_sum_over_the_region(wide_cells: Database, codes: Any, queries: Any) -> None:
    inside = BOX.contains(*s2.cell_centers(wide_cells.ids))
    hits = DatabaseSearcher(wide_cells, "exact").search(queries, 50, BOX, temperature=0.05)
    expected = np.logaddexp.reduce(queries.astype(np.float64) @ codes[inside].T / 0.05, axis=1)
    np.testing.assert_allclose(hits.log_mass, expected, atol=0.02)


def test_probabilities_at_the_calibrated_temperature_sum_to_one(wide_cells: Database, queries: Any) -> None:
    """The temperature is lower than the rounding of int8 codes."""
    temperature = wide_cells.calibration.temperature
    assert temperature < wide_cells.code_set.coarse_error
    hits = DatabaseSearcher(wide_cells, "exact").search(queries, len(wide_cells.ids), temperature=temperature)
    assert hits.log_mass is not None
    shares = np.exp(hits.scores.astype(np.float64) / temperature - hits.log_mass[:, None])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-4)


def test_iterating_gives_ids_and_scores(wide_cells: Database, queries: Any) -> None:
    hits = DatabaseSearcher(wide_cells).search(queries, 3)
    cell_ids, scores = hits
    assert cell_ids is hits.cell_ids
    assert scores is hits.scores


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
def test_two_stages_agree_with_brute_force_as_the_database_promises(wide_cells: Database, k: int) -> None:
    settings = wide_cells.search_settings
    assert settings is not None
    asked = wide_cells.queries
    hits = DatabaseSearcher(wide_cells, "two_stage").search(asked, k, temperature=0.05)
    truth = DatabaseSearcher(wide_cells, "exact").search(asked, k, temperature=0.05)
    assert (hits.searched.method, hits.searched.exact) == ("two_stage", False)
    assert hits.searched.scored_again == settings.entries_for(k)
    assert hits.searched.cells == len(wide_cells.ids)
    assert (hits.cell_ids[:, 0] == truth.cell_ids[:, 0]).mean() >= 0.995
    same = np.mean([np.isin(one, other).mean() for one, other in zip(truth.cell_ids, hits.cell_ids, strict=True)])
    assert same >= 0.99
    assert hits.log_mass is not None
    assert truth.log_mass is not None
    assert np.abs(np.exp(hits.log_mass - truth.log_mass) - 1).max() < 0.1


def test_the_cheaper_way_is_taken_and_named(
    wide_cells: Database, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = DatabaseSearcher(wide_cells)
    assert searcher.search(queries[:1], 5).searched.method == "exact"  # 10,000 cells
    two_stages_for_everything(monkeypatch)
    assert searcher.search(queries[:1], 5).searched.method == "two_stage"
    assert searcher.search(queries[:1], 5, REGIONS["cap"]).searched.method == "exact"  # less than the first stage
    assert searcher.search(queries[:1], 1001).searched.method == "exact"  # more than was checked


def test_two_stages_in_a_region_are_the_best_of_it_or_exact(wide_cells: Database, codes: Any) -> None:
    searcher, asked = DatabaseSearcher(wide_cells, "two_stage"), wide_cells.queries
    inside = (~BOX).contains(*s2.cell_centers(wide_cells.ids))
    hits = searcher.search(asked, 10, ~BOX)
    assert hits.searched.method == "two_stage"
    assert hits.searched.cells == inside.sum()
    assert np.isin(hits.cell_ids, wide_cells.ids[inside]).all()
    truth = DatabaseSearcher(wide_cells, "exact").search(asked, 10, ~BOX)
    assert (hits.cell_ids[:, 0] == truth.cell_ids[:, 0]).mean() >= 0.995
    few = searcher.search(asked, 10, REGIONS["cap"])  # too few candidates lie in it
    assert few.searched.method == "exact"
    small = REGIONS["cap"].contains(*s2.cell_centers(wide_cells.ids))
    assert_best(few, wide_cells.ids[small], codes[small], asked, 10)


def test_a_region_is_looked_up_once_in_a_row(
    wide_cells: Database, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(ranges, "rows_of_ranges", lambda *given: calls.append(given) or np.array([[0, 50]]))
    searcher = DatabaseSearcher(wide_cells)
    for region in (BOX, BOX, REGIONS["cap"], None, BOX):
        searcher.count(region)
        searcher.search(queries, 2, region)
    assert len(calls) == 3


def test_the_sample_behind_the_mass_is_read_once(
    wide_cells: Database, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Counted(two_stage.Tail):
        def __init__(self, *given: Any) -> None:
            made.append(given)
            super().__init__(*given)

    monkeypatch.setattr(two_stage, "Tail", Counted)
    searcher = DatabaseSearcher(wide_cells, "two_stage")
    for _ in range(3):
        searcher.search(queries, 2, temperature=0.1)
    assert len(made) == 1
    rest = ~BOX
    for _ in range(3):
        searcher.search(queries, 2, rest, temperature=0.1)
    assert len(made) == 2


def test_equal_scores_go_to_the_smaller_cell(wide_cells: Database) -> None:
    same = CodeSet(wide_cells.ids[:8], np.ones((8, 4), np.float16))
    hits = CodeSearcher(same, 16).search(np.ones((1, 4), np.float32), 8)
    np.testing.assert_array_equal(hits.cell_ids[0], wide_cells.ids[:8])


NOWHERE = Region.bbox(10, 10, 11, 11)
TINY = Region.bbox(3.1, 52.05, 3.10001, 52.05001)


@pytest.mark.parametrize("method", ["exact", "two_stage"])
@pytest.mark.parametrize(
    ("k", "region", "kind", "words"),
    [
        (0, None, UsageError, "k must be at least 1, not 0"),
        (-3, BOX, UsageError, "k must be at least 1, not -3"),
        (20_000, None, InputError, r"20000 cells were requested, the database has \d+;"),
        (5000, BOX, InputError, r"5000 cells were requested, the region west 3\.05.* has \d+;"),
        (2, REGIONS["one cell"], InputError, "2 cells were requested, the region .* has 1;"),
        (1, NOWHERE, InputError, "no cell of the database lies in the region west 10"),
        (1, TINY, InputError, "no cell of the database lies in the region"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    wide_cells: Database, queries: Any, method: Any, k: int, region: Region | None, kind: type, words: str
) -> None:
    with pytest.raises(kind, match=words):
        DatabaseSearcher(wide_cells, method).search(queries, k, region)


def test_a_region_without_cells_counts_none(wide_cells: Database) -> None:
    searcher = DatabaseSearcher(wide_cells)
    assert [searcher.count(region) for region in (NOWHERE, TINY, None)] == [0, 0, len(wide_cells.ids)]


@pytest.mark.parametrize("method", ["exact", "two_stage"])
def test_damaged_queries_are_refused(wide_cells: Database, queries: Any, method: Any) -> None:
    searcher, bad = DatabaseSearcher(wide_cells, method), queries.copy()
    bad[4, 3] = np.nan
    with pytest.raises(InputError, match="query 4"):
        searcher.search(bad, 3)
    with pytest.raises(InputError, match="31 wide, the codes 32"):
        searcher.search(queries[:, :31], 3)
    with pytest.raises(InputError, match="table"):
        searcher.search(queries[0], 3)


def test_a_database_without_a_first_stage_is_searched_exactly_or_not_at_all(town_cells: Database) -> None:
    asked = town_cells.queries[:2]
    assert DatabaseSearcher(town_cells).search(asked, 3).searched.method == "exact"
    with pytest.raises(UsageError, match="has no first stage"):
        DatabaseSearcher(town_cells, "two_stage")


def test_open_takes_a_folder(wide_cells: Database, queries: Any, tmp_path: Path) -> None:
    hits = DatabaseSearcher.open(str(wide_cells.folder)).search(queries, 4)
    np.testing.assert_array_equal(hits.cell_ids, DatabaseSearcher(wide_cells).search(queries, 4).cell_ids)
    with pytest.raises(InputError, match="not a cell-code database"):
        DatabaseSearcher.open(tmp_path)


def test_k_may_be_any_whole_number_and_nothing_else(wide_cells: Database, queries: Any) -> None:
    searcher = DatabaseSearcher(wide_cells)
    for k in (np.int64(3), np.uint8(3)):
        np.testing.assert_array_equal(searcher.search(queries, k).cell_ids, searcher.search(queries, 3).cell_ids)  # type: ignore[arg-type]
    for k in (3.0, "3", None, np.float32(3)):
        with pytest.raises(UsageError, match="k must be a whole number"):
            searcher.search(queries, k)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_a_temperature_is_above_zero(wide_cells: Database, queries: Any, temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be above 0"):
        DatabaseSearcher(wide_cells).search(queries, 3, temperature=temperature)
