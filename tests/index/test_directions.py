import numpy as np
import pytest

from cellcode.index.quantise import _balanced, find_directions

RNG = np.random.default_rng(0)
CODES = (RNG.standard_normal((800, 24)) * 0.8 ** np.arange(24)).astype(np.float32)
QUERIES = (RNG.standard_normal((200, 24)) * np.tile([1, 0.1], 12)).astype(np.float32)


@pytest.mark.parametrize("queries", [None, QUERIES[:10], QUERIES], ids=["none", "too few", "enough"])
@pytest.mark.parametrize("pieces", [1, 6, 12, 24])
def test_products_are_kept_when_no_component_is_dropped(queries: np.ndarray | None, pieces: int) -> None:
    turn, ask = find_directions(CODES, queries, 24, pieces)
    assert turn.shape == ask.shape == (24, 24)
    np.testing.assert_allclose((QUERIES @ ask.T) @ (CODES @ turn.T).T, QUERIES @ CODES.T, atol=1e-4)


def test_without_queries_the_components_that_are_left_are_the_principal_ones() -> None:
    turn, _ = find_directions(CODES, None, 8, 4)
    values, vectors = np.linalg.eigh(CODES.astype(np.float64).T @ CODES.astype(np.float64))
    expected = vectors[:, np.argsort(-values)[:8]]
    np.testing.assert_allclose(turn.T @ turn, expected @ expected.T, atol=1e-5)


def test_what_is_dropped_costs_scores_the_least() -> None:
    """With photos that look along other directions than the codes spread, principal components of codes are the wrong ones."""
    truth = QUERIES @ CODES.T

    def error(queries: np.ndarray | None) -> float:
        turn, ask = find_directions(CODES, queries, 8, 4)
        return float(np.square((QUERIES @ ask.T) @ (CODES @ turn.T).T - truth).mean())

    assert error(QUERIES) < 0.9 * error(None)


def test_few_photos_are_not_believed() -> None:
    for one, other in zip(find_directions(CODES, QUERIES[:11], 8, 4), find_directions(CODES, None, 8, 4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_codes_of_fewer_dimensions_than_they_are_wide_do_no_harm() -> None:
    flat = CODES.copy()
    flat[:, 5:] = 0
    turn, ask = find_directions(flat, QUERIES, 24, 12)
    assert np.isfinite(turn).all()
    np.testing.assert_allclose((QUERIES @ ask.T) @ (flat @ turn.T).T, QUERIES @ flat.T, atol=1e-4)


def test_components_are_dealt_out_to_pieces_of_like_products() -> None:
    variances = 0.7 ** np.arange(16)
    order = _balanced(variances, 4)
    assert sorted(order.tolist()) == list(range(16))
    logs = np.log(variances[order].reshape(4, 4)).sum(axis=1)
    in_order = np.log(variances.reshape(4, 4)).sum(axis=1)
    assert np.ptp(logs) < 0.1 * np.ptp(in_order)
