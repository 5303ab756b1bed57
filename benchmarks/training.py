"""What training costs at the scale of a continent: prototypes by the million, and the loop around the encoders.

    python benchmarks/training.py [--quick] [--json FILE]
    python benchmarks/training.py --recall PHOTOS AERIAL FOLDER [--json FILE]     what recall it costs; an hour or two

Ratios are medians over pairs of alternating runs. Peak memory is that of a process of its own, everything included: Python,
torch, the ground encoder and its activations. The second form trains and evaluates on a table of photos for each share of
negatives, in one and in two processes; it belongs on the benchmark region of docs/results.md and resumes where it stopped.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import report
import torch
import training_recall
from pipeline import loop_ratio, paired_ratio

from cellcode import config as configuration
from cellcode.config import Config, LossConfig, PrototypesConfig
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.photos import ingest
from cellcode.photos.packed import pack
from cellcode.photos.table.splits import SplitRule
from cellcode.simulation import simulate
from cellcode.training.data.sampling import LOOKAHEAD, HardBatches, PlaceSampler
from cellcode.training.loop.log import peak_memory
from cellcode.training.loop.objective import Objective, Places
from cellcode.training.train import prepare
from cellcode.types import Ids

CONFIGS = Path(__file__).parent.parent / "configs"
CONTINENT, SMALL = 5_500_000, 10_000
BATCH, DRAWN = 256, 4096


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the prototypes and photos, fewer repetitions")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--recall", nargs=3, type=Path, metavar=("PHOTOS", "AERIAL", "FOLDER"), help="the second form")
    parser.add_argument("--peak", nargs=3, type=int, metavar=("ROWS", "DIM", "HARD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_bytes(*arguments.peak))
        return
    if arguments.recall:
        report.show(training_recall.rows(*arguments.recall), arguments.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.quick)
    report.show(rows, arguments.json)


def measure(folder: Path, quick: bool) -> list[report.Row]:
    """Time and memory of a step by the number of prototypes, and the loop over bare encoders."""
    count = CONTINENT // 10 if quick else CONTINENT
    return [
        *step_ratios(count, repeats=5 if quick else 21),
        *memory_rows(count, 128),
        *memory_rows(count, 128, hard=4),
        *memory_rows(count, 256),
        order_row(1_000_000 if quick else 10_000_000),
        *loop_rows(folder, 1000 if quick else 10_000, repeats=3 if quick else 9),
    ]


def step_ratios(count: int, repeats: int) -> list[report.Row]:
    """Compare a step with `count` prototypes and one with few, with as many rows drawn."""
    many, few = prototype_work(count, 128), prototype_work(SMALL, 128)
    encoder = encoder_work()
    whole = paired_ratio(lambda: many(encoder()), lambda: few(encoder()), repeats)
    vectors = torch.nn.functional.normalize(torch.randn(BATCH, 128), dim=1).requires_grad_()
    alone = paired_ratio(lambda: many(vectors), lambda: few(vectors), repeats)
    against = f"{SMALL:,} prototypes"
    return [
        {"case": f"training step, {count:,} prototypes", "value": whole, "unit": "x", "against": against},
        {"case": f"its part without encoders, {count:,} prototypes", "value": alone, "unit": "x", "against": against},
    ]


def memory_rows(count: int, dim: int, hard: int = 0) -> list[report.Row]:
    """Peak memory of a process that takes a few steps, and its ratio to the table and the optimiser's state."""
    command = [sys.executable, __file__, "--peak", str(count), str(dim), str(hard)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    kept = count * (4 * dim + 8)
    case = f"peak memory, {count:,} prototypes, D = {dim}" + (", clustered for hard rows" if hard else "")
    return [
        {"case": case, "value": peak / kept, "unit": "x", "against": "table and row-wise state"},
        {"case": case, "value": peak / 1e9, "unit": "GB"},
    ]


def peak_bytes(count: int, dim: int, hard: int) -> int:
    """Return the peak memory of this process after a few steps."""
    work, encoder = prototype_work(count, dim, hard), encoder_work(dim)
    for _ in range(3):
        work(encoder())
    return peak_memory()


def encoder_work(dim: int = 128) -> Callable[[], torch.Tensor]:
    """Return a function that embeds a batch of photos with the demo's ground encoder, ready for a gradient."""
    config = configuration.load(CONFIGS / "demo.yaml")
    encoder = Encoder(config.model.ground, dim)
    photos = torch.randint(0, 255, (BATCH, config.photo.height_px, config.photo.width_px, 3), dtype=torch.uint8)
    return lambda: encoder(photos)


def prototype_work(count: int, dim: int, hard: int = 0, device: str = "cpu") -> Callable[[torch.Tensor], None]:
    """Return a function that takes the prototypes' part of a step for a batch of embeddings, backward included."""
    rule = PrototypesConfig(table="sharded", negatives="sampled", share=1.0, most_rows=DRAWN, hard_rows=hard)
    config = Config(loss=LossConfig(kind="softmax"), prototypes=rule)
    table = ShardedPrototypes(continent(count), dim, 1.2, rule, seed=0, device=device)
    if hard:
        table.clusters = table.cluster(table.seed)
    objective, draw = Objective(config, table), iter(range(1_000_000))

    def work(embeddings: torch.Tensor) -> None:
        number = next(draw)
        at = np.random.default_rng(number).integers(0, count, BATCH)
        places = Places(embeddings, *s2.cell_centers(table.ids[at]))
        losses = objective(places, None, draw=number)
        losses["query_prototype"].mean().backward()  # type: ignore[no-untyped-call]
        table.update(1e-2, number)

    return work


def continent(count: int) -> Ids:
    """Return `count` neighbouring cells of level 15, sorted; 5.5 million of them are a third of a level-3 cell."""
    first = s2.cell_ids(np.array([48.0]), np.array([8.0]), 15)[0]
    return np.asarray(first + np.arange(count, dtype=np.uint64) * (np.uint64(2) << np.uint64(2 * (s2.MAX_LEVEL - 15))))


def order_row(photos: int) -> report.Row:
    """Order a pass over so many photos, ten a cell on average, by the root of their number and by clusters."""
    rng = np.random.default_rng(0)
    cells = np.sort(rng.integers(0, photos // 10, photos))
    labels = rng.integers(0, 1000, photos // 40 + 1).astype(np.int32)
    hard = HardBatches(group_size=8, period=photos, labels={-LOOKAHEAD: labels})
    sampler = PlaceSampler(cells, 8192, 2, 0, sampling_exponent=0.5, hard=hard, prototypes=cells // 4)
    started = time.process_time()
    sampler.batch(LOOKAHEAD)  # the first whole stretch between two clusterings: all of the pass
    rate = photos / (time.process_time() - started)
    return {"case": f"ordering a pass over {photos:,} photos", "value": rate / 1e6, "unit": "million photos/CPU-s"}


def loop_rows(folder: Path, photos: int, repeats: int) -> list[report.Row]:
    """Time the loop over at least `photos` packed photos, read while it goes; a rendered tenth of them, under ten names."""
    world = simulate(folder / "world", size_km=1.0, photos=photos // 10)
    for path in list(world.photos_dir.glob("*.jpg")):
        for copy in range(9):
            shutil.copy2(path, path.with_name(f"{path.stem}-{copy}.jpg"))
    table = ingest(world.photos_dir, out=folder / "photos", split=SplitRule(kind="date"))
    pack.run(table, pack.Packing(size_px=(192, 144), shard_photos=512), out=folder / "shards")
    rows: list[report.Row] = []
    for name, batch, case, source in (
        ("town", 32, "packed photos, EfficientNet", str(folder / "shards")),
        ("demo", BATCH, "packed photos, the demo's encoder", str(folder / "shards")),
        ("demo", BATCH, "photos decoded before, the demo's encoder", table),
    ):
        changes = ["training.regime=full", f"training.batch_size={batch}", "training.epochs=100"]
        config = configuration.load(CONFIGS / f"{name}.yaml", changes)
        trainer = prepare(config, source, world.aerial_path, out=folder / name, resume=False).trainer
        row = loop_ratio(trainer, repeats, steps=4 if name == "demo" else 2)
        rows.append({"case": f"training step, {len(table):,} {case}", **row})
    return rows


if __name__ == "__main__":
    main()
