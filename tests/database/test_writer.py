"""The writer that every database goes through."""

import numpy as np

from cellcode.database.building.writer import count_kinds, interleave


def test_rows_of_several_arrays_are_taken_in_the_order_of_their_ids() -> None:
    one, other = np.array([1, 2, 5, 8, 9], np.uint64), np.array([3, 4, 8, 10], np.uint64)
    spans = interleave(
        [one, other], [np.array([0, 1, 2, 4]), slice(None)]
    )  # the 8 of the second replaces that of the first
    assert spans.tolist() == [[0, 0, 2], [1, 0, 2], [0, 2, 3], [1, 2, 3], [0, 4, 5], [1, 3, 4]]
    taken = np.concatenate([(one, other)[number][start:stop] for number, start, stop in spans.tolist()])
    assert taken.tolist() == [1, 2, 3, 4, 5, 8, 9, 10]


def test_cells_are_counted_by_their_terms() -> None:
    has_aerial, has_prototype = np.array([1, 1, 0, 1], bool), np.array([1, 0, 1, 0], bool)
    counts = {"total": 4, "both": 1, "aerial_only": 2, "prototype_only": 1, "left_out": 7}
    assert count_kinds(has_aerial, has_prototype, 7) == counts
