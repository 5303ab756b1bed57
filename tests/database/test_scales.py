"""Databases of a run whose tiles have several scales."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from cellcode import build
from cellcode.aerial import open_source
from cellcode.aerial.crops import read_crops
from cellcode.config import TileConfig
from cellcode.database import Database
from cellcode.database.building import shards
from cellcode.geography import Region, s2
from cellcode.model.encoder import Encoder
from cellcode.runs import Run

AREA = Region.bbox(3.094, 52.046, 3.106, 52.054)
SCALES = (1.0, 2.0, 4.0)


def _scaled(run: Run, scales: tuple[float, ...], folder: Path) -> Run:
    """The run with other scales and an aerial encoder that nobody trained; loaded from its folder again."""
    config = run.config.model_copy(update={"tile": run.config.tile.model_copy(update={"scales": scales})})
    torch.manual_seed(1)
    aerial = Encoder(config.model.aerial, config.model.dim, len(scales)).eval()
    return Run.load(
        replace(run, folder=folder, config=config, aerial=aerial, manifest=dict(run.manifest)).save().folder
    )


@pytest.fixture(scope="module")
def scaled_run(wide_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _scaled(wide_run, SCALES, tmp_path_factory.mktemp("scaled") / "run")


@pytest.fixture(scope="module")
def scaled_cells(scaled_run: Run, imagery: Path) -> Database:
    return build(scaled_run, imagery, AREA, out=scaled_run.folder.with_name("scaled.cells"))


def test_the_aerial_term_is_that_of_all_scales_around_the_centre(
    scaled_run: Run, scaled_cells: Database, imagery: Path
) -> None:
    rows = np.flatnonzero(scaled_cells.facts.has_aerial)[:5]
    lat, lon = s2.cell_centers(scaled_cells.ids[rows])
    tile = scaled_run.config.tile
    views = [
        read_crops(open_source(imagery), lat, lon, size_m=tile.size_m * scale, size_px=tile.size_px).pixels
        for scale in SCALES
    ]
    assert scaled_run.aerial is not None
    with torch.inference_mode():
        expected = scaled_run.aerial(torch.from_numpy(np.stack(views, axis=1))).numpy()
    aerial, _ = scaled_cells.terms()
    assert aerial is not None
    np.testing.assert_allclose(np.asarray(aerial[rows], np.float32), expected, atol=2e-3)


def test_tiles_are_reused_only_from_the_same_scales(
    wide_run: Run,
    scaled_run: Run,
    scaled_cells: Database,
    imagery: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    count = int(scaled_cells.facts.has_aerial.sum())
    build(scaled_run, imagery, AREA, out=tmp_path / "again.cells", reuse=scaled_cells)
    assert f"0 tiles encoded, {count} reused" in caplog.text
    caplog.clear()
    # The same encoder, told that the wider views are other ones.
    tile = scaled_run.config.tile.model_copy(update={"scales": (1.0, 2.0, 8.0)})
    other = replace(scaled_run, config=scaled_run.config.model_copy(update={"tile": tile}))
    assert shards.encoder_digest(other) != shards.encoder_digest(scaled_run)
    build(other, imagery, AREA, out=tmp_path / "other.cells", reuse=scaled_cells)
    text = caplog.text
    assert "nothing is reused" in text
    assert f"{count} tiles encoded, 0 reused" in text


def test_the_digest_of_the_encoder_is_of_values_not_of_how_they_are_printed(
    wide_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shards.encoder_digest(wide_run)
    monkeypatch.setattr(TileConfig, "__repr__", lambda self: "a tile")
    assert shards.encoder_digest(wide_run) == before
    machine = wide_run.config.machine.model_copy(update={"precision": "bfloat16"})
    other = replace(wide_run, config=wide_run.config.model_copy(update={"machine": machine}))
    assert shards.encoder_digest(other) != before


def test_new_imagery_outside_the_tile_but_inside_a_wider_view_is_encoded_again(
    scaled_run: Run, scaled_cells: Database, imagery: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = tmp_path / "changed.tif"
    with rasterio.open(imagery) as old, rasterio.open(changed, "w", **old.profile) as new:
        pixels = old.read()
        pixels[:, :30] = 255 - pixels[:, :30] // 2  # the northern 150 m, where `AREA` has no cell
        new.write(pixels)
        new.update_tags(**old.tags())
    made = build(scaled_run, changed, AREA, out=tmp_path / "changed.cells", reuse=scaled_cells)
    text = caplog.text
    (before, _), (after, _) = scaled_cells.terms(), made.terms()
    assert before is not None
    assert after is not None
    differs = (np.asarray(before) != np.asarray(after)).any(axis=1)
    lat, _ = s2.cell_centers(made.ids)
    assert 0 < differs.sum() < len(differs)
    assert lat[differs].min() > np.median(lat[~differs])
    assert f"{int(differs.sum())} tiles encoded" in text


def test_too_little_imagery_is_judged_by_the_tile_itself(
    wide_run: Run, scaled_cells: Database, imagery: Path, tmp_path: Path
) -> None:
    plain = build(_scaled(wide_run, (1.0,), tmp_path / "run"), imagery, AREA, out=tmp_path / "plain.cells")
    np.testing.assert_array_equal(plain.facts.has_aerial, scaled_cells.facts.has_aerial)
