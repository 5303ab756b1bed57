"""The configurations of the paper's regions train as they are, but for the size of networks and batches."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import Dinov2Config

from cellcode import config as configuration
from cellcode import train
from cellcode.photos import PhotoTable
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.simulation import Simulation

pytestmark = pytest.mark.scale
CONFIGS = Path(__file__).parents[2] / "configs"
SMALLER = [
    "training.batch_size=8",
    "training.epochs=1",
    "training.random_tiles=2",
    "training.gradient_accumulation=2",
    "training.log_every_steps=1",
    "training.checkpoint_every_steps=1",
    "training.validate_every_steps=1",
    "prototypes.mine_every_steps=1",
    "model.dim=16",
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same network as DINOv2's ViT-B, 24 numbers wide and two blocks deep; of random weights."""
    folder = tmp_path_factory.mktemp("vit")
    Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=70).save_pretrained(folder)
    encoders = ("model.ground", "model.aerial")
    return [f"{name}.backbone=hf:{folder}" for name in encoders] + [f"{name}.pretrained=false" for name in encoders]


@pytest.mark.parametrize("name", ["bedenl", "europewest"])
def test_region_trains_from_shards_and_imagery(
    name: str, backbone: list[str], town: Simulation, town_photos: PhotoTable, tmp_path: Path
) -> None:
    config = configuration.load(CONFIGS / f"{name}.yaml", [*SMALLER, *backbone])
    assert (config.name, config.levels.prototype, config.levels.cell, config.tile.size_m) == (name, 15, 16, 154)
    few = town_photos.select(np.arange(len(town_photos)) < 40)
    split = np.where(np.arange(len(few)) % 10 == 0, "validation", "train")
    shards = pack.run(few.with_column("split", split), Packing(16, shard_photos=12), out=tmp_path / "shards")
    made = train(config, shards.place, town.aerial_path, out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line for line in lines if "loss" in line]
    pairs = {"query_prototype", "query_aerial", "aerial_prototype", "query_cell"}
    steps = list(range(len(losses)))
    assert len(steps) >= 2  # 36 photos in batches of 8, two of them a step
    assert all(np.isfinite(line["loss"]) and pairs <= line.keys() for line in losses)
    assert [line["step"] for line in lines if "validation_recall" in line] == steps
    assert made.prototypes is not None
    assert made.prototypes.weight.shape[1] == 16
    assert made.manifest["training_photos"] == 36
    states = sorted((tmp_path / "run" / "checkpoint").glob("*/state.json"))
    assert [json.loads(path.read_text(encoding="utf-8"))["step"] for path in states][-2:] == [*steps[-1:], len(steps)]
    assert not list((tmp_path / "run").rglob("imagery*.npy"))
