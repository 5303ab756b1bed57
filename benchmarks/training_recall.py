"""The second form of benchmarks/training.py: what recall costs of negatives, processes, optimisers and ways to draw a batch.

Each case is trained, built and evaluated; what is done already is taken from the folder, so that it can be stopped and
started again. Differences are of the same photos, with a bootstrap over their cells: they are known better than either recall.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import report
import torch

from cellcode import config as configuration
from cellcode.database import build
from cellcode.evaluation import difference_95, evaluate
from cellcode.evaluation.metrics import middle_radius_m
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.training.data.photos import TablePhotos
from cellcode.training.data.sampling import LOOKAHEAD
from cellcode.training.loop.trainer import Trainer
from cellcode.training.train import prepare
from cellcode.types import Bools, Int64

CONFIG = Path(__file__).parent.parent / "configs" / "benchmark.yaml"
SYSTEM = "hybrid"
GROUP_SIZES, BATCHES = (1, 4, 8, 16, 32), 250


@dataclass(frozen=True)
class Case:
    """A training: `overrides` of configs/benchmark.yaml, on a number of processes, compared with the case `against`."""

    name: str
    overrides: tuple[str, ...]
    against: str | None
    processes: int = 1


SHARDED = ("prototypes.table=sharded",)
MINED = "prototypes.mine_every_steps=500"
SAMPLED = (*SHARDED, "prototypes.negatives=sampled", "prototypes.hard_rows=4", MINED)
ALL, WHOLE = "all negatives", "all negatives, whole table and Adam"
CASES = (  # those that answer most come first
    Case(ALL, SHARDED, None),
    Case("10 % of negatives", (*SAMPLED, "prototypes.share=0.1"), ALL),
    Case("all negatives, 2 processes", SHARDED, ALL, 2),
    Case(WHOLE, (), ALL),
    Case("1 % of negatives", (*SAMPLED, "prototypes.share=0.01"), ALL),
    Case("hard batches, groups of 4", ("training.hard_group_size=4", MINED), WHOLE),
    Case("cells by the root of their photos", ("training.sampling_exponent=0.5",), WHOLE),
    Case("3 % of negatives", (*SAMPLED, "prototypes.share=0.03"), ALL),
    Case("hard batches, groups of 8", ("training.hard_group_size=8", MINED), WHOLE),
    Case("cells evenly", ("training.sampling_exponent=0",), WHOLE),
    Case("30 % of negatives", (*SAMPLED, "prototypes.share=0.3"), ALL),
)


def rows(photos: Path, aerial: Path, folder: Path) -> list[report.Row]:
    """Recall@1 within the middle radius of every case, and its difference to the one that it is compared with."""
    found: dict[str, Bools] = {}
    made: list[report.Row] = []
    place = _places(PhotoTable.load(photos).of_split("test"))
    for case in CASES:
        hits = found[case.name] = _hits(case, photos, aerial, folder / _folder(case.name))
        unit = "% recall@1"
        if case.against is not None:
            base = found[case.against].astype(float)
            low, high = (100 * end for end in difference_95(hits.astype(float), base, place))
            unit += f"; {100 * (hits.mean() - base.mean()):+.2f} ({low:+.2f} to {high:+.2f}) against {case.against}"
        made.append({"case": case.name, "value": 100 * float(hits.mean()), "unit": unit})
        print(f"{case.name}: {made[-1]['value']:.2f} {unit}", file=sys.stderr)
    return made + hardness(photos, aerial, folder)


def hardness(photos: Path, aerial: Path, folder: Path) -> list[report.Row]:
    """Mean losses of hard batches, all of the same trained networks: how much harder they are."""
    run = Run.load(folder / _folder(ALL) / "run")
    config = configuration.load(CONFIG)
    prepared = prepare(config, photos, aerial, out=folder / "hardness", resume=False)
    trainer, training = prepared.trainer, prepared.training
    assert isinstance(training, TablePhotos)
    model = trainer.model
    assert model.aerial is not None
    assert run.aerial is not None
    assert model.prototypes is not None
    assert run.prototypes is not None
    for own, trained in ((model.ground, run.ground), (model.aerial, run.aerial), (model.prototypes, run.prototypes)):
        own.load_state_dict(trained.state_dict())
    model.eval()
    labels = model.prototypes.cluster(config.training.seed).of_row
    made: list[report.Row] = []
    for places in GROUP_SIZES:
        sampler = training.sampler(configuration.load(CONFIG, [f"training.hard_group_size={places}"]))
        if sampler.hard is not None:
            sampler.hard.labels = {-LOOKAHEAD: labels}  # as if they had been made before the first batch
        trainer.sampler = sampler
        for pair, losses in _losses(trainer).items():
            error = float(np.std(losses) / len(losses) ** 0.5)
            unit = f"mean loss, standard error {error:.3f}"
            made.append({"case": f"{pair}, groups of {places}", "value": float(np.mean(losses)), "unit": unit})
    return made


def _losses(trainer: Trainer) -> dict[str, list[float]]:
    """Mean losses of the pairs that find their negatives in the batch, of `BATCHES` batches."""
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for number in range(BATCHES):
            losses = trainer.losses(trainer.batches.take(number))
            for pair in ("query_aerial", "query_cell"):
                found.setdefault(pair, []).append(float(losses[pair].mean()))
    return found


def _folder(case: str) -> str:
    return case.replace(" ", "-").replace("%", "percent")


def _hits(case: Case, photos: Path, aerial: Path, out: Path) -> Bools:
    """Return for each test photo whether its best cell lies within the middle radius."""
    config = configuration.load(CONFIG, case.overrides)
    report_json = out / "report" / "report.json"
    if not report_json.is_file():
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(configuration.dump(config), encoding="utf-8")
        _train(case, out, photos, aerial)
        build(out / "run", aerial, out=out / "cells")
        evaluate(out / "cells", PhotoTable.load(photos), out=out / "report")
    assert json.loads(report_json.read_text())["unreadable"] == []
    error_m = pq.read_table(out / "report" / "predictions.parquet")[f"{SYSTEM}_error_m"].to_numpy()
    return np.asarray(error_m < middle_radius_m(config.evaluation.radii_m))


def _train(case: Case, out: Path, photos: Path, aerial: Path) -> None:
    """Train as a user does; a stopped training is resumed."""
    arguments = ["train", out / "config.yaml", "--photos", photos, "--aerial", aerial, "--out", out / "run"]
    resume = ["--resume"] if (out / "run" / "checkpoint").is_dir() else []
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}", "-m"]
    launcher = several if case.processes > 1 else []
    threads = str(max(1, torch.get_num_threads() // case.processes))
    subprocess.run(
        [sys.executable, "-m", *launcher, "cellcode", *map(str, arguments), *resume],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )


def _places(table: PhotoTable) -> Int64:
    """Number the cells of photos, which the bootstrap draws."""
    return s2.cell_ids(table.lat_deg, table.lon_deg, configuration.load(CONFIG).levels.cell).view(np.int64)
