"""Training on packed photos: the same doors, the same facts as from the table, and resumed in the middle of an epoch."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode import train
from cellcode.cli import main
from cellcode.config import Config, dump
from cellcode.errors import InputError, UsageError
from cellcode.photos import PhotoSpec, PhotoTable, read_pixels
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.runs import CellFacts
from cellcode.training.data import photos as packing
from cellcode.training.setup import data_setup
from cellcode.training.train import prepare

Configure = Callable[..., Config]
FEW = Packing(level=18, shard_photos=6)


@pytest.fixture(scope="module")
def packed(grid_photos: PhotoTable, small_config: Configure, tmp_path_factory: pytest.TempPathFactory) -> PackedPhotos:
    choose = partial(data_setup.set_apart, config=small_config())
    return pack.run(grid_photos, FEW, out=tmp_path_factory.mktemp("packed") / "shards", set_apart=choose)


def test_facts_of_cells_are_those_of_the_table(
    packed: PackedPhotos, grid_photos: PhotoTable, small_config: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_MERGED", 2)
    table, _ = data_setup.split_validation(grid_photos, small_config())
    expected = CellFacts.of_photos(table.lat_deg, table.lon_deg, table.captured_at, 18)
    for name, value in vars(packing.cell_facts(packed, "train", 18)).items():
        np.testing.assert_array_equal(value, getattr(expected, name))
        assert value.dtype == getattr(expected, name).dtype
    assert len(packing.PackedTraining.of(packed, small_config())) == len(table)


def test_facts_are_right_where_some_photos_have_no_date(
    grid_photos: PhotoTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packing, "_MERGED", 2)
    known = [None if number % 3 else day for number, day in enumerate(grid_photos.captured_at)]
    table = grid_photos.with_column("captured_at", known)
    expected = CellFacts.of_photos(table.lat_deg, table.lon_deg, table.captured_at, 15)  # several photos each
    made = packing.cell_facts(pack.run(table, FEW, out=tmp_path / "shards"), "train", 15)
    for name, value in vars(made).items():
        np.testing.assert_array_equal(value, getattr(expected, name))


def test_a_training_on_parts_knows_all_their_photos(
    grid_photos: PhotoTable, small_config: Configure, tmp_path: Path
) -> None:
    config = small_config("training.epochs=1", "stream.window_shards=2")
    choose = partial(data_setup.set_apart, config=config)
    for name, chosen in (("a", np.arange(40) % 4 == 0), ("b", np.arange(40) % 4 != 0)):
        part = PhotoTable(grid_photos.select(chosen).rows, grid_photos.root)
        pack.run(part, FEW, out=tmp_path / "parts" / name, set_apart=choose)
    joined = PackedPhotos.open(tmp_path / "parts")
    validation = packing.unpack(joined, "validation", tmp_path / "unpacked")
    assert len(validation) == len(set(validation.column("file"))) == joined.manifest["splits"]["validation"]
    assert {name.split("/")[0] for name in validation.column("file")} == {"a", "b"}
    assert 1 <= len(packing.unpack(joined, "validation", tmp_path / "few", most=2)) <= 2
    trained = grid_photos.select(~np.isin(grid_photos.lat_deg, validation.lat_deg))
    expected = CellFacts.of_photos(trained.lat_deg, trained.lon_deg, trained.captured_at, 15)
    np.testing.assert_array_equal(packing.cell_facts(joined, "train", 15).ids, expected.ids)
    run = train(config, tmp_path / "parts", out=tmp_path / "run")
    assert run.manifest["training_photos"] == joined.manifest["splits"]["train"]
    with pytest.raises(InputError, match=r"another photo table \(\d+ photos in \d+ prototype cells, now \d+ in \d+\)"):
        train(config, tmp_path / "parts" / "b", out=tmp_path / "run", resume=True)


def test_validation_photos_are_unpacked(
    packed: PackedPhotos, grid_photos: PhotoTable, small_config: Configure, tmp_path: Path
) -> None:
    _, expected = data_setup.split_validation(grid_photos, small_config())
    table = packing.unpack(packed, "validation", tmp_path)
    assert len(table) == len(expected) > 1
    own = {tuple(read_pixels(path, PhotoSpec(16, 16)).ravel().tolist()) for path in table.files}
    assert own == {tuple(read_pixels(path, PhotoSpec(16, 16)).ravel().tolist()) for path in expected.files}
    assert sorted(table.lat_deg) == sorted(expected.lat_deg)
    assert len(packing.unpack(packed, "validation", tmp_path, most=1)) == 1


@pytest.mark.parametrize("with_imagery", [False, True])
def test_a_resumed_training_ends_as_the_uninterrupted_one(
    packed: PackedPhotos,
    grid_imagery: Path,
    small_config: Configure,
    log_lines: Callable[[Path], list[dict[str, Any]]],
    tmp_path: Path,
    with_imagery: bool,
) -> None:
    config = small_config("stream.window_shards=2", "training.random_tiles=2")
    aerial = grid_imagery if with_imagery else None
    whole = train(config, packed.place, aerial, out=tmp_path / "whole")
    prepared = prepare(config, packed.place, aerial, out=tmp_path / "parts", resume=False)
    steps = prepared.trainer.steps
    assert steps > 6
    step = prepared.trainer.step

    def killed(number: int) -> dict[str, float]:
        if number == 5:  # after the checkpoint of step 3, in the first epoch
            raise KeyboardInterrupt
        return step(number)

    prepared.trainer.step = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        prepared.trainer.fit(False)
    resumed = train(config, packed.place, aerial, out=tmp_path / "parts", resume=True)
    assert log_lines(tmp_path / "parts") == log_lines(tmp_path / "whole")
    assert resumed.identity == whole.identity
    assert len(whole.validation.queries) == packed.manifest["splits"]["validation"]
    assert whole.manifest["training_photos"] == packed.manifest["splits"]["train"]


def test_other_photos_and_other_regimes_are_refused(
    packed: PackedPhotos, grid_photos: PhotoTable, small_config: Configure, tmp_path: Path
) -> None:
    config = small_config("training.epochs=1")
    train(config, packed.place, out=tmp_path / "run")
    other = pack.run(grid_photos, FEW, out=tmp_path / "other")
    with pytest.raises(InputError, match="another photo table"):
        train(config, other.place, out=tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match=r"training\.regime full"):
        train(small_config("training.regime=frozen"), packed.place, out=tmp_path / "frozen")


def test_the_command_packs_for_a_configuration(
    grid_photos: PhotoTable, small_config: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid_photos.save(tmp_path / "table")
    (tmp_path / "small.yaml").write_text(dump(small_config()), encoding="utf-8")
    asked = ["--config", str(tmp_path / "small.yaml"), "--factor", "1.5"]
    with pytest.raises(SystemExit) as ended:
        main(["pack", str(tmp_path / "table"), "--out", str(tmp_path / "shards"), *asked])
    assert ended.value.code == 0
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["packing"]["size_px"], manifest["packing"]["level"]) == ([48, 48], 18)
    assert manifest["splits"]["validation"] == len(data_setup.split_validation(grid_photos, small_config())[1])
    assert "40 photos in 2 shards" in capsys.readouterr().err
