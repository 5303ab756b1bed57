"""Interrupted, resumed and repeated builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
import torch
from tests.conftest import locked_elsewhere

from cellcode import build
from cellcode.database import Database
from cellcode.database.building import shards
from cellcode.errors import InputError
from cellcode.files import read_json, sha256
from cellcode.geography import Region, s2
from cellcode.model.encoder import Encoder
from cellcode.runs import Run

OVERRIDES = ["build.shard_depth=2", "build.aerial_smoothing_cells=0.5"]


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that are encoded from now on."""
    sizes: list[int] = []
    original = shards._encode
    monkeypatch.setattr(shards, "_encode", lambda run, pixels: sizes.append(len(pixels)) or original(run, pixels))
    return sizes


def stop_after(monkeypatch: pytest.MonkeyPatch, finished: int, error: BaseException) -> list[Any]:
    """Let `write_shard` fail in the middle of the shard after some; return what was asked of it."""
    asked: list[Any] = []
    original = shards.write_shard

    def write(run: Run, source: Any, ids: Any, folder: Path, reuse: Any, **more: Any) -> Any:
        asked.append(folder.name)
        if len(asked) > finished:
            monkeypatch.setattr(np, "save", _failing(error))
        return original(run, source, ids, folder, reuse, **more)

    monkeypatch.setattr(shards, "write_shard", write)
    return asked


def _failing(error: BaseException) -> Callable[..., None]:
    def save(path: Path, values: Any) -> None:
        Path(path).write_bytes(b"half a file")
        raise error

    return save


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("the raster cannot be read")], ids=["user", "disk"])
def test_an_interrupted_build_ends_with_the_same_bytes(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "again.cells"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3, error)
        with pytest.raises(type(error)):
            build(wide_run, imagery, area, out=out, overrides=OVERRIDES)
    assert not out.exists()
    working = tmp_path / ".again.cells.building"
    finished = [path for path in working.iterdir() if path.is_dir()]
    assert len(finished) == 3
    assert not any(path.name.startswith(".") for path in finished)
    with pytest.MonkeyPatch.context() as patch:
        asked = stop_after(patch, 1000, error)
        made = build(wide_run, imagery, area, out=out, overrides=OVERRIDES)
    assert not {path.name for path in finished} & set(asked)  # finished shards are taken as they are
    assert files_of(made.folder) == files_of(mixed.folder)  # the manifest included
    assert [path.name for path in tmp_path.iterdir()] == ["again.cells"]


def test_finished_shards_are_not_encoded_again(
    wide_run: Run,
    imagery: Path,
    area: Region,
    mixed: Database,
    tmp_path: Path,
    encoded: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 13, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(wide_run, imagery, area, out=tmp_path / "a.cells", overrides=OVERRIDES)
    before = sum(encoded)
    encoded.clear()
    build(wide_run, imagery, area, out=tmp_path / "a.cells", overrides=OVERRIDES)
    assert "resuming: 13 of" in caplog.text
    tiles = int(mixed.facts.has_aerial.sum())
    assert 0 < sum(encoded) < tiles
    assert before + sum(encoded) >= tiles


@pytest.mark.parametrize("change", ["region", "build", "imagery"])
def test_shards_of_another_build_are_thrown_away(
    wide_run: Run,
    imagery: Path,
    area: Region,
    tmp_path: Path,
    change: str,
    encoded: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, given = tmp_path / "a.cells", {"aerial": imagery, "region": area, "overrides": OVERRIDES}
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 13, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(wide_run, out=out, **given)  # type: ignore[arg-type]
    other = {
        "region": {"region": Region.bbox(3.09, 52.042, 3.122, 52.058)},
        "build": {"overrides": [*OVERRIDES, "build.min_imagery_share=0.9"]},
        "imagery": {"aerial": repainted(imagery, tmp_path / "other.tif", slice(0, 20), slice(0, 20))},
    }[change]
    encoded.clear()
    made = build(wide_run, out=out, **(given | other))  # type: ignore[arg-type]
    assert "of another build, this one starts from the beginning" in caplog.text
    assert sum(encoded) == made.facts.has_aerial.sum()
    (tmp_path / "other.tif").unlink(missing_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.cells"]


def test_the_size_of_shards_does_not_change_the_cells(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path
) -> None:
    overrides = ["build.shard_depth=12", "build.batch_size=7", OVERRIDES[1]]
    made = build(wide_run, imagery, area, out=tmp_path / "one.cells", overrides=overrides)
    np.testing.assert_array_equal(made.ids, mixed.ids)
    np.testing.assert_array_equal(made.tile_digests(), mixed.tile_digests())
    np.testing.assert_allclose(made.codes.astype(float), mixed.codes.astype(float), atol=4e-3)


def test_unchanged_imagery_is_not_encoded_again(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path, encoded: list[int]
) -> None:
    made = build(wide_run, imagery, area, out=tmp_path / "a.cells", reuse=mixed, overrides=OVERRIDES)
    assert encoded == []
    assert files_of(made.folder) == files_of(mixed.folder)
    again = build(wide_run, imagery, area, out=made.folder, reuse=made.folder, overrides=OVERRIDES)  # onto itself
    assert encoded == []
    assert files_of(again.folder) == files_of(mixed.folder)


def test_smoothing_and_shards_may_change_without_encoding_again(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path, encoded: list[int]
) -> None:
    reused = build(wide_run, imagery, area, out=tmp_path / "a.cells", reuse=mixed)
    assert encoded == []
    fresh = build(wide_run, imagery, area, out=tmp_path / "b.cells")
    np.testing.assert_allclose(reused.codes.astype(float), fresh.codes.astype(float), atol=2e-3)
    back = build(wide_run, imagery, area, out=tmp_path / "c.cells", reuse=reused, overrides=OVERRIDES)
    np.testing.assert_array_equal(back.codes, mixed.codes)


def test_only_tiles_whose_pixels_changed_are_encoded_again(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path, encoded: list[int]
) -> None:
    rows, columns = slice(0, 60), slice(0, 60)  # 300 m of the north-west corner
    changed = repainted(imagery, tmp_path / "new.tif", rows, columns)
    made = build(wide_run, changed, area, out=tmp_path / "a.cells", reuse=mixed, overrides=OVERRIDES)
    was, now = mixed.tile_digests(), made.tile_digests()
    assert was is not None
    assert now is not None
    different = was != now
    assert sum(encoded) == different.sum()
    assert 0 < different.sum() < made.facts.has_aerial.sum() / 2
    with rasterio.open(imagery) as file:
        lat, lon = s2.cell_centers(made.ids)
        x, y = rasterio.warp.transform("EPSG:4326", file.crs, lon, lat)
        column = (np.array(x) - file.transform.c) / file.transform.a
        row = (np.array(y) - file.transform.f) / file.transform.e
    meets = (column < 60 + 150 / 5 / 2 + 3) & (row < 60 + 150 / 5 / 2 + 3)  # tiles are not quite in the raster's grid
    assert meets[different].all()
    assert different[(column < 60) & (row < 60) & made.facts.has_aerial].all()
    encoded.clear()
    fresh = build(wide_run, changed, area, out=tmp_path / "b.cells", overrides=OVERRIDES)
    assert sum(encoded) == made.facts.has_aerial.sum()
    np.testing.assert_array_equal(made.ids, fresh.ids)
    np.testing.assert_array_equal(made.tile_digests(), fresh.tile_digests())
    np.testing.assert_allclose(made.codes.astype(float), fresh.codes.astype(float), atol=2e-3)


def test_a_larger_region_takes_over_the_smaller_one(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path, encoded: list[int]
) -> None:
    west = Region.bbox(3.08, 52.04, 3.1, 52.06)
    part = build(wide_run, imagery, west, out=tmp_path / "west.cells", overrides=OVERRIDES)
    encoded.clear()
    made = build(wide_run, imagery, area, out=tmp_path / "all.cells", reuse=part, overrides=OVERRIDES)
    known = np.isin(made.ids, part.ids[part.facts.has_aerial])
    assert sum(encoded) == (made.facts.has_aerial & ~known).sum() < made.facts.has_aerial.sum()
    np.testing.assert_allclose(made.codes.astype(float), mixed.codes.astype(float), atol=2e-3)


def test_nothing_is_reused_from_another_encoder(
    wide_run: Run,
    imagery: Path,
    area: Region,
    mixed: Database,
    tmp_path: Path,
    encoded: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(9)
    other = replace(wide_run, aerial=Encoder(wide_run.config.model.aerial, 32).eval())
    made = build(other, imagery, area, out=tmp_path / "a.cells", reuse=mixed, overrides=OVERRIDES)
    assert "was built with another aerial encoder or level" in caplog.text
    assert sum(encoded) == made.facts.has_aerial.sum()


def test_a_database_without_terms_has_nothing_to_reuse(
    wide_run: Run, imagery: Path, area: Region, tmp_path: Path, encoded: list[int]
) -> None:
    bare = build(wide_run, imagery, area, out=tmp_path / "a.cells", overrides=[*OVERRIDES, "build.keep_terms=false"])
    assert sorted(bare.manifest["files"]) == [
        "cells.parquet", "codes.npy", "codes_int8.npy", "config.yaml", "ground.safetensors", "ids.npy", "queries.npy",
    ]  # fmt: skip
    assert bare.terms() == (None, None)
    assert (bare.tiles(), bare.tile_digests()) == (None, None)
    encoded.clear()
    made = build(wide_run, imagery, area, out=tmp_path / "b.cells", reuse=bare, overrides=OVERRIDES)
    assert sum(encoded) == made.facts.has_aerial.sum()


def repainted(path: Path, out: Path, rows: slice, columns: slice) -> Path:
    """Write a raster with other pixels in a rectangle."""
    with rasterio.open(path) as file:
        pixels, profile, tags = file.read(), file.profile, file.tags()
    pixels[:, rows, columns] = np.maximum(255 - pixels[:, rows, columns], 1)  # 0 is no imagery
    with rasterio.open(out, "w", **profile) as file:
        file.write(pixels)
        file.update_tags(**tags)
    return out


def test_two_builds_of_one_database_at_a_time_are_refused(wide_run: Run, tmp_path: Path) -> None:
    region, out = Region.cap(52.05, 3.05, 400), tmp_path / "a.cells"
    with (
        locked_elsewhere(out),
        pytest.raises(InputError, match=r"another process \(\d+\) is writing .*/a\.cells; wait for it"),
    ):
        build(wide_run, None, region, out=out)
    assert not list(tmp_path.iterdir())
    build(wide_run, None, region, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["a.cells"]


def test_a_build_killed_while_it_joined_its_shards_leaves_nothing_behind(
    wide_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region, out, working = Region.cap(52.05, 3.05, 400), tmp_path / "a.cells", tmp_path / ".a.cells.building"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellcode.database.building.build.write", lambda *given: _killed(given[-1]))
        with pytest.raises(KeyboardInterrupt):
            build(wide_run, None, region, out=out)
    assert (working / "database" / "half").is_file()
    plan = read_json(working / "plan.json")
    assert plan["aerial_encoder"] == shards.encoder_digest(wide_run)
    monkeypatch.setattr(shards, "write_shard", lambda *given: pytest.fail("encoded again"))
    made = build(wide_run, None, region, out=out)
    assert "half" not in made.manifest["files"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.cells"]


def _killed(folder: Path) -> None:
    (folder / "half").touch()
    raise KeyboardInterrupt
