import numpy as np
import pytest

from cellcode.errors import InputError
from cellcode.geography import Region, s2
from cellcode.search import ExactSearcher, searcher

REGION = Region.bbox(3.0, 52.0, 3.1, 52.05)
IDS = REGION.cells(15)
RNG = np.random.default_rng(0)
CODES = RNG.standard_normal((len(IDS), 24)).astype(np.float16)
QUERIES = RNG.standard_normal((5, 24)).astype(np.float32)


@pytest.mark.parametrize("block", [7, 64, 65536])
@pytest.mark.parametrize("k", [1, 10, 10_000])
def test_exact_search_equals_sorting_all_scores(monkeypatch: pytest.MonkeyPatch, block: int, k: int) -> None:
    monkeypatch.setattr(searcher, "BLOCK", block)
    hits = ExactSearcher(IDS, CODES).search(QUERIES, k, temperature=0.7)
    scores = QUERIES @ CODES.astype(np.float32).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(hits.cell_ids, IDS[order])
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, order, axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hits.log_mass, np.log(np.exp(scores.astype(np.float64) / 0.7).sum(axis=1)), rtol=1e-6)


def test_a_region_gives_the_answers_of_a_smaller_database() -> None:
    part = Region.bbox(3.02, 52.01, 3.05, 52.03)
    inside = part.contains(*s2.cell_centers(IDS))
    assert 0 < inside.sum() < len(IDS)
    hits = ExactSearcher(IDS, CODES).search(QUERIES, 6, part, temperature=0.5)
    alone = ExactSearcher(IDS[inside], CODES[inside]).search(QUERIES, 6, temperature=0.5)
    np.testing.assert_array_equal(hits.cell_ids, alone.cell_ids)
    np.testing.assert_allclose(hits.log_mass, alone.log_mass)


def test_a_region_without_cells_is_refused() -> None:
    with pytest.raises(InputError, match="no cell of the database lies in the region"):
        ExactSearcher(IDS, CODES).search(QUERIES, 6, Region.bbox(10, 10, 11, 11))


def test_equal_scores_go_to_the_smaller_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "BLOCK", 3)
    same = np.ones((8, 4), np.float16)
    hits = ExactSearcher(IDS[:8], same).search(np.ones((1, 4), np.float32), 8)
    np.testing.assert_array_equal(hits.cell_ids[0], IDS[:8])
