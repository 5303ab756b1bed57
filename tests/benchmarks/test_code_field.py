from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from code_field import BLOCK_DEPTH, CodeField
from code_statistics import LAGS, CodeStatistics, describe, fit

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.types import Float32, Ids

TRAINED = Path(__file__).parents[2] / "benchmarks" / "data" / "code_statistics.npz"
DIM = 32


def made_up(seed: int = 0) -> CodeStatistics:
    """Statistics with a falling spectrum, smooth leading and rough trailing components, and half of a query noise."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(DIM, DIM)))[0]
    rank = np.arange(DIM)
    spread = 0.6 * 0.85**rank
    reach = np.linspace(6, 1.5, DIM)  # cells
    raw = np.linalg.norm(0.1 + random.normal(size=(20_000, DIM)) * spread, axis=1)
    gain = 0.4 * 0.9**rank
    return CodeStatistics(
        mean=np.full(DIM, 0.1, np.float32),
        basis=basis.astype(np.float32),
        spread=spread.astype(np.float32),
        correlation=np.exp(-((np.array(LAGS) / reach[:, None]) ** 1.5)).astype(np.float32),
        norms=np.quantile(raw, np.linspace(0, 1, 257)).astype(np.float32),
        query_mean=np.full(DIM, 0.02, np.float32),
        query_gain=gain.astype(np.float32),
        query_residuals=random.normal(0, 0.12, (500, DIM)).astype(np.float16),
        true_cosine=0.6,
    )


def whole(field: CodeField, cells: int, **place: float) -> tuple[Ids, Float32]:
    ids, codes = zip(*field.blocks(cells, **place), strict=True)  # type: ignore[arg-type]
    return np.concatenate(ids), np.concatenate(codes)


@pytest.mark.parametrize("cells", [1, 2, 37, 4000, 70_000])
def test_exactly_the_cells_asked_for(cells: int) -> None:
    ids, codes = whole(CodeField(made_up(), 1), cells)
    assert codes.shape == (cells, DIM)
    assert codes.dtype == np.float32
    assert np.isfinite(codes).all()
    assert ids.shape == (cells,)
    assert s2.is_valid(ids).all()
    assert (s2.levels(ids) == 16).all()
    assert (ids[1:] > ids[:-1]).all()


def test_cells_lie_about_the_place() -> None:
    ids, _ = whole(CodeField(made_up(), 1), 65_536 * 4, lat_deg=-33.0, lon_deg=151.0)
    lat, lon = s2.cell_centers(ids)
    assert abs(lat.mean() + 33) < 0.5
    assert abs(lon.mean() - 151) < 0.5
    assert np.ptp(lat) < 1.5


def test_a_code_depends_on_seed_and_cell_alone() -> None:
    field = CodeField(made_up(), 7)
    ids, codes = whole(field, 65_536 + 10)
    again_ids, again = whole(CodeField(made_up(), 7), 65_536 + 10)
    np.testing.assert_array_equal(ids, again_ids)
    np.testing.assert_array_equal(codes, again)
    # One block alone, without those before it, and a smaller block inside it.
    last = s2.parents(ids[-1:], 16 - BLOCK_DEPTH)
    _, alone = field._block(last, 16)
    np.testing.assert_array_equal(alone[:10], codes[-10:])
    for depth in (7, 5, 1):
        small_ids, small = field._block(s2.parents(ids[:1], 16 - depth), 16)
        np.testing.assert_allclose(small, codes[np.searchsorted(ids, small_ids)], atol=1e-5)
    assert not np.allclose(whole(CodeField(made_up(), 8), 100)[1], codes[:100])


def test_the_field_runs_on_across_blocks_and_higher_levels() -> None:
    """Neighbours across the edge of a block or of a coarse cell resemble each other like those across any parent's edge."""
    ids, codes = whole(CodeField(made_up(), 3), 4 * 65_536)
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    next_ids = s2.edge_neighbors(ids)[:, 1]
    rows = np.minimum(np.searchsorted(ids, next_ids), ids.size - 1)
    there = ids[rows] == next_ids
    cosine = (unit * unit[rows]).sum(axis=1)
    parents = there & (s2.parents(ids, 15) != s2.parents(ids[rows], 15))
    for level in (8, 10, 12, 14):
        crossing = there & (s2.parents(ids, level) != s2.parents(ids[rows], level))
        assert np.count_nonzero(crossing) >= 512
        assert cosine[crossing].mean() == pytest.approx(cosine[parents].mean(), abs=0.015), level


def test_a_generated_set_has_the_statistics_it_was_made_from() -> None:
    known = made_up()
    field = CodeField(known, 5)
    ids, codes = whole(field, 16_384)
    queries, rows = field.queries(ids, codes, 2000, 1)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    lat, lon = s2.cell_centers(ids[rows])
    found = fit(ids, codes, lat, lon, queries)
    np.testing.assert_allclose(found.spread, known.spread, rtol=0.15)
    np.testing.assert_allclose(found.mean, known.mean, atol=0.12)  # smooth fields: few independent places
    np.testing.assert_allclose(found.correlation[:, :2], known.correlation[:, :2], atol=0.08)
    np.testing.assert_allclose(found.norms[13:-13], known.norms[13:-13], rtol=0.06)
    assert found.true_cosine == pytest.approx(known.true_cosine, abs=0.03)

    # A second generation keeps the figures a search depends on.
    second = CodeField(found, 6)
    ids2, codes2 = whole(second, 16_384)
    queries2, rows2 = second.queries(ids2, codes2, 500, 2)
    first, again = describe(ids, codes, queries[:500], rows[:500]), describe(ids2, codes2, queries2, rows2)
    for name in ("score sd", "neighbour cosine 50 %", "code norm 95 %", "best score 50 %", "100th score 50 %"):
        assert again[name] == pytest.approx(first[name], rel=0.12), name


def test_trained_statistics_give_the_trained_difficulty() -> None:
    field = CodeField(CodeStatistics.load(TRAINED), 0)
    ids, codes = whole(field, 4000)
    queries, rows = field.queries(ids, codes, 1000, 1)
    figures = describe(ids, codes, queries, rows)
    trained = {
        "code norm 50 %": (2.06, 0.1),
        "neighbour cosine 50 %": (0.93, 0.06),
        "correlation at lag 1": (0.85, 0.05),
        "energy in first 64 components": (0.94, 0.02),
        "query energy in first 64 components": (0.64, 0.05),
        "score sd": (0.32, 0.04),
        "best score 50 %": (1.15, 0.12),
        "100th score 50 %": (0.81, 0.12),
        "true cell's cosine 50 %": (0.46, 0.05),
        "true cell or edge neighbour first": (0.19, 0.08),
    }
    for name, (value, tolerance) in trained.items():
        assert figures[name] == pytest.approx(value, abs=tolerance), name


def test_describe_finds_the_true_cell() -> None:
    ids, codes = whole(CodeField(made_up(), 2), 1024)
    rows = np.arange(0, 1024, 8)
    codes = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    figures = describe(ids, codes, codes[rows], rows)
    assert figures["true cell first"] == 1
    assert figures["rank of true cell 95 %"] == 1
    assert figures["best score 50 %"] == pytest.approx(1, abs=1e-5)
    assert figures["code norm 5 %"] == pytest.approx(1, abs=1e-5)
    assert figures["100th score 50 %"] < 0.99


def test_save_and_load(tmp_path: Path) -> None:
    known = made_up()
    known.save(tmp_path / "folder" / "statistics.npz")
    loaded = CodeStatistics.load(tmp_path / "folder" / "statistics.npz")
    for field in fields(CodeStatistics):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(known, field.name))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["statistics.npz"]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    field = CodeField(made_up(), 1)
    ids, codes = whole(field, 1024)
    queries, rows = field.queries(ids, codes, 200, 1)
    lat, lon = s2.cell_centers(ids[rows])
    with pytest.raises(InputError, match="100 cells are too few"):
        fit(ids[:100], codes[:100], lat, lon, queries)
    with pytest.raises(InputError, match="0 photos lie in the cells"):
        fit(ids, codes, lat + 5, lon, queries)
    sparse = np.sort(s2.cell_ids(np.linspace(10, 50, 1024), 5.0, 16))
    with pytest.raises(InputError, match="share an edge"):
        fit(sparse, codes, *s2.cell_centers(sparse[rows]), queries)
    with pytest.raises(InputError, match="do not belong"):
        field.queries(ids[:-1], codes, 10, 1)
    with pytest.raises(InputError, match="do not fit"):
        next(field.blocks(0))
    with pytest.raises(InputError, match="does not exist"):
        CodeStatistics.load(tmp_path / "none.npz")
    (tmp_path / "other.npz").write_bytes(b"text")
    with pytest.raises(InputError, match="does not hold code statistics"):
        CodeStatistics.load(tmp_path / "other.npz")
    np.savez(tmp_path / "wrong.npz", mean=np.zeros(3))
    with pytest.raises(InputError, match="does not hold code statistics"):
        CodeStatistics.load(tmp_path / "wrong.npz")
