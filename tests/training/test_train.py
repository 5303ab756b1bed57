import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import locked_elsewhere

from cellcode.aerial import open_source
from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.files import locked_folder
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels
from cellcode.runs import Run
from cellcode.training import train
from cellcode.training.data.photos import TablePhotos
from cellcode.training.setup import data_setup, factory
from cellcode.training.train import prepare

Configure = Callable[..., Config]
Log = Callable[[Path], list[dict[str, Any]]]


def _start(config: Config, photos: PhotoTable, aerial: Path | None, out: Path) -> dict[str, torch.Tensor]:
    """The weights before the first step."""
    model = prepare(config, photos, aerial, out=out, resume=False).trainer.model
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["multi_similarity", "softmax"])
@pytest.mark.parametrize("regime", ["full", "last_blocks", "frozen"])
def test_the_loss_falls_in_every_regime(
    kind: str,
    regime: str,
    small_config: Configure,
    grid_photos: PhotoTable,
    grid_imagery: Path,
    log_lines: Log,
    tmp_path: Path,
) -> None:
    config = small_config(
        f"loss.kind={kind}", f"training.regime={regime}", "training.last_blocks=1", "training.epochs=8"
    )
    train(config, grid_photos, grid_imagery, out=tmp_path)
    losses = [line["loss"] for line in log_lines(tmp_path)]
    assert len(losses) == 32
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    assert not (tmp_path / "cache").exists()


def test_one_training_at_a_time_writes_a_folder(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = import_module("cellcode.training.train")
    with locked_elsewhere(tmp_path, locked_folder):
        with pytest.raises(InputError, match=rf"another process .* is writing {tmp_path}; wait for it"):
            train(small_config(), grid_photos, out=tmp_path)
        monkeypatch.setattr("cellcode.distributed.collectives.rank", lambda: 1)
        with training._locked(tmp_path):  # of several processes the first holds the lock for all
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("regime", "frozen"), [("full", 0), ("last_blocks", 2), ("frozen", 3)])
def test_only_the_blocks_behind_the_frozen_ones_change(
    regime: str, frozen: int, small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    config = small_config(f"training.regime={regime}", "training.last_blocks=1")
    start = _start(config, grid_photos, grid_imagery, tmp_path)
    train(config, grid_photos, grid_imagery, out=tmp_path)
    end = load_file(tmp_path / "model.safetensors")
    assert end.keys() == start.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    for encoder in ("ground", "aerial"):
        for block in range(3):
            inside = {name for name in start if name.startswith(f"{encoder}.backbone.blocks.{block}.")}
            assert inside
            assert (inside <= changed) == (block >= frozen)
            assert bool(inside & changed) == (block >= frozen)
    assert {"prototypes.weight", "ground.projection.weight", "aerial.projection.bias"} <= changed


def test_a_run_of_photos_alone_has_no_aerial_encoder_and_loads_again(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    made = train(small_config(), grid_photos, out=tmp_path)
    loaded = Run.load(tmp_path)
    assert made.aerial is None
    assert loaded.aerial is None
    assert loaded.prototypes is not None
    assert loaded.identity == made.identity
    assert loaded.manifest["imagery"] is None


def test_a_run_without_prototypes_loads_again(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, log_lines: Log, tmp_path: Path
) -> None:
    config = small_config("loss.query_prototype=0", "loss.aerial_prototype=0")
    made = train(config, grid_photos, grid_imagery, out=tmp_path)
    loaded = Run.load(tmp_path)
    assert made.prototypes is None
    assert loaded.prototypes is None
    assert isinstance(loaded.aerial, Encoder)
    assert loaded.identity == made.identity
    assert {tuple(sorted(line)) for line in log_lines(tmp_path)} == {("loss", "query_aerial", "step")}


def test_a_run_has_a_prototype_for_every_cell_with_a_training_photo(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    made = train(small_config("levels.prototype=18", "training.epochs=1"), grid_photos, out=tmp_path)
    cells = s2.cell_ids(grid_photos.lat_deg, grid_photos.lon_deg, 18)
    kept_out = set(zip(made.validation.lat_deg, made.validation.lon_deg, strict=True))
    trained = [p not in kept_out for p in zip(grid_photos.lat_deg, grid_photos.lon_deg, strict=True)]
    assert made.prototypes is not None
    np.testing.assert_array_equal(made.prototypes.ids, np.unique(cells[trained]))
    assert made.facts.photos.sum() == sum(trained) == made.manifest["training_photos"]
    assert made.manifest["reproducible"] == {
        "deterministic": True, "device": "cpu", "precision": "float32", "processes": 1, "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }  # fmt: skip
    assert not torch.are_deterministic_algorithms_enabled()  # outside of training


def test_validation_holds_what_the_trained_ground_encoder_makes_of_photos_kept_out(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    config = small_config("validation.share=0.2")
    made = train(config, grid_photos, out=tmp_path)
    count = len(made.validation.lat_deg)
    assert 4 <= count <= 12
    assert made.validation.queries.shape == (count, 16)
    _, table = data_setup.split_validation(grid_photos, config)
    pixels, _ = load_pixels(table.files, config.photo)
    with torch.inference_mode():
        expected = Run.load(tmp_path).ground(torch.from_numpy(pixels))
    np.testing.assert_array_equal(made.validation.lat_deg, table.lat_deg)
    np.testing.assert_allclose(made.validation.queries, expected.numpy(), atol=1e-5)


def test_validation_takes_whole_cells_and_whole_blocks(small_config: Configure, grid_photos: PhotoTable) -> None:
    config = small_config("validation.share=0", "validation.withheld_share=0.5", "levels.prototype=17")
    training, validation = data_setup.split_validation(grid_photos, config)
    assert len(training) + len(validation) == len(grid_photos)
    cells = [set(s2.cell_ids(table.lat_deg, table.lon_deg, 17).tolist()) for table in (training, validation)]
    assert not cells[0] & cells[1]
    assert abs(len(cells[0]) - len(cells[1])) <= 1


def test_only_photos_of_the_training_split_are_used(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    splits = ["train" if number % 2 else "test" for number in range(len(grid_photos))]
    training, validation = data_setup.split_validation(
        grid_photos.with_column("split", splits).of_split("train"), small_config()
    )
    assert len(training) + len(validation) == len(grid_photos) // 2
    with pytest.raises(InputError, match="no photos in its split 'train'"):
        train(small_config(), grid_photos.with_column("split", ["test"] * len(grid_photos)), out=tmp_path)


def test_an_average_is_what_the_run_keeps(small_config: Configure, grid_photos: PhotoTable, tmp_path: Path) -> None:
    plain = train(small_config(), grid_photos, out=tmp_path / "plain")
    averaged = train(small_config("training.ema_decay=0.9"), grid_photos, out=tmp_path / "averaged")
    state = load_file(tmp_path / "averaged" / "checkpoint" / "00000008" / "state.safetensors")
    for name, value in averaged.ground.state_dict().items():
        assert torch.equal(value, state[f"average.module.ground.{name}"]), name
    for name, value in plain.ground.state_dict().items():
        assert torch.equal(value, state[f"model.ground.{name}"]), name  # averaging does not disturb the training
    assert plain.identity != averaged.identity
    assert Run.load(tmp_path / "averaged").identity == averaged.identity


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        config = small_config(f"training.seed={seed}", "training.epochs=1", "validation.share=0")
        train(config, grid_photos, out=tmp_path / str(number))
        weights.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_a_photo_that_cannot_be_read_any_more_is_left_out_and_counted(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(grid_photos.root, tmp_path / "photos")
    (tmp_path / "photos" / "3.jpg").unlink()
    (tmp_path / "photos" / "7.jpg").write_bytes(b"no photo")
    table = PhotoTable(grid_photos.rows, tmp_path / "photos")
    made = train(small_config("validation.share=0", "training.epochs=1"), table, out=tmp_path / "run")
    assert made.manifest["training_photos"] == 38
    assert "2 of 40 photos left out" in caplog.text


def test_without_any_readable_photo_training_is_refused(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="none of the 36 photos can be read"):
        train(small_config(), PhotoTable(grid_photos.rows, tmp_path), out=tmp_path / "run")


def test_validation_photos_that_cannot_be_read_do_not_cost_the_training(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    shutil.copytree(grid_photos.root, tmp_path / "photos")
    config = small_config("training.epochs=1")
    table = PhotoTable(grid_photos.rows, tmp_path / "photos")
    _, validation = data_setup.split_validation(table, config)
    for path in validation.files:
        path.unlink()
    assert len(train(config, table, out=tmp_path / "run").validation.lat_deg) == 0


def test_imagery_elsewhere_is_refused_before_any_work(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    moved = grid_photos.with_column("lat_deg", grid_photos.lat_deg + 1)
    with pytest.raises(InputError, match="no training photo lies in the aerial imagery"):
        train(small_config(), moved, grid_imagery, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_photos_outside_the_imagery_are_counted_and_trained_on_all_the_same(
    small_config: Configure,
    grid_photos: PhotoTable,
    grid_imagery: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lat = grid_photos.lat_deg.copy()
    lat[:3] += 0.1
    config = small_config("validation.share=0", "training.epochs=1")
    made = train(config, grid_photos.with_column("lat_deg", lat), grid_imagery, out=tmp_path)
    assert "3 of 40 training photos lie outside the imagery" in caplog.text
    assert made.manifest["training_photos"] == 40


def test_nothing_to_learn_from_is_refused(small_config: Configure, grid_photos: PhotoTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loss\.query_prototype is 0"):
        train(small_config("loss.query_prototype=0"), grid_photos, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_without_any_pair_is_refused(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    config = small_config("loss.query_prototype=0", "loss.query_aerial=0")
    with pytest.raises(InputError, match="nothing to learn"):
        train(config, grid_photos, grid_imagery, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cells_of_random_tiles_lie_in_the_imagery_and_beside_those_of_photos(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path
) -> None:
    source = open_source(grid_imagery)
    own = np.unique(s2.cell_ids(grid_photos.lat_deg, grid_photos.lon_deg, 18))
    np.testing.assert_array_equal(factory.store_cells(TablePhotos(grid_photos), source, small_config()), own)
    cells = factory.store_cells(TablePhotos(grid_photos), source, small_config("training.random_tiles=4"))
    others = np.setdiff1d(cells, own)
    assert len(others) > len(own) / 2
    assert np.isin(own, cells).all()
    assert (np.diff(cells.astype(np.float64)) > 0).all()
    corners = s2.cell_polygons(others)
    touched = source.covers(corners[..., 0].ravel(), corners[..., 1].ravel()).reshape(-1, 4).any(axis=1)
    assert touched.all()


def test_photos_of_a_validation_split_are_taken_as_they_are(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = np.array(["train", "validation", "test", "none"])[np.arange(len(grid_photos)) % 4]
    table = grid_photos.with_column("split", split)
    made = train(small_config("validation.share=1", "training.epochs=1"), table, out=tmp_path)
    np.testing.assert_array_equal(made.validation.lat_deg, table.lat_deg[split == "validation"])
    np.testing.assert_array_equal(made.validation.lon_deg, table.lon_deg[split == "validation"])
    assert made.manifest["training_photos"] == 10  # nothing is drawn out of them
    lines = [line for line in caplog.messages if "'validation'" in line]
    assert lines == ["10 photos of the split 'validation' are used; the configuration's is ignored"]


def test_validation_photos_alone_are_nothing_to_train_on(small_config: Configure, grid_photos: PhotoTable) -> None:
    with pytest.raises(InputError, match="no photos in its split 'train'"):
        data_setup.split_validation(grid_photos.with_column("split", ["validation"] * len(grid_photos)), small_config())


@pytest.mark.parametrize("regime", ["full", "last_blocks"])
def test_tiles_at_several_scales_and_a_symmetric_loss_are_learned_saved_and_loaded(
    regime: str, small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, log_lines: Log, tmp_path: Path
) -> None:
    config = small_config(
        "tile.scales=[1, 2, 4]", "loss.kind=softmax", "loss.symmetric=true", "loss.prototype_labels=haversine",
        f"training.regime={regime}", "training.epochs=8",
    )  # fmt: skip
    made = train(config, grid_photos, grid_imagery, out=tmp_path)
    lines = log_lines(tmp_path)
    assert {"query_aerial", "aerial_query"} <= lines[0].keys()
    assert np.mean([line["loss"] for line in lines[-6:]]) < 0.9 * np.mean([line["loss"] for line in lines[:6]])
    assert not (tmp_path / "cache").exists()
    loaded = Run.load(tmp_path)
    assert made.aerial is not None
    assert loaded.aerial is not None
    views = torch.randint(256, (2, 3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.aerial(views), made.aerial(views))
    assert loaded.ground.scales == 1


def test_one_scale_trains_to_the_same_weights_as_before_there_were_several(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    """The names of the saved weights are what older runs have."""
    train(small_config("training.epochs=1"), grid_photos, grid_imagery, out=tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["aerial.projection.weight"].shape == (16, 160)
    assert not [name for name in tensors if "scale" in name]
