import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cellcode import build
from cellcode.aerial import open_source
from cellcode.aerial.crops import read_crops
from cellcode.database import Database
from cellcode.errors import InputError
from cellcode.geography import Region, distance, s2
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
    town_cells = build.run(town_run, town.aerial_path, out=tmp_path / "plain.cells")
    calibration, config = town_cells.calibration, town_run.config
    rows = np.random.default_rng(0).permutation(len(town_cells.ids))[:12]
    lat, lon = s2.cell_centers(town_cells.ids[rows])
    size = config.tile
    tiles, _ = read_crops(open_source(town.aerial_path), lat, lon, size_m=size.size_m, size_px=size.size_px)
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
        build.run(_with_smoothing(town_run, sigma), town.aerial_path, out=tmp_path / f"{sigma}.cells")
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
    part = build.run(town_run, town.aerial_path, region, out=tmp_path / "part.cells")
    inside = region.contains(*s2.cell_centers(town_cells.ids))
    np.testing.assert_array_equal(part.ids, town_cells.ids[inside])


def test_prototypes_alone_make_a_database(town_run: Run, tmp_path: Path) -> None:
    alone = build.run(town_run, out=tmp_path / "alone.cells")
    assert alone.facts.has_prototype.all()
    assert not alone.facts.has_aerial.any()
    np.testing.assert_array_equal(alone.ids, town_run.facts.ids)


def test_nothing_to_build_is_said_before_any_work(town: Simulation, town_run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="imagery covers none"):
        build.run(town_run, town.aerial_path, Region.bbox(10, 10, 10.05, 10.05), out=tmp_path / "a.cells")
    with pytest.raises(InputError, match=r"none of the .* cells"):
        build.run(town_run, None, Region.bbox(10, 10, 10.05, 10.05), out=tmp_path / "b.cells")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_not_overwritten(town_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not overwritten"):
        build.run(town_run, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_building_twice_gives_the_same_bytes(
    town: Simulation, town_run: Run, town_cells: Database, tmp_path: Path
) -> None:
    again = build.run(town_run, town.aerial_path, out=tmp_path / "again.cells")
    assert again.identity == town_cells.identity
    assert (again.folder / "codes.npy").read_bytes() == (town_cells.folder / "codes.npy").read_bytes()


@pytest.fixture
def copy(town_cells: Database, tmp_path: Path) -> Path:
    return Path(shutil.copytree(town_cells.folder, tmp_path / "copy.cells"))


def test_an_encoder_of_another_model_is_refused(copy: Path, town_run: Run) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in town_run.ground.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in state.items()}, copy / "ground.safetensors")
    with pytest.raises(InputError, match=r"does not belong to this database|truncated|longer"):
        Database.open(copy).encoder()


def test_damage_is_found_and_named(copy: Path) -> None:
    data = (copy / "codes.npy").read_bytes()
    (copy / "codes.npy").write_bytes(data[:-100])
    with pytest.raises(InputError, match=r"codes\.npy is truncated"):
        Database.open(copy)
    (copy / "codes.npy").write_bytes(data[:-100] + bytes(100))
    with pytest.raises(InputError, match=r"codes\.npy was changed"):
        Database.open(copy).verify()
    (copy / "ids.npy").unlink()
    with pytest.raises(InputError, match=r"ids\.npy is missing"):
        Database.open(copy)


def test_a_newer_format_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(InputError, match="version 99"):
        Database.open(copy)


def test_the_database_names_its_sources(town_cells: Database) -> None:
    assert town_cells.manifest["licences"] == ["CC0-1.0"]
    assert any("rendered world" in text for text in town_cells.manifest["attributions"])
    assert town_cells.manifest["imagery"]["date"] == "2023-07-18"
