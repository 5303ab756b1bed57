import numpy as np
import pytest

from cellcode.index.quantise import PackedCodes, int8_step, to_int8, train

RNG = np.random.default_rng(0)
SPECTRUM = 0.9 ** np.arange(32)
CODES = (RNG.standard_normal((1500, 32)) * SPECTRUM).astype(np.float16)
QUERIES = (RNG.standard_normal((300, 32)) * SPECTRUM[::-1]).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 1, 100])
def test_no_row_of_int8_codes_is_farther_from_its_code_than_the_bound(scale: float) -> None:
    codes = (CODES * np.float16(scale)).astype(np.float16)
    step = int8_step(float(np.abs(codes).max()))
    narrow, error = to_int8(codes, step)
    apart = np.linalg.norm(codes.astype(np.float64) - step * narrow.astype(np.float64), axis=1)
    assert narrow.dtype == np.int8
    assert apart.max() <= error * (1 + 1e-5)
    assert error <= apart.max() * (1 + 1e-5)
    assert np.abs(codes.astype(np.float64) - step * narrow.astype(np.float64)).max() <= step * 0.5001
    assert np.abs(narrow).max() == 127


def test_a_step_too_small_clips_and_says_so_in_the_error() -> None:
    narrow, error = to_int8(np.full((1, 1), 10, np.float16), 0.01)
    assert narrow.tolist() == [[127]]
    assert error == pytest.approx(10 - 1.27)


def test_codes_of_zeros_have_a_step() -> None:
    narrow, error = to_int8(np.zeros((3, 4), np.float16), int8_step(0.0))
    assert not narrow.any()
    assert error == 0
    assert to_int8(np.zeros((0, 4), np.float16), 1.0)[1] == 0.0


@pytest.mark.parametrize("queries", [None, QUERIES], ids=["codes", "queries"])
@pytest.mark.parametrize("pieces", [4, 16])
def test_decoding_gives_the_nearest_centroids_brought_back(queries: np.ndarray | None, pieces: int) -> None:
    """By the definition: every piece of a turned code is replaced by the nearest of 256, and the turn is undone."""
    book = train(CODES.astype(np.float32), pieces, queries)
    numbers = book.encode(CODES[:200])
    assert numbers.shape == (200, pieces)
    assert numbers.dtype == np.uint8
    turned = (CODES[:200].astype(np.float32) @ book.directions.for_codes.T).reshape(200, pieces, -1)
    apart = np.square(turned[:, :, None] - book.centroids[None]).sum(axis=-1)
    chosen = np.take_along_axis(apart, numbers[..., None].astype(np.int64), axis=2)[..., 0]
    np.testing.assert_allclose(chosen, apart.min(axis=2), atol=1e-4)
    nearest = book.centroids[np.arange(pieces), numbers.astype(np.int64)].reshape(200, -1)
    expected = nearest.astype(np.float64) @ np.linalg.inv(book.directions.for_codes.astype(np.float64)).T
    np.testing.assert_allclose(book.decode(numbers).astype(np.float64), expected, atol=3e-3)


def test_more_bytes_are_closer() -> None:
    errors = []
    for pieces in (2, 4, 8):
        book = train(CODES.astype(np.float32), pieces)
        errors.append(float(np.square(book.decode(book.encode(CODES)).astype(np.float32) - CODES).mean()))
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2]


def test_photos_make_the_error_of_scores_smaller() -> None:
    truth = QUERIES @ CODES.astype(np.float32).T

    def error(queries: np.ndarray | None) -> float:
        book = train(CODES.astype(np.float32), 8, queries)
        made = book.decode(book.encode(CODES)).astype(np.float32)
        return float(np.square(QUERIES @ made.T - truth).mean())

    assert error(QUERIES[::2]) < 0.8 * error(None)


def test_a_seed_gives_the_same_codebook() -> None:
    one, other = (train(CODES.astype(np.float32), 8, QUERIES, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, other.centroids)


def test_a_few_codes_are_kept_as_they_are() -> None:
    """Fewer codes than centroids: each is its own."""
    few = CODES[:40]
    book = train(few.astype(np.float32), 8, QUERIES)
    assert book.centroids.shape == (8, 256, 4)
    np.testing.assert_allclose(book.decode(book.encode(few)).astype(np.float32), few.astype(np.float32), atol=2e-3)


def test_packed_codes_are_taken_as_rows_of_an_array_are() -> None:
    book = train(CODES.astype(np.float32), 8)
    packed = PackedCodes(book.encode(CODES), book)
    whole = book.decode(packed.numbers)
    assert (packed.shape, packed.dtype, len(packed)) == ((1500, 32), np.float16, 1500)
    for rows in (slice(3, 50), slice(None), slice(10, 10), np.array([7, 3, 3, 1499]), np.arange(0)):
        np.testing.assert_array_equal(packed[rows], whole[rows])
        assert packed[rows].dtype == np.float16


def test_a_decoded_row_does_not_depend_on_the_rows_beside_it() -> None:
    rng = np.random.default_rng(1)
    sample = rng.standard_normal((3000, 32)).astype(np.float32)
    queries = rng.standard_normal((200, 32)).astype(np.float32)
    book = train(sample, 8, queries)
    numbers = book.encode(sample)
    together = book.decode(numbers)
    for size in (1, 3, 17, 500):
        parts = [book.decode(numbers[row : row + size]) for row in range(0, 1500, size)]
        np.testing.assert_array_equal(np.concatenate(parts)[:1500], together[:1500])
