"""The derived step is compared with what torch and the parts of a training hold and do."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cellcode import cli
from cellcode import config as configuration
from cellcode.config import Config
from cellcode.geography import Region
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.planning.step import Cost, Device, cost, costs, derive, flop

Parse = Callable[..., Config]
VIT = Cost(flop=55e9, kept_bytes=125e6, block_bytes=0.0, weights=89_000_000)


def _config(**prototypes: object) -> Config:
    return configuration.parse(
        {
            "model": {"dim": 256},
            "training": {"batch_size": 8192, "photos_per_place": 2},
            "prototypes": {"table": "sharded", "negatives": "sampled", **prototypes},
        }
    )


def test_a_convolution_is_counted_by_its_definition() -> None:
    """The first of the small network: 8 x 8 of 3 channels to 32, at a quarter of the height and width; others after it."""
    encoder = Encoder(configuration.parse({"model": {"ground": {"backbone": "tiny"}}}).model.ground, 16)
    first = 2 * 8 * 8 * 3 * 32 * (48 // 4) * (64 // 4)
    made = cost(encoder, 48, 64, Config())
    assert first < made.flop < 10 * first
    assert flop(encoder, 96, 64) == pytest.approx(2 * made.flop, rel=0.1)
    assert made.kept_bytes > 4 * 32 * (48 // 4) * (64 // 4)  # what goes into the second
    assert made.weights == sum(p.numel() for p in encoder.parameters())


def test_activations_that_are_computed_again_are_not_kept() -> None:
    config = configuration.parse({"model": {"ground": {"backbone": "tiny", "aggregation": {"name": "gem"}}}})
    again = configuration.parse({**config.model_dump(mode="json"), "training": {"activation_checkpointing": True}})
    (kept, _), (less, _) = costs(config, False), costs(again, False)
    assert less.kept_bytes + less.block_bytes < kept.kept_bytes
    assert less.kept_bytes < 0.6 * kept.kept_bytes
    assert less.flop == kept.flop


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_table_is_as_large_as_a_real_one(storage: str) -> None:
    config = _config(storage=storage)
    ids = Region.parse("cap:50.8,4.4,12000").cells(15)
    table = ShardedPrototypes(ids, 256, 1.2, config.prototypes, 0)
    held = (table.weight, table.optimizer.square, table.optimizer.count)
    step = derive(config, len(ids), 1, VIT, VIT)
    assert step.on_device["prototypes"] == sum(tensor.nbytes for tensor in held)
    assert derive(config, len(ids), 4, VIT, VIT).on_device["prototypes"] * 4 == step.on_device["prototypes"]


def test_rows_are_no_more_than_those_that_a_batch_selects() -> None:
    config = _config(most_rows=300, hard_rows=3)
    ids = Region.parse("cap:50.8,4.4,30000").cells(15)
    table = ShardedPrototypes(ids, 16, 1.2, config.prototypes, 0)
    table.clusters = table.cluster(table.seed)
    lat, lon = np.random.default_rng(0).uniform([50.6, 4.1], [51.0, 4.7], (32, 2)).T
    index, _ = table.neighbours(np.tile(lat, 3) + np.repeat([0, 0, 5e-4], 32), np.tile(lon, 3))  # two photos and a tile
    small = config.model_copy(update={"training": config.training.model_copy(update={"batch_size": 64})})
    selected = len(table.select(index.numpy(), 0).rows)
    assert selected <= derive(small, len(ids), 1, VIT, VIT).rows
    assert selected > 300 + 32


def test_what_a_process_receives_does_not_grow_with_the_table() -> None:
    few, many = (derive(_config(), count, 8, VIT, VIT) for count in (1_000_000, 20_000_000))
    assert few.network == many.network
    assert few.work["prototypes"] == pytest.approx(many.work["prototypes"], rel=0.01)
    assert many.on_device["prototypes"] == 20 * few.on_device["prototypes"]
    assert derive(_config(), 1_000_000, 1, VIT, VIT).network == {}
    assert few.network["gradients of the encoders"] == pytest.approx(2 * 7 / 8 * 4 * 2 * VIT.weights)


def test_time_is_work_by_speed_and_bytes_by_rate() -> None:
    step = derive(_config(), 5_000_000, 8, VIT, VIT, Device(tflops=50, gbit_per_s=200))
    work, received = sum(step.work.values()), sum(step.network.values())
    assert step.seconds == pytest.approx(work / 50e12 + received * 8 / 200e9)
    assert step.work["encoders"] == pytest.approx(3 * 55e9 * (8192 + 4096) / 8)
    assert step.tiles == 4096


def test_accumulation_takes_as_many_batches_and_one_exchange_of_gradients() -> None:
    one = derive(_config(), 5_000_000, 8, VIT, VIT)
    config = _config()
    twice = derive(
        config.model_copy(update={"training": config.training.model_copy(update={"gradient_accumulation": 2})}),
        5_000_000, 8, VIT, VIT,
    )  # fmt: skip
    assert twice.photos == 2 * one.photos
    assert sum(twice.work.values()) == pytest.approx(2 * sum(one.work.values()))
    assert twice.network["gradients of the encoders"] == one.network["gradients of the encoders"]
    assert twice.network["embeddings and places"] == 2 * one.network["embeddings and places"]
    assert twice.on_device == one.on_device


def test_whole_table_is_copied_with_its_moments() -> None:
    config = configuration.parse({"model": {"dim": 64}, "training": {"ema_decay": 0.9}})
    step = derive(config, 1000, 2, VIT, None)
    model = torch.nn.Embedding(1000, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(3)).sum().backward()
    optimizer.step()
    state = optimizer.state[model.weight]
    held = [model.weight, model.weight.grad, state["exp_avg"], state["exp_avg_sq"]]
    assert all(tensor is not None for tensor in held)
    one = 4 * 1000 * 64
    assert step.on_device["prototypes"] == sum(t.nbytes for t in held if t is not None) + one  # and the average
    assert step.network["gradients of the prototypes"] == one
    assert step.rows == 1000
    assert step.tiles == 0


def test_step_is_printed() -> None:
    lines = dict(derive(_config(), 5_000_000, 8, VIT, VIT).lines())
    assert list(lines) == [
        "processes", "a step", "memory of a device", "memory of its host", "received in a step", "computed in a step"
    ]  # fmt: skip
    assert lines["a step"].startswith("8,192 photos, 4,096 tiles, at most 126,976 prototypes per batch: ")
    assert "prototypes 0.645" in lines["memory of a device"]


def test_command_prints_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--region", "cap:50.8,4.4,1500", "--config", "configs/demo.yaml", "--photos-count", "3000"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--processes", "4", "--tflops", "0.1", "--gbit-per-s", "1", "--json"])
    assert not ended.value.code
    made = json.loads(capsys.readouterr().out)
    assert made["step"]["processes"] == 4
    assert (made["step"]["photos"], made["step"]["tiles"]) == (64, 48)
    steps = 9 * (2700 * 0.96 * 0.97 // 64)
    assert made["train_s"] == pytest.approx(steps * made["step"]["seconds"])
