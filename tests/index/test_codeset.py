import numpy as np
import pytest

from cellcode.errors import InputError
from cellcode.index.codeset import CodeSet, best, checked, score

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("given", [np.ones(8), np.ones((0, 8)), np.ones((2, 2, 8)), 3.0], ids=str)
def test_queries_are_a_table_of_one_row_a_photo(given: object) -> None:
    with pytest.raises(InputError, match="table of one row per photo"):
        checked(given, 8)  # type: ignore[arg-type]


def test_queries_of_another_width_are_refused_with_both_widths() -> None:
    with pytest.raises(InputError, match=r"16 wide, the codes 8"):
        checked(np.ones((2, 16)), 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_query_that_is_not_finite_is_named(value: float) -> None:
    queries = np.ones((4, 8))
    queries[2, 5] = queries[3, 0] = value
    with pytest.raises(InputError, match=r"query 2 .*not finite"):
        checked(queries, 8)


@pytest.mark.parametrize("given", [[["a", "b"]], [[1, 2], [3]], [[None, 1]], [[{}, []]]], ids=str)
def test_queries_that_are_no_numbers_are_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"queries must be a table of numbers|not finite"):
        checked(given, 2)  # type: ignore[arg-type]


def test_a_query_of_zeros_is_named() -> None:
    queries = np.ones((4, 8))
    queries[3] = 0
    with pytest.raises(InputError, match=r"query 3 is all zeros"):
        checked(queries, 8)


def test_queries_of_other_types_become_float32() -> None:
    made = checked(np.asfortranarray(RNG.standard_normal((3, 8))), 8)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    assert checked([[1, 2]], 2).tolist() == [[1, 2]]


def test_a_score_does_not_depend_on_the_rows_beside_it() -> None:
    exact = RNG.standard_normal((500, 33)).astype(np.float16)
    codes, query = CodeSet(np.arange(500, dtype=np.uint64), exact), RNG.standard_normal(33).astype(np.float32)
    together = score(codes, query, np.arange(500))
    alone = np.concatenate([score(codes, query, np.array([row])) for row in range(500)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, (exact.astype(np.float64) @ query.astype(np.float64)).astype(np.float32))


def test_the_best_come_first_and_equal_scores_in_the_order_of_rows() -> None:
    rows, scores = best(np.array([9, 4, 7, 1]), np.array([1, 2, 2, 0], np.float32), 3)
    assert rows.tolist() == [4, 7, 9]
    assert scores.tolist() == [2, 2, 1]


def test_a_code_set_says_its_size() -> None:
    codes = CodeSet(np.arange(5, dtype=np.uint64), np.zeros((5, 3), np.float16))
    assert (len(codes), codes.dim, codes.everything.tolist()) == (5, 3, [[0, 5]])


def test_the_longest_code_is_measured_where_it_is_not_given() -> None:
    exact = RNG.standard_normal((70_000, 3)).astype(np.float16)
    exact[-1] = 40
    codes = CodeSet(np.arange(len(exact), dtype=np.uint64), exact)
    assert 40 * 3**0.5 <= codes.longest < 40.001 * 3**0.5
    assert CodeSet(codes.ids, exact, longest=99.0).longest == 99
    assert CodeSet(codes.ids[:0], exact[:0]).longest == 0
