from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges
from cellcode.types import Ids, Int64

LEVELS = [0, 1, 5, 8, 16, 30]


def _number(level: int) -> int:
    return 6 * 4**level


def _ids(places: npt.ArrayLike, level: int) -> Ids:
    """The cells of a level by their place along the curve, 0 to 6 * 4^level - 1."""
    return np.array([(2 * int(p) + 1) << 2 * (30 - level) for p in np.asarray(places).ravel()], np.uint64)


def _random_places(level: int, seed: int) -> Int64:
    """Dense and sparse stretches, the very first and last cell, and runs over the border between faces."""
    rng, number = np.random.default_rng(seed), _number(level)
    chosen = rng.integers(0, number, 50)
    runs = [np.arange(start, start + rng.integers(1, 60)) for start in rng.integers(0, number, 20)]
    border = np.arange(4**level - 5, 4**level + 5)
    every = np.concatenate([chosen, *runs, border, [0, number - 1]])
    return np.unique(every[(every >= 0) & (every < number)])


@pytest.mark.parametrize("level", LEVELS)
def test_merged_ranges_are_the_runs_of_consecutive_cells(level: int) -> None:
    places = _random_places(level, seed=level)
    expected: list[list[int]] = []
    for place in places.tolist():
        if expected and expected[-1][1] == place - 1:
            expected[-1][1] = place
        else:
            expected.append([place, place])
    got = ranges.merge(_ids(places, level))
    np.testing.assert_array_equal(got, _ids(expected, level).reshape(-1, 2))
    assert ranges.count(got, level) == len(places)
    np.testing.assert_array_equal(ranges.expand(got, level), _ids(places, level))


@pytest.mark.parametrize("level", LEVELS)
def test_complement_holds_exactly_the_other_cells(level: int) -> None:
    merged = ranges.merge(_ids(_random_places(level, seed=level), level))
    rest = ranges.complement(merged, level)
    assert ranges.count(rest, level) + ranges.count(merged, level) == _number(level)
    everything = ranges.join(np.concatenate([merged, rest]), level)
    np.testing.assert_array_equal(everything, _ids([[0, _number(level) - 1]], level).reshape(1, 2))
    np.testing.assert_array_equal(ranges.complement(rest, level), merged)


@pytest.mark.parametrize("level", LEVELS)
def test_complement_of_nothing_is_everything_and_back(level: int) -> None:
    everything = ranges.complement(ranges.empty(), level)
    np.testing.assert_array_equal(everything, _ids([[0, _number(level) - 1]], level).reshape(1, 2))
    assert len(ranges.complement(everything, level)) == 0


def test_joined_ranges_may_overlap_nest_touch_and_come_in_any_order() -> None:
    given = _ids([[50, 60], [10, 20], [21, 25], [12, 14], [24, 30], [32, 32], [50, 55]], 9).reshape(-1, 2)
    expected = _ids([[10, 30], [32, 32], [50, 60]], 9).reshape(-1, 2)
    np.testing.assert_array_equal(ranges.join(given, 9), expected)


def test_nothing_stays_nothing() -> None:
    none = ranges.merge(np.empty(0, np.uint64))
    assert none.shape == (0, 2)
    assert ranges.join(none, 7).shape == (0, 2)
    assert ranges.expand(none, 7).shape == (0,)
    assert ranges.count(none, 7) == 0


def test_spans_hold_all_descendants() -> None:
    cells = s2.cell_ids([52.0, -80.0, 0.0], [5.0, 170.0, 0.0], 7)
    spans = ranges.spans(cells, 10)
    below = s2.descendants(cells, 10)
    np.testing.assert_array_equal(spans, np.stack([below[:, 0], below[:, -1]], axis=1))
    np.testing.assert_array_equal(ranges.spans(cells, 7), np.stack([cells, cells], axis=1))


def _by_hand(ids: Ids, wanted: Ids) -> Int64:
    inside = np.zeros(len(ids) + 2, np.int8)
    for first, last in wanted:
        inside[1:-1] |= (ids >= first) & (ids <= last)
    change = np.diff(inside)
    return np.stack([np.flatnonzero(change == 1), np.flatnonzero(change == -1)], axis=1)


@pytest.mark.parametrize("seed", range(8))
def test_rows_are_those_whose_id_lies_in_a_range(seed: int) -> None:
    rng, level = np.random.default_rng(seed), 6
    table = _ids(np.sort(rng.choice(_number(level), 4000, replace=False)), level)
    places = rng.choice(_number(level), 9000, replace=False) if seed % 2 else rng.choice(600, 50)
    wanted = ranges.merge(_ids(np.unique(places), level))
    rows = ranges.rows_of_ranges(table, wanted)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, _by_hand(table, wanted))
    assert (rows[:, 0] < rows[:, 1]).all()
    assert (rows[1:, 0] > rows[:-1, 1]).all()


def test_rows_of_no_range_and_of_no_table_are_none() -> None:
    some, none = _ids([3, 4, 9], 6), np.empty(0, np.uint64)
    for table, wanted in [(some, ranges.empty()), (none, ranges.merge(some)), (some, ranges.merge(_ids([5, 20], 6)))]:
        rows = ranges.rows_of_ranges(table, wanted)
        assert rows.shape == (0, 2)
        assert rows.dtype == np.int64


def test_rows_of_a_region_in_a_mapped_file_hold_its_cells(tmp_path: Path) -> None:
    table = Region.bbox(3.0, 52.0, 3.4, 52.2).cells(15)
    np.save(tmp_path / "ids.npy", table)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    region = Region.cap(52.1, 3.2, 4000)
    rows = ranges.rows_of_ranges(mapped, region.ranges(15))
    got = np.concatenate([np.arange(start, stop) for start, stop in rows])
    np.testing.assert_array_equal(got, np.flatnonzero(region.contains(*s2.cell_centers(table))))
    # The rest of the Earth takes the other rows.
    others = ranges.rows_of_ranges(mapped, (~region).ranges(15))
    assert (others[:, 1] - others[:, 0]).sum() == len(table) - len(got)


def test_intersection_holds_the_cells_in_both() -> None:
    one, other = Region.bbox(3.0, 52.0, 3.2, 52.1), Region.cap(52.1, 3.1, 9_000)
    both = ranges.intersection(one.ranges(14), other.ranges(14), 14)
    np.testing.assert_array_equal(ranges.expand(both, 14), np.intersect1d(one.cells(14), other.cells(14)))
    nothing = ranges.intersection(one.ranges(14), Region.bbox(8, 8, 8.1, 8.1).ranges(14), 14)
    assert nothing.shape == (0, 2)
    np.testing.assert_array_equal(
        ranges.intersection(one.ranges(14), ranges.complement(nothing, 14), 14), one.ranges(14)
    )


def test_rows_of_ids_are_those_of_a_dictionary() -> None:
    rng = np.random.default_rng(4)
    table = np.unique(rng.integers(0, 60, 25).astype(np.uint64))
    wanted = rng.integers(0, 70, (8, 9)).astype(np.uint64)
    row_of = {int(each): row for row, each in enumerate(table)}
    expected = [[row_of.get(int(each), -1) for each in line] for line in wanted]
    np.testing.assert_array_equal(ranges.rows_of_ids(table, wanted), expected)
    assert (ranges.rows_of_ids(table[:0], wanted) == -1).all()
