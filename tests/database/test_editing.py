from __future__ import annotations

import errno
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode import build
from cellcode.database import Database, clip, merge, split
from cellcode.database.building.fusion import fuse
from cellcode.database.store.layout import KIND
from cellcode.errors import InputError, OutputError
from cellcode.files import sha256
from cellcode.geography import Region, s2
from cellcode.runs import Run
from cellcode.search import DatabaseSearcher

editing = import_module("cellcode.database.editing.split")  # the package exports a function of that name
WEST, EAST = Region.bbox(2.9, 51.9, 3.1, 52.2), ~Region.bbox(2.9, 51.9, 3.1, 52.2)
PART = Region.geojson(
    {
        "type": "Polygon",
        "coordinates": [
            [[3.02, 52.01], [3.18, 52.02], [3.15, 52.09], [3.03, 52.08], [3.02, 52.01]],
            [[3.08, 52.04], [3.08, 52.06], [3.12, 52.06], [3.12, 52.04], [3.08, 52.04]],
        ],
    }
)
ROWS = ("ids.npy", "codes.npy", "codes_int8.npy", "terms/prototypes.npy")


@pytest.fixture(scope="module")
def part(wide_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> Database:
    return clip(wide_cells, PART, out=tmp_path_factory.mktemp("part") / "part.cells")


@pytest.fixture(scope="module")
def halves(mixed: Database, tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, Database]:
    folder = tmp_path_factory.mktemp("halves")
    return clip(mixed, WEST, out=folder / "west.cells"), clip(mixed.folder, EAST, out=folder / "east.cells")


def edited(database: Database, folder: Path, **changes: Any) -> Path:
    """Copy a database with another manifest."""
    shutil.copytree(database.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    KIND.write(folder / "manifest.json", manifest | changes)
    return folder


def test_a_part_answers_exactly_as_the_whole_does_there(wide_cells: Database, part: Database) -> None:
    queries = wide_cells.queries
    for k in (1, 50, 1000):
        whole = DatabaseSearcher(wide_cells, "exact").search(queries, k, PART, temperature=0.05)
        own = DatabaseSearcher(part, "exact").search(queries, k, temperature=0.05)
        np.testing.assert_array_equal(own.cell_ids, whole.cell_ids)
        np.testing.assert_array_equal(own.scores, whole.scores)
        np.testing.assert_allclose(own.log_mass, whole.log_mass, atol=1e-6)


def test_a_part_has_the_rows_of_the_cells_inside(wide_cells: Database, part: Database) -> None:
    inside = PART.contains(*s2.cell_centers(wide_cells.ids))
    for name in ROWS:
        np.testing.assert_array_equal(np.load(part.folder / name), np.load(wide_cells.folder / name)[inside])
    for name, values in vars(wide_cells.facts).items():
        np.testing.assert_array_equal(getattr(part.facts, name), values[inside], err_msg=name)
    part.verify()


def test_a_part_says_what_it_is(wide_cells: Database, part: Database) -> None:
    assert part.identity != wide_cells.identity
    assert part.manifest["made_from"] == {"how": "clip", "databases": [wide_cells.identity]}
    assert part.manifest["cells"] == {
        "total": len(part.ids), "both": 0, "aerial_only": 0, "prototype_only": len(part.ids), "left_out": 0,
    }  # fmt: skip
    for name in ("run", "levels", "dim", "codes", "calibration", "licences", "attributions", "training_photos"):
        assert part.manifest[name] == wide_cells.manifest[name]
    west, south, east, north = part.region_bounds
    assert 3.017 < west < 3.023
    assert 52.008 < south < 52.012
    assert 3.177 < east < 3.183
    assert 52.088 < north < 52.092


def test_the_first_stage_of_a_part_is_checked_on_its_own_cells(part: Database) -> None:
    settings = part.search_settings
    assert settings is not None
    assert part.first_stage is not None
    assert part.first_stage.rows == len(part.ids)
    hits = DatabaseSearcher(part, "two_stage").search(part.queries, 1)
    truth = DatabaseSearcher(part, "exact").search(part.queries, 1)
    assert hits.searched.method == "two_stage"
    assert (hits.cell_ids == truth.cell_ids).mean() >= 0.995
    checked = part.queries[1::2]
    hits, truth = (DatabaseSearcher(part, how).search(checked, 100) for how in ("two_stage", "exact"))  # type: ignore[arg-type]
    same = np.mean([np.isin(one, other).mean() for one, other in zip(truth.cell_ids, hits.cell_ids, strict=True)])
    assert same == pytest.approx(settings.kept[100], abs=0.003) or settings.entries_for(100) == settings.entries[1000]


def test_a_small_part_is_searched_exactly(wide_cells: Database, tmp_path: Path) -> None:
    small = clip(wide_cells, Region.cap(52.05, 3.1, 900), out=tmp_path / "small.cells")
    assert 50 < len(small.ids) < 2000
    assert small.search_settings is None
    assert not list(small.folder.glob("first_stage*"))
    assert DatabaseSearcher(small).search(small.queries[:2], 5).searched.method == "exact"


def test_a_part_locates_and_is_cut_again(wide_cells: Database, part: Database, tmp_path: Path) -> None:
    cap = Region.cap(52.03, 3.1, 900)
    one = clip(part, cap, out=tmp_path / "one.cells")
    other = clip(wide_cells, cap, out=tmp_path / "other.cells")
    both = PART.contains(*s2.cell_centers(other.ids))
    np.testing.assert_array_equal(one.ids, other.ids[both])
    assert one.encoder() is not None


def test_cutting_away_everything_is_refused(wide_cells: Database, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no cell of .*wide\.cells lies in the region west 10"):
        clip(wide_cells, Region.bbox(10, 10, 11, 11), out=tmp_path / "a.cells")
    with pytest.raises(InputError, match="smaller than a cell"):
        clip(wide_cells, Region.bbox(3.1, 52.05, 3.10001, 52.05001), out=tmp_path / "a.cells")
    assert not list(tmp_path.iterdir())


def test_something_else_is_not_overwritten(wide_cells: Database, halves: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not overwritten"):
        clip(wide_cells, PART, out=tmp_path)
    with pytest.raises(InputError, match="not overwritten"):
        merge(halves, out=tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_two_halves_are_the_whole_byte_for_byte(mixed: Database, halves: Any, tmp_path: Path) -> None:
    west, east = halves
    assert len(west.ids) + len(east.ids) == len(mixed.ids)
    assert min(len(west.ids), len(east.ids)) > 20
    for order in ([west, east], [east.folder, str(west.folder)]):
        made = merge(order, out=tmp_path / "whole.cells")
        names = set(mixed.manifest["files"]) - {"queries.npy", "cells.parquet"}
        assert {"terms/aerial.npy", "terms/tiles.npy", "tile_digests.npy", *ROWS} < names
        for name in names:
            assert sha256(made.folder / name) == sha256(mixed.folder / name), name
        for name, values in vars(mixed.facts).items():
            np.testing.assert_array_equal(getattr(made.facts, name), values, err_msg=name)
        assert made.identity == mixed.identity
        for name in ("codes", "calibration", "bounds", "imagery", "licences", "levels"):
            assert made.manifest[name] == mixed.manifest[name]
        assert made.manifest["made_from"]["how"] == "merge"
        np.testing.assert_array_equal(np.unique(made.queries, axis=0), np.unique(mixed.queries, axis=0))
        made.verify()


def test_interleaved_parts_are_put_in_the_order_of_their_cells(mixed: Database, tmp_path: Path) -> None:
    hole = Region.cap(52.05, 3.1, 400)
    parts = [clip(mixed, region, out=tmp_path / f"{n}.cells") for n, region in enumerate((hole, ~hole))]
    made = merge(parts, out=tmp_path / "whole.cells")
    np.testing.assert_array_equal(made.ids, mixed.ids)
    np.testing.assert_array_equal(made.codes, mixed.codes)


def test_a_large_merged_database_is_searched_in_two_stages(wide_cells: Database, tmp_path: Path) -> None:
    parts = [clip(wide_cells, region, out=tmp_path / f"{n}.cells") for n, region in enumerate((WEST, EAST))]
    made = merge(parts, out=tmp_path / "whole.cells")
    settings = made.search_settings
    assert settings is not None
    assert settings.queries == len(wide_cells.queries) // 2
    hits, truth = (DatabaseSearcher(made, how).search(made.queries, 1) for how in ("two_stage", "exact"))  # type: ignore[arg-type]
    assert (hits.cell_ids == truth.cell_ids).mean() >= 0.995


def test_parts_without_a_kind_of_term_join_those_that_have_it(
    wide_run: Run, imagery: Path, mixed: Database, tmp_path: Path
) -> None:
    """The halves are built apart, one without imagery, with the same calibration."""
    west, east = Region.bbox(3.09, 52.045, 3.1, 52.055), Region.bbox(3.1, 52.045, 3.112, 52.055)
    one = build(wide_run, imagery, west, out=tmp_path / "one.cells")
    other = build(wide_run, None, east, out=tmp_path / "other.cells")
    calibration = one.manifest["calibration"]
    other = Database.open(edited(other, tmp_path / "alike.cells", calibration=calibration))
    made = merge([one, other], out=tmp_path / "made.cells")
    for which in (one, other):
        rows = np.searchsorted(made.ids, which.ids)
        np.testing.assert_array_equal(made.codes[rows], which.codes)
        np.testing.assert_array_equal(made.facts.has_aerial[rows], which.facts.has_aerial)
    aerial, prototypes = made.terms()
    assert aerial is not None
    assert prototypes is not None
    assert not aerial[np.searchsorted(made.ids, other.ids)].any()
    digests = made.tile_digests()
    assert digests is not None
    assert ((digests != 0) == made.facts.has_aerial).all()


def test_terms_that_one_database_threw_away_are_not_made_up(wide_run: Run, imagery: Path, tmp_path: Path) -> None:
    west, east = Region.bbox(3.09, 52.045, 3.1, 52.055), Region.bbox(3.1, 52.045, 3.112, 52.055)
    one = build(wide_run, imagery, west, out=tmp_path / "one.cells")
    other = build(wide_run, imagery, east, out=tmp_path / "other.cells", overrides=["build.keep_terms=false"])
    alike = edited(other, tmp_path / "alike.cells", calibration=one.manifest["calibration"])
    made = merge([one, alike], out=tmp_path / "made.cells")
    assert made.terms() == (None, None)
    assert (made.tiles(), made.tile_digests()) == (None, None)
    with pytest.raises(InputError, match="another calibration and does not keep its terms"):
        merge([one, other], out=tmp_path / "no.cells")


def test_databases_of_other_calibrations_are_fused_again_with_the_first(
    wide_run: Run, imagery: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    west, east = Region.bbox(3.088, 52.042, 3.1, 52.058), Region.bbox(3.1, 52.042, 3.122, 52.058)
    one = build(wide_run, imagery, west, out=tmp_path / "one.cells", overrides=["build.kappa=0.5"])
    other = build(wide_run, imagery, east, out=tmp_path / "other.cells", overrides=["build.kappa=1.5"])
    made = merge([one, other], out=tmp_path / "made.cells")
    assert f"computed again with that of {one.folder}" in caplog.text
    assert made.calibration == one.calibration
    aerial, prototypes = made.terms()
    expected = fuse(aerial, prototypes, made.facts.has_aerial, made.facts.has_prototype, one.calibration)
    np.testing.assert_array_equal(made.codes, expected.astype(np.float16))
    np.testing.assert_array_equal(made.codes[np.searchsorted(made.ids, one.ids)], one.codes)
    apart = np.linalg.norm(
        made.codes.astype(float) - made.manifest["codes"]["int8_step"] * made.code_set.coarse, axis=1
    )
    assert apart.max() <= made.manifest["codes"]["int8_error"]
    made.verify()


def test_figures_of_confidence_alone_do_not_make_codes_anew(
    mixed: Database, halves: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a part that is too small for the regression takes it from the other one."""
    west, east = halves
    inside = {"weights": [0.1] * (mixed.code_set.dim + 4), "threshold": 0.4}
    sure = edited(east, tmp_path / "sure.cells", calibration=east.manifest["calibration"] | {"inside": inside})
    made = merge([west, sure], out=tmp_path / "made.cells")
    assert "computed again" not in caplog.text
    np.testing.assert_array_equal(made.codes, mixed.codes)
    assert made.calibration.inside == Database.open(sure).calibration.inside
    assert len(made.ids) >= 100
    region = Region.of_cells(made.ids[:99])
    assert clip(made, region, out=tmp_path / "small.cells").calibration.inside is None
    region = Region.of_cells(made.ids[:100])
    assert clip(made, region, out=tmp_path / "large.cells").calibration == made.calibration


def test_what_cannot_be_joined_is_refused(mixed: Database, halves: Any, wide_cells: Database, tmp_path: Path) -> None:
    west, east = halves
    out = tmp_path / "a.cells"
    with pytest.raises(InputError, match="at least two"):
        merge([west], out=out)
    with pytest.raises(InputError, match="at least two"):
        merge([], out=out)
    other = edited(east, tmp_path / "other.cells", run={"identity": "0" * 16, "name": "other"})
    with pytest.raises(InputError, match=r"other\.cells is of another run than .*west\.cells"):
        merge([west, other], out=out)
    token = s2.tokens(west.ids[:1])[0]
    with pytest.raises(InputError, match=rf"share {len(west.ids)} cells, the first is {token}; clip one"):
        merge([west, mixed], out=out)
    with pytest.raises(InputError, match="share"):
        merge([west, west], out=out)
    with pytest.raises(InputError, match="not a cell-code database"):
        merge([west, tmp_path / "nothing"], out=out)
    assert not out.exists()


def test_the_sources_are_not_overwritten(halves: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    west, east = halves
    monkeypatch.chdir(east.folder)
    for out in (east.folder, Path(), Path("..") / east.folder.name):
        with pytest.raises(InputError, match="is what the new database is made from; choose another --out"):
            merge([west, east], out=out)
        with pytest.raises(InputError, match="is what the new database is made from"):
            clip(east, Region.cap(52.05, 3.1, 5000), out=out)
    east.verify()


def test_shards_are_written_all_or_none(
    mixed: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = split(mixed, 3, out=tmp_path / "shards")
    assert [each.folder for each in made] == [tmp_path / "shards" / f"{n:03d}.cells" for n in range(len(made))]
    np.testing.assert_array_equal(np.concatenate([each.ids for each in made]), mixed.ids)
    assert [each.identity for each in split(mixed, 3, out=tmp_path / "shards")] == [each.identity for each in made]
    with pytest.raises(InputError, match="is, or holds, what the shards are made from"):
        split(made[0], 2, out=tmp_path / "shards")
    (tmp_path / "shards/notes.txt").touch()
    with pytest.raises(InputError, match="shards holds other files than shards"):
        split(mixed, 3, out=tmp_path / "shards")
    monkeypatch.setattr("cellcode.database.editing.split.SHARD_DEPTH", 2)
    caplog.clear()
    many = split(mixed, 10_000, out=tmp_path / "many")
    assert f"{len(many)} shards instead of 10000" in caplog.text
    done, clipped = [], editing._clipped

    def failing(*given: Any) -> Database:
        if done:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(1)
        return clipped(*given)

    monkeypatch.setattr(editing, "_clipped", failing)
    with pytest.raises(OutputError, match="none: the disk is full"):
        split(mixed, 3, out=tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "shards"]


def test_merged_queries_keep_their_order(halves: Any, mixed: Database, tmp_path: Path) -> None:
    np.testing.assert_array_equal(merge(halves, out=tmp_path / "whole.cells").queries, mixed.queries)


def test_an_aerial_encoder_that_not_all_share_is_not_claimed(halves: Any, tmp_path: Path) -> None:
    west, east = halves
    assert merge(halves, out=tmp_path / "a.cells").manifest["aerial_encoder"] == west.manifest["aerial_encoder"]
    other = edited(east, tmp_path / "other.cells", aerial_encoder="f" * 16)
    assert merge([west, other], out=tmp_path / "b.cells").manifest["aerial_encoder"] is None


def test_other_upsampling_or_smoothing_is_not_joined(wide_run: Run, imagery: Path, halves: Any, tmp_path: Path) -> None:
    rough = build(wide_run, imagery, Region.bbox(3.1, 52.045, 3.112, 52.055), out=tmp_path / "rough.cells")
    with pytest.raises(
        InputError, match=r"rough\.cells was built with other upsampling or smoothing than .*west\.cells"
    ):
        merge([halves[0], rough], out=tmp_path / "a.cells")
