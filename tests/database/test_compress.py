from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cellcode.database import Database, clip, compress, merge
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, s2
from cellcode.index.quantise import PackedCodes
from cellcode.search import DatabaseSearcher


@pytest.fixture(scope="module")
def packed(wide_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> Database:
    return compress(wide_cells, 8, out=tmp_path_factory.mktemp("packed") / "packed.cells")


@pytest.fixture(scope="module")
def middle(wide_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """About 1,300 cells."""
    return clip(wide_cells, Region.cap(52.05, 3.1, 3000), out=tmp_path_factory.mktemp("middle") / "middle.cells")


def test_codes_take_the_bytes_asked_for(wide_cells: Database, packed: Database) -> None:
    cells = len(wide_cells.ids)
    assert np.load(packed.folder / "codes_packed.npy").shape == (cells, 8)
    assert packed.bytes == cells * (8 + 8)
    assert wide_cells.bytes == cells * (64 + 8)
    names = set(packed.manifest["files"])
    assert not {name for name in names if name.startswith(("codes.", "codes_int8", "terms", "tile"))}
    assert packed.manifest["codes"]["dtype"] == "pq8x8"
    np.testing.assert_array_equal(packed.ids, wide_cells.ids)
    assert isinstance(packed.codes, PackedCodes)
    assert packed.codes.shape == wide_cells.codes.shape
    packed.verify()


def test_the_agreement_is_counted_on_photos_that_did_not_shape_the_codes(
    wide_cells: Database, packed: Database
) -> None:
    asked = wide_cells.queries[1::2].astype(np.float64)
    before = (asked @ wide_cells.codes.astype(np.float64).T).argmax(axis=1)
    after = (asked @ packed.codes[:].astype(np.float64).T).argmax(axis=1)
    assert packed.manifest["codes"]["agreement_at_1"] == pytest.approx((before == after).mean())
    assert 0.3 < packed.manifest["codes"]["agreement_at_1"] < 1


def test_the_longest_code_bounds_every_decoded_one(packed: Database) -> None:
    lengths = np.linalg.norm(packed.codes[:].astype(np.float64), axis=1)
    assert lengths.max() <= packed.code_set.longest < 1.001 * lengths.max()


@pytest.mark.parametrize("region", [None, Region.cap(52.05, 3.1, 2000)], ids=["everywhere", "cap"])
def test_search_gives_the_best_of_the_decoded_codes(packed: Database, region: Region | None) -> None:
    inside = np.ones(len(packed.ids), bool) if region is None else region.contains(*s2.cell_centers(packed.ids))
    codes, queries = packed.codes[:].astype(np.float64)[inside], packed.queries[:5]
    scores = (queries.astype(np.float64) @ codes.T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :30]
    hits = DatabaseSearcher(packed, "exact").search(queries, 30, region, temperature=0.1)
    np.testing.assert_array_equal(hits.cell_ids, packed.ids[inside][order])
    np.testing.assert_array_equal(hits.scores, np.take_along_axis(scores, order, axis=1))
    expected = np.logaddexp.reduce(queries.astype(np.float64) @ codes.T / 0.1, axis=1)
    np.testing.assert_allclose(hits.log_mass, expected, atol=1e-4)


def test_the_first_stage_is_checked_against_the_decoded_codes(packed: Database) -> None:
    assert packed.search_settings is not None
    hits = DatabaseSearcher(packed, "two_stage").search(packed.queries, 1)
    truth = DatabaseSearcher(packed, "exact").search(packed.queries, 1)
    assert hits.searched.method == "two_stage"
    assert (hits.cell_ids == truth.cell_ids).mean() >= 0.995


def test_more_bytes_agree_more_often(middle: Database, tmp_path: Path) -> None:
    made = [compress(middle.folder, size, out=tmp_path / "packed.cells") for size in (2, 8)]
    fewer, more = (each.manifest["codes"]["agreement_at_1"] for each in made)
    assert fewer < more - 0.1


def test_compressing_twice_gives_the_same(middle: Database, tmp_path: Path) -> None:
    one, other = (compress(middle, 4, out=tmp_path / f"{n}.cells") for n in range(2))
    assert one.manifest == other.manifest


def test_a_database_of_fewer_cells_than_centroids_is_compressed(mixed: Database, tmp_path: Path) -> None:
    small = clip(mixed, Region.cap(52.05, 3.1, 500), out=tmp_path / "small.cells")
    assert len(small.ids) < 256
    made = compress(small, 8, out=tmp_path / "packed.cells")
    np.testing.assert_allclose(made.codes[:].astype(float), small.codes.astype(float), atol=3e-3)
    for name, values in vars(small.facts).items():
        np.testing.assert_array_equal(getattr(made.facts, name), values, err_msg=name)


def test_a_compressed_database_is_cut_but_not_merged(packed: Database, tmp_path: Path) -> None:
    cap = Region.cap(52.05, 3.1, 2000)
    part, rest = (clip(packed, region, out=tmp_path / f"{n}.cells") for n, region in enumerate((cap, ~cap)))
    whole = DatabaseSearcher(packed, "exact").search(packed.queries, 10, cap)
    own = DatabaseSearcher(part).search(packed.queries, 10)
    np.testing.assert_array_equal(own.cell_ids, whole.cell_ids)
    np.testing.assert_array_equal(own.scores, whole.scores)
    with pytest.raises(InputError, match=r"0\.cells is compressed; merge the databases"):
        merge([part, rest], out=tmp_path / "whole.cells")


def test_what_cannot_be_compressed_is_refused(wide_cells: Database, packed: Database, tmp_path: Path) -> None:
    out = tmp_path / "a.cells"
    with pytest.raises(InputError, match="compressed already"):
        compress(packed, 4, out=out)
    for size in (0, -4, 5, 24, 64):
        with pytest.raises(UsageError, match=rf"width 32 take 1, 2, 4, 8, 16, 32 bytes, not {size}"):
            compress(wide_cells, size, out=out)
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InputError, match="not overwritten"):
        compress(wide_cells, 8, out=tmp_path / "mine")
    assert not out.exists()


def test_the_codebook_is_plain_arrays(packed: Database) -> None:
    arrays = load_file(packed.folder / "codebook.safetensors")
    assert {name: values.shape for name, values in arrays.items()} == {
        "centroids": (8, 256, 4), "turn": (32, 32), "ask": (32, 32),
    }  # fmt: skip


def test_the_manifest_claims_no_errors_of_codes_that_are_not_there(packed: Database) -> None:
    codes = packed.manifest["codes"]
    assert codes["largest_score_error"] is None
    assert (codes["int8_error"], codes["int8_step"]) == (0.0, 1.0)


def test_the_source_is_not_overwritten(mixed: Database) -> None:
    with pytest.raises(InputError, match="is what the new database is made from; choose another --out"):
        compress(mixed, 8, out=mixed.folder.parent / "." / mixed.folder.name)
    mixed.verify()
