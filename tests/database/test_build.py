import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cellcode import build
from cellcode.aerial import open_source
from cellcode.aerial.crops import read_crops
from cellcode.database import Database
from cellcode.database.building.fusion import fuse, upsample
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, distance, s2
from cellcode.index.quantise import to_int8
from cellcode.runs import Run
from cellcode.simulation import Simulation


def test_every_cell_of_the_imagery_has_a_code(town: Simulation, town_cells: Database) -> None:
    expected = open_source(town.aerial_path).footprint().cells(16)
    np.testing.assert_array_equal(town_cells.ids, expected)
    assert (np.diff(town_cells.ids.astype(object)) > 0).all()
    assert town_cells.codes.dtype == np.float16
    assert town_cells.facts.has_aerial.all()


def test_codes_are_the_weighted_sum_of_the_embedded_tile_and_the_prototype(
    town: Simulation, town_run: Run, tmp_path: Path
) -> None:
    """One row after the other, from the raster and the run."""
    town_run = _with_smoothing(town_run, 0.0)
    town_cells = build(town_run, town.aerial_path, out=tmp_path / "plain.cells")
    calibration, config = town_cells.calibration, town_run.config
    rows = np.random.default_rng(0).permutation(len(town_cells.ids))[:12]
    lat, lon = s2.cell_centers(town_cells.ids[rows])
    size = config.tile
    tiles, *_ = read_crops(open_source(town.aerial_path), lat, lon, size_m=size.size_m, size_px=size.size_px)
    assert town_run.aerial is not None
    assert town_run.prototypes is not None
    with torch.inference_mode():
        aerial = town_run.aerial.eval()(torch.from_numpy(tiles)).numpy()
        near = town_run.prototypes.interpolate(*town_run.prototypes.neighbours(lat, lon)).numpy()
    has = town_run.prototypes.lookup(s2.parents(town_cells.ids[rows], 15)) >= 0
    expected = np.where(has[:, None], aerial + calibration.kappa * near, calibration.aerial_only * aerial)
    # bfloat16 where the CPU has it: 8 bits of precision.
    np.testing.assert_allclose(town_cells.codes[rows].astype(np.float32), expected, atol=0.03)
    np.testing.assert_array_equal(town_cells.facts.has_prototype[rows], has)


def test_smoothing_averages_each_tile_with_those_of_its_neighbours(
    town: Simulation, town_run: Run, tmp_path: Path
) -> None:
    """Against all pairs of cells: Gaussian weights over the cell and its eight neighbours, brought to unit length."""
    plain, smoothed = (
        build(_with_smoothing(town_run, sigma), town.aerial_path, out=tmp_path / f"{sigma}.cells")
        for sigma in (0.0, 0.6)
    )
    before, after = plain.terms()[0], smoothed.terms()[0]
    assert before is not None
    assert after is not None
    lat, lon = s2.cell_centers(plain.ids)
    apart_m = distance.haversine_m(lat[:, None], lon[:, None], lat, lon)
    neighbour = np.array(
        [
            np.isin(plain.ids, [cell, *s2.all_neighbors(plain.ids[row : row + 1])[0]])
            for row, cell in enumerate(plain.ids)
        ]
    )
    weight = np.exp(-((apart_m / (0.6 * s2.mean_edge_m(16))) ** 2) / 2) * neighbour
    expected = weight @ before.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(after.astype(np.float64), expected, atol=2e-3)


def _with_smoothing(run: Run, sigma_cells: float) -> Run:
    made = run.config.build.model_copy(update={"aerial_smoothing_cells": sigma_cells})
    return replace(run, config=run.config.model_copy(update={"build": made}))


def test_facts_count_the_training_photos_of_each_cell(town_run: Run, town_cells: Database) -> None:
    facts = dict(zip(town_run.facts.ids.tolist(), town_run.facts.photos.tolist(), strict=True))
    expected = [facts.get(cell, 0) for cell in town_cells.ids.tolist()]
    assert town_cells.facts.photos.tolist() == expected


def test_a_region_restricts_the_cells(town: Simulation, town_run: Run, town_cells: Database, tmp_path: Path) -> None:
    west, south, east, north = town_cells.region_bounds
    region = Region.bbox(west, south, (west + east) / 2, (south + north) / 2)
    part = build(town_run, town.aerial_path, region, out=tmp_path / "part.cells")
    inside = region.contains(*s2.cell_centers(town_cells.ids))
    np.testing.assert_array_equal(part.ids, town_cells.ids[inside])


def test_prototypes_alone_make_a_database(town_run: Run, tmp_path: Path) -> None:
    alone = build(town_run, out=tmp_path / "alone.cells")
    assert alone.facts.has_prototype.all()
    assert not alone.facts.has_aerial.any()
    np.testing.assert_array_equal(alone.ids, town_run.facts.ids)


def test_nothing_to_build_is_said_before_any_work(town: Simulation, town_run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="imagery covers none"):
        build(town_run, town.aerial_path, Region.bbox(10, 10, 10.05, 10.05), out=tmp_path / "a.cells")
    with pytest.raises(InputError, match=r"none of the .* cells"):
        build(town_run, None, Region.bbox(10, 10, 10.05, 10.05), out=tmp_path / "b.cells")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_not_overwritten(town_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not overwritten"):
        build(town_run, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_building_twice_gives_the_same_bytes(
    town: Simulation, town_run: Run, town_cells: Database, tmp_path: Path
) -> None:
    again = build(town_run, town.aerial_path, out=tmp_path / "again.cells")
    assert again.identity == town_cells.identity
    assert (again.folder / "codes.npy").read_bytes() == (town_cells.folder / "codes.npy").read_bytes()


def test_the_database_names_its_sources(town_cells: Database) -> None:
    assert town_cells.manifest["licences"] == ["CC0-1.0"]
    assert any("rendered world" in text for text in town_cells.manifest["attributions"])
    assert town_cells.manifest["imagery"]["date"] == "2023-07-18"


def test_cells_have_the_terms_that_imagery_and_prototypes_give(
    wide_run: Run, imagery: Path, area: Region, mixed: Database
) -> None:
    """Of every kind there are some; those with neither are left out."""
    cells, source = area.cells(16), open_source(imagery)
    crops = read_crops(source, *s2.cell_centers(cells), size_m=150, size_px=32)
    enough = crops.mask.mean(axis=(1, 2)) >= 0.5
    centre = source.covers(*s2.cell_centers(cells))
    assert wide_run.prototypes is not None
    near = wide_run.prototypes.lookup(s2.parents(cells, 15)) >= 0
    has_aerial = enough & centre
    kept = has_aerial | near
    np.testing.assert_array_equal(mixed.ids, cells[kept])
    np.testing.assert_array_equal(mixed.facts.has_aerial, has_aerial[kept])
    np.testing.assert_array_equal(mixed.facts.has_prototype, near[kept])
    counts = mixed.manifest["cells"]
    assert counts == {
        "total": kept.sum(),
        "both": (has_aerial & near).sum(),
        "aerial_only": (has_aerial & ~near).sum(),
        "prototype_only": (near & ~has_aerial).sum(),
        "left_out": (~kept).sum(),
    }
    assert min(counts.values()) > 0


def test_row_i_is_the_same_cell_in_every_file(mixed: Database) -> None:
    assert (mixed.ids[1:] > mixed.ids[:-1]).all()
    assert pq.read_table(mixed.folder / "cells.parquet").column("cell").to_pylist() == mixed.ids.tolist()
    aerial, prototypes = mixed.terms()
    digests, tiles = mixed.tile_digests(), mixed.tiles()
    assert aerial is not None
    assert prototypes is not None
    assert tiles is not None
    assert digests is not None
    for values in (aerial, tiles, digests[:, None]):
        np.testing.assert_array_equal(values.any(axis=1), mixed.facts.has_aerial)
    np.testing.assert_array_equal(prototypes.any(axis=1), mixed.facts.has_prototype)
    expected = fuse(aerial, prototypes, mixed.facts.has_aerial, mixed.facts.has_prototype, mixed.calibration)
    np.testing.assert_array_equal(mixed.codes, expected.astype(np.float16))
    np.testing.assert_array_equal(mixed.code_set.coarse, to_int8(np.asarray(mixed.codes), mixed.code_set.scale)[0])
    assert len(mixed.facts.photos) == len(mixed.ids)


def test_cells_know_their_photos_and_the_date_of_their_imagery(wide_run: Run, mixed: Database) -> None:
    known, facts = wide_run.facts, mixed.facts
    rows = {cell: row for row, cell in enumerate(known.ids.tolist())}
    for row, cell in enumerate(mixed.ids.tolist()):
        seen = rows.get(cell)
        assert facts.photos[row] == (0 if seen is None else known.photos[seen])
        assert facts.dates[row] == (0 if seen is None else known.dates[seen])
        for name in ("first_date", "last_date"):
            date = np.datetime64("NaT") if seen is None else getattr(known, name)[seen]
            np.testing.assert_array_equal(getattr(facts, name)[row], date)
    assert 0 < (facts.photos > 0).sum() < len(mixed.ids)
    assert (facts.imagery_date[facts.has_aerial] == np.datetime64("2021-06-05")).all()
    assert np.isnat(facts.imagery_date[~facts.has_aerial]).all()
    assert mixed.manifest["imagery"]["date"] == "2021-06-05"


def test_errors_of_narrow_codes_are_reported_and_are_bounds(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Against a build whose terms and codes are float32 throughout."""
    facts, codes = mixed.manifest["codes"], mixed.codes.astype(np.float64)
    assert mixed.code_set.coarse is not None
    apart = np.linalg.norm(codes - facts["int8_step"] * mixed.code_set.coarse.astype(np.float64), axis=1)
    assert apart.max() <= facts["int8_error"] <= 1.001 * apart.max()
    lengths = np.linalg.norm(codes, axis=1)
    assert lengths.max() <= facts["longest"] <= 1.001 * lengths.max()
    assert wide_run.prototypes is not None
    assert wide_run.aerial is not None
    lat, lon = s2.cell_centers(mixed.ids)
    near = upsample(wide_run.prototypes, mixed.ids, "interpolate")
    crops = read_crops(open_source(imagery), lat, lon, size_m=150, size_px=32)
    with torch.inference_mode():
        aerial = wide_run.aerial(torch.from_numpy(crops.pixels)).numpy() * mixed.facts.has_aerial[:, None]
    plain = build(wide_run, imagery, area, out=tmp_path / "a.cells", overrides=["build.aerial_smoothing_cells=0"])
    exact = fuse(aerial, near, mixed.facts.has_aerial, mixed.facts.has_prototype, plain.calibration)
    off = np.linalg.norm(plain.codes.astype(np.float64) - exact, axis=1)
    assert 0 < off.max() <= plain.manifest["codes"]["largest_score_error"] + 1e-5  # batches of another size
    assert plain.manifest["codes"]["largest_score_error"] < 5e-3


def test_the_bounds_hold_every_cell_and_no_more(mixed: Database) -> None:
    west, south, east, north = mixed.region_bounds
    corners = s2.cell_polygons(mixed.ids)
    np.testing.assert_allclose(
        [west, south, east, north],
        [corners[..., 1].min(), corners[..., 0].min(), corners[..., 1].max(), corners[..., 0].max()],
        atol=1e-9,
    )


def test_imagery_with_too_little_in_it_is_said(wide_run: Run, imagery: Path, tmp_path: Path) -> None:
    """One cell whose centre has imagery, but not half of its tile; and no prototype."""
    bare = replace(wide_run, prototypes=None)
    with pytest.raises(InputError, match=r"at least 100% imagery; lower build\.min_imagery_share"):
        build(
            bare,
            imagery,
            Region.of_cells(s2.cell_ids(np.array([52.0558]), np.array([3.1]), 16)),
            out=tmp_path / "a.cells",
            overrides=["build.min_imagery_share=1"],
        )
    with pytest.raises(InputError, match=r"at least 100% imagery; .* or build without it"):  # though it has prototypes
        build(
            wide_run,
            imagery,
            Region.of_cells(s2.cell_ids(np.array([52.0558]), np.array([3.1]), 16)),
            out=tmp_path / "a.cells",
            overrides=["build.min_imagery_share=1"],
        )
    assert list(tmp_path.iterdir()) == []
    assert not list(tmp_path.iterdir())


def test_only_settings_of_the_build_can_be_overridden(wide_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only keys of build can be changed"):
        build(wide_run, out=tmp_path / "a.cells", overrides=["model.dim=64"])
    with pytest.raises(UsageError, match=r"nearest known key is build\.shard_depth"):
        build(wide_run, out=tmp_path / "a.cells", overrides=["build.shard_dept=3"])


def test_cells_far_from_all_that_is_known_are_counted_as_left_out(
    wide_run: Run, imagery: Path, mixed: Database, tmp_path: Path
) -> None:
    """Also those that the plan passes over, without a tile or a prototype near."""
    far = Region.bbox(2.9, 52.042, 3.01, 52.058)
    made = build(wide_run, None, far, out=tmp_path / "a.cells")
    assert made.manifest["cells"]["left_out"] == len(far.cells(16)) - len(made.ids) > len(made.ids)


def test_the_folder_at_hand_may_be_the_database(wide_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here.cells"
    here.mkdir()
    monkeypatch.chdir(here)
    build(wide_run, None, Region.cap(52.05, 3.05, 400), out=Path())
    assert Database.open(here).ids.size
    assert [path.name for path in tmp_path.iterdir()] == ["here.cells"]


def test_a_region_is_a_path_a_text_or_an_object(wide_run: Run, tmp_path: Path) -> None:
    text = "3.0,52.0,3.01,52.01"
    (tmp_path / "region.geojson").write_text(json.dumps(Region.parse(text).to_geojson()), encoding="utf-8")
    made = [
        build(wide_run, region=region, out=tmp_path / f"{number}.cells")
        for number, region in enumerate((text, Region.parse(text), tmp_path / "region.geojson"))
    ]
    assert len({database.identity for database in made}) == 1


def test_the_option_of_before_is_refused_with_the_new_name(tmp_path: Path) -> None:
    arguments = ["build", str(tmp_path), "--out", str(tmp_path / "cells"), "--elsewhere", str(tmp_path)]
    code = "from cellcode.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--elsewhere is now --out-of-region" in done.stderr
