from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from cellcode.errors import InputError
from cellcode.index import exact
from cellcode.index.codeset import CodeSet, Found
from cellcode.index.quantise import Codebook, PackedCodes, int8_step, to_int8, train
from cellcode.types import Float16, Float32, Float64, Int64

ROWS, DIM = 3000, 24
RNG = np.random.default_rng(0)
CODES = RNG.standard_normal((ROWS, DIM)).astype(np.float16)
QUERIES = RNG.standard_normal((6, DIM)).astype(np.float32)
ALL = np.array([[0, ROWS]])
SLICES = {
    "all": ALL,
    "one": np.array([[700, 1900]]),
    "a few long": np.array([[3, 900], [1000, 1001], [1400, 2800]]),
    "many short": np.stack([np.arange(0, ROWS - 5, 7), np.arange(0, ROWS - 5, 7) + 3], axis=1),
    "single rows": np.stack([np.arange(1, ROWS, 5), np.arange(1, ROWS, 5) + 1], axis=1),
}


def code_set(codes: Float16, coarse: bool) -> CodeSet:
    ids = np.arange(len(codes), dtype=np.uint64)
    longest = float(np.linalg.norm(codes.astype(np.float64), axis=1).max())
    if not coarse:
        return CodeSet(ids, codes, longest=longest)
    step = int8_step(float(np.abs(codes).max()))
    narrow, error = to_int8(codes, step)
    return CodeSet(ids, codes, narrow, step, error * (1 + 1e-6), longest)


def rows_of(slices: Int64) -> Int64:
    return np.concatenate([np.arange(start, stop) for start, stop in slices.tolist()])


def all_scores(codes: Float16, queries: Float32) -> Float64:
    return queries.astype(np.float64) @ codes.astype(np.float64).T


def assert_best(found: Found, codes: Float16, queries: Float32, k: int, slices: Int64 | None = None) -> None:
    """Against float64 products of the float16 codes, sorted with equal scores in the order of rows."""
    rows = rows_of(slices) if slices is not None else np.arange(len(codes))
    scores = all_scores(codes[rows], queries).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.rows, rows[order])
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, order, axis=1))
    assert (found.rows.dtype, found.scores.dtype) == (np.int64, np.float32)


@pytest.fixture(params=["one block", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 rows, of which 2 are looked through at a time, or everything at once."""
    if request.param == "small blocks":
        monkeypatch.setattr(exact, "INNER_BYTES", 1)
        monkeypatch.setattr(exact, "OUTER_SCORES", 128 * len(QUERIES))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("coarse", [False, True], ids=["float16", "int8"])
@pytest.mark.parametrize("where", list(SLICES))
@pytest.mark.parametrize("k", [1, 100, None])
def test_a_scan_finds_the_rows_and_scores_of_brute_force(coarse: bool, where: str, k: int | None) -> None:
    slices = SLICES[where]
    k = k or int((slices[:, 1] - slices[:, 0]).sum())
    assert_best(exact.scan(code_set(CODES, coarse), QUERIES, k, slices), CODES, QUERIES, k, slices)


def test_the_order_is_that_of_faiss() -> None:
    flat = faiss.IndexFlatIP(DIM)
    flat.add(CODES.astype(np.float32))
    scores, rows = flat.search(QUERIES, 50)
    found = exact.scan(code_set(CODES, True), QUERIES, 50, ALL)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)


@pytest.mark.parametrize("coarse", [False, True], ids=["float16", "int8"])
def test_a_query_alone_gets_the_answer_it_gets_among_others(coarse: bool) -> None:
    codes = code_set(CODES, coarse)
    together = exact.scan(codes, QUERIES, 20, ALL)
    for number in range(len(QUERIES)):
        alone = exact.scan(codes, QUERIES[number : number + 1], 20, ALL)
        np.testing.assert_array_equal(alone.rows[0], together.rows[number])
        np.testing.assert_array_equal(alone.scores[0], together.scores[number])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("coarse", [False, True], ids=["float16", "int8"])
@pytest.mark.parametrize("k", [1, 5, 300])
def test_equal_scores_go_to_the_smaller_row(coarse: bool, k: int) -> None:
    codes = (
        np.random.default_rng(1).integers(-2, 3, (900, 4)).astype(np.float16)
    )  # few distinct scores, exact in float32
    queries = np.ones((len(QUERIES), 4), np.float32)
    queries[1] = -1
    queries[2] = 0
    assert_best(exact.scan(code_set(codes, coarse), queries, k, np.array([[0, 900]])), codes, queries, k)


@pytest.mark.usefixtures("blocks")
def test_one_huge_value_makes_int8_coarse_but_not_wrong() -> None:
    """The step becomes 39, all other codes round to 0, so that every row is within the margin."""
    codes = CODES.copy()
    codes[17, 3] = 5000
    made = code_set(codes, True)
    assert made.coarse is not None
    assert np.count_nonzero(made.coarse) == 1
    for k in (1, 100):
        assert_best(exact.scan(made, QUERIES, k, ALL), codes, QUERIES, k)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("coarse", [False, True], ids=["float16", "int8"])
def test_codes_that_hardly_differ_are_told_apart(coarse: bool) -> None:
    """Every row is the same but for the last bit of one value: scores differ by less than int8 and float32 resolve."""
    rng = np.random.default_rng(2)
    codes = np.repeat(CODES[:1], 2000, axis=0)
    bits = codes.view(np.uint16)
    bits[np.arange(2000), rng.integers(0, DIM, 2000)] ^= 1
    for k in (1, 30):
        assert_best(exact.scan(code_set(codes, coarse), QUERIES, k, np.array([[0, 2000]])), codes, QUERIES, k)


@pytest.mark.parametrize("coarse", [False, True], ids=["float16", "int8"])
def test_lengths_that_differ_by_a_thousand_change_nothing(coarse: bool) -> None:
    codes = (CODES.astype(np.float32) * np.logspace(-2, 1, ROWS)[:, None]).astype(np.float16)
    queries = QUERIES * np.array([1e-3, 1, 1e3, 1e-6, 1e6, 1], np.float32)[:, None]
    for k in (1, 100):
        assert_best(exact.scan(code_set(codes, coarse), queries, k, ALL), codes, queries, k)


def test_a_query_of_zeros_gets_the_first_rows() -> None:
    found = exact.scan(code_set(CODES, True), np.zeros((1, DIM), np.float32), 7, ALL)
    np.testing.assert_array_equal(found.rows[0], np.arange(7))
    assert (found.scores == 0).all()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("where", ["all", "many short"])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
@pytest.mark.parametrize(("coarse", "tolerance"), [(False, 2e-5), (True, 2e-2)], ids=["float16", "int8"])
def test_the_mass_is_the_sum_over_all_rows_searched(
    where: str, temperature: float, coarse: bool, tolerance: float
) -> None:
    slices = SLICES[where]
    found = exact.scan(code_set(CODES, coarse), QUERIES, 10, slices, temperature)
    expected = np.logaddexp.reduce(all_scores(CODES[rows_of(slices)], QUERIES) / temperature, axis=1)
    np.testing.assert_allclose(found.log_mass, expected, atol=tolerance)


@pytest.mark.usefixtures("blocks")
def test_the_best_rows_weigh_in_the_mass_what_their_exact_scores_say() -> None:
    """At a temperature where one row has all of the mass, int8's rounding of it would be off by a factor."""
    found = exact.scan(code_set(CODES, True), QUERIES, 1, ALL, 1e-3)
    assert found.log_mass is not None
    np.testing.assert_allclose(found.log_mass, found.scores[:, 0].astype(np.float64) / 1e-3, atol=1e-3, rtol=1e-9)


def test_no_temperature_no_mass() -> None:
    assert exact.scan(code_set(CODES, False), QUERIES, 1, ALL).log_mass is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("coarse", [False, True], ids=["float16", "int8"])
def test_mapped_files_are_scanned_as_arrays_are(tmp_path: Path, mode: str, coarse: bool) -> None:
    made = code_set(CODES, coarse)
    np.save(tmp_path / "codes.npy", made.exact)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode=mode)  # type: ignore[call-overload]
    narrow = None
    if made.coarse is not None:
        np.save(tmp_path / "int8.npy", made.coarse)
        narrow = np.load(tmp_path / "int8.npy", mmap_mode=mode)  # type: ignore[call-overload]
    codes = CodeSet(made.ids, mapped, narrow, made.scale, made.coarse_error, made.longest)
    for slices in (ALL, SLICES["many short"]):
        assert_best(exact.scan(codes, QUERIES, 40, slices), CODES, QUERIES, 40, slices)


def test_packed_codes_are_scanned_as_the_codes_they_stand_for() -> None:
    book: Codebook = train(CODES.astype(np.float32), 8)
    packed = PackedCodes(book.encode(CODES), book)
    decoded = packed[0:ROWS]
    codes = CodeSet(
        np.arange(ROWS, dtype=np.uint64), packed, longest=float(np.linalg.norm(decoded.astype(float), axis=1).max())
    )
    for slices in (ALL, SLICES["many short"]):
        assert_best(exact.scan(codes, QUERIES, 25, slices), decoded, QUERIES, 25, slices)


def test_int8_codes_of_other_cells_are_found_out() -> None:
    codes = code_set(CODES, True)
    assert codes.coarse is not None
    for where in (codes.coarse[::-1].copy(), -codes.coarse):
        with pytest.raises(InputError, match="float16 and int8 codes are not of the same cells, or damaged"):
            exact.scan(replace(codes, coarse=where), QUERIES, 5, ALL)


def test_codes_that_are_not_finite_are_found_out() -> None:
    damaged = CODES.copy()
    damaged[:, 3] = np.nan
    with pytest.raises(InputError, match="damaged"):
        exact.scan(replace(code_set(CODES, True), exact=damaged), QUERIES, 5, ALL)


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_ties_are_scored_in_pieces_with_the_same_result(
    temperature: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of all rows look the same, far more than are scored at a time."""
    codes = CODES.copy()
    codes[::2] = codes[0]
    whole = exact.scan(code_set(codes, True), QUERIES, 40, ALL, temperature)
    monkeypatch.setattr(exact, "TIED", 7)
    pieces = exact.scan(code_set(codes, True), QUERIES, 40, ALL, temperature)
    assert_best(pieces, codes, QUERIES, 40)
    np.testing.assert_array_equal(pieces.rows, whole.rows)
    if temperature is not None:
        np.testing.assert_allclose(pieces.log_mass, whole.log_mass, atol=1e-12)
