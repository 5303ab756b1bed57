"""What the pipeline costs beyond its encoders: training loop, building, crops.

    python benchmarks/pipeline.py [--quick] [--json FILE]

Every figure is a ratio of medians within this run, or a rate per second of CPU time, on a small rendered world. The bare
encoder times are forward and backward (loop) or forward (build) on tensors that are already in memory.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch

from cellcode import config as configuration
from cellcode.aerial import open_source
from cellcode.aerial.crops import read_crops
from cellcode.database import build
from cellcode.device import autocast
from cellcode.photos import PhotoTable, ingest
from cellcode.photos.table.splits import SplitRule
from cellcode.simulation import simulate
from cellcode.training import train
from cellcode.training.data.inputs import Batch
from cellcode.training.loop.trainer import Trainer
from cellcode.training.train import prepare

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
CPU = torch.device("cpu")


def main() -> None:
    """Run all parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller world and fewer repetitions")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.quick)
    report.show(rows, arguments.json)


def measure(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Make a small world and time each part on it."""
    world = simulate(folder / "world", size_km=0.8 if quick else 2.0, photos=600 if quick else 3000)
    table = ingest(world.photos_dir, out=folder / "photos", split=SplitRule(kind="date"))
    overrides = ["training.epochs=1", "training.batch_size=128" if quick else "training.batch_size=256"]
    config = configuration.load(CONFIG, overrides)
    return [
        loop_over_bare(config, table, world.aerial_path, folder / "run", repeats=3 if quick else 9),
        *build_over_bare(folder / "run", world.aerial_path, folder / "town.cells"),
        crop_rate(config, world.aerial_path, count=60 if quick else 300),
    ]


def loop_over_bare(
    config: configuration.Config, table: PhotoTable, aerial: Path, out: Path, repeats: int
) -> dict[str, Any]:
    """Train, for the parts that follow, and compare a step of the loop with its encoders alone."""
    train(config, table, aerial, out=out)
    trainer = prepare(config, table, aerial, out=out / "again", resume=False).trainer
    return {"case": "training step", **loop_ratio(trainer, repeats)}


def loop_ratio(trainer: Trainer, repeats: int, steps: int = 4) -> dict[str, Any]:
    """Compare steps that follow one another with forward and backward of the encoders on tensors of their shapes in memory.

    The bare backward begins at the sum of the embeddings: losses, their gradients and the optimiser are the loop's.
    """
    trainer.model.train()
    batch, number = trainer.batches.take(0), itertools.count()

    def several(work: Callable[[], object]) -> Callable[[], None]:
        return lambda: [work() for _ in range(steps)].clear()

    bare = several(lambda: forward_backward(trainer, batch))
    ratio = paired_ratio(several(lambda: trainer.step(next(number))), bare, repeats)
    return {"value": ratio, "unit": "x", "against": "bare forward and backward"}


def forward_backward(trainer: Trainer, batch: Batch) -> None:
    """Embed a batch and go back from the sum of its embeddings."""
    with autocast(trainer.config.machine.precision, trainer.device):
        total = batch.photos.embed(trainer.ground, trainer.device).embeddings.sum()
        if batch.tiles is not None and trainer.aerial is not None:
            total = total + batch.tiles.embed(trainer.aerial, trainer.device).embeddings.sum()
    total.backward()  # type: ignore[no-untyped-call]


def build_over_bare(run: Path, aerial: Path, out: Path) -> list[dict[str, Any]]:
    """Time of building over the time of the aerial encoder on the same number of tiles in memory."""
    started = time.perf_counter()
    database = build(run, aerial, out=out)
    built_s = time.perf_counter() - started
    from cellcode.runs import Run

    loaded = Run.load(run)
    size, encoder = loaded.config.tile.size_px, loaded.aerial
    assert encoder is not None
    tiles = torch.zeros(min(256, len(database.ids)), size, size, 3, dtype=torch.uint8)

    def bare() -> None:
        with torch.inference_mode(), autocast(loaded.config.machine.precision, CPU):
            encoder(tiles)

    bare_s = median_s(bare, 5) * len(database.ids) / len(tiles)
    return [
        {"case": "build", "value": built_s / bare_s, "unit": "x", "against": "bare aerial encoder"},
        {"case": "build, cells", "value": len(database.ids) / built_s, "unit": "cells/s"},
    ]


def crop_rate(config: configuration.Config, aerial: Path, count: int) -> dict[str, Any]:
    """Turned crops of the demo's tile size, at random places of the world, per second of CPU time."""
    rng = np.random.default_rng(0)
    source = open_source(aerial)
    west, south, east, north = source.bounds
    lat_deg, lon_deg = rng.uniform(south, north, count), rng.uniform(west, east, count)
    started = time.process_time()
    read_crops(source, lat_deg, lon_deg, size_m=config.tile.size_m, size_px=config.tile.size_px, bearing_deg=30.0)
    return {"case": "crops", "value": count / (time.process_time() - started), "unit": "crops/CPU-s"}


def median_s(work: Callable[[], None], repeats: int) -> float:
    """Median wall time of `work`, after one run that is not counted."""
    work()
    return statistics.median(_seconds(work) for _ in range(repeats))


def paired_ratio(work: Callable[[], None], reference: Callable[[], None], repeats: int) -> float:
    """Median of the ratios of alternating runs: drift of the machine hits both."""
    work()
    reference()
    return statistics.median(_seconds(work) / _seconds(reference) for _ in range(repeats))


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
