"""Check training, building and locating on an accelerator, in one command of at most ten minutes.

    python tools/device_check.py [--device cuda|cpu|auto] [--size full|tiny] [--minutes 10] [--out FILE]

Prints a Markdown table for docs/scaling.md, and progress on stderr. Nothing is downloaded: photos and imagery are rendered, and
encoders have random weights. `full` has two ViT-B and 5.5 million prototypes; `tiny` runs on a CPU in seconds. Needs the extra
`hf`. Each check runs in a process of its own and has a share of the time that is left. One that fails, or takes too long, is
reported with the reason and what it had measured; the others still run. Exit status: 1 where a check is not complete.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellcode import CellcodeError, Config, InputError, Locator, Run, build, ingest, simulate, train
from cellcode import config as configuration
from cellcode.config import MachineConfig
from cellcode.device import choose_device
from cellcode.files import write_json
from cellcode.photos import PhotoTable, SplitRule
from cellcode.photos.packed import pack
from cellcode.training.data.inputs import Prefetcher
from cellcode.training.loop.log import peak_memory
from cellcode.training.setup.data_setup import set_apart
from cellcode.training.train import prepare
from cellcode.types import Float32

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from pipeline import forward_backward
from search import processor
from training import BATCH, CONTINENT, prototype_work

Row = tuple[str, str]  # what was measured, and the figure with its unit


@dataclass(frozen=True)
class Size:
    """How much is made and measured."""

    world_km: float  # edge of the rendered region
    photos: int
    backbone: dict[str, int]  # of a DINOv2 network, as in its config.json
    settings: str  # changes of configs/region.yaml
    steps: int  # of the training, rounded up to whole epochs
    prototypes: int
    dim: int  # of the prototypes
    repeats: int  # of what is timed beside the training
    located: int  # photos that are located, and compared with the CPU


VIT_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14, "image_size": 518}
SMALL = VIT_B | {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70}
FULL = "training.batch_size=128 training.random_tiles=16 training.checkpoint_every_steps=1000 machine.threads=0"
TINY = (
    "training.batch_size=8 training.random_tiles=2 training.log_every_steps=1 model.dim=16 levels.cell=17 "
    "photo.width_px=56 photo.height_px=42 tile.size_px=42 machine.threads=1"
)
SIZES = {
    "full": Size(2.0, 4000, VIT_B, FULL, 200, CONTINENT, 256, 30, 128),
    "tiny": Size(0.5, 60, SMALL, TINY, 6, 20_000, 16, 2, 4),
}
AERIAL, RUN = "world/aerial.tif", "run"  # in the folder of a site
NOT_COMPLETE = "**not complete**"  # the last row of a check that failed
PRELOADED = [__name__, "cellcode.search.locator", "transformers.models.dinov2.modeling_dinov2"]


@dataclass(frozen=True)
class Site:
    """The folder with what the checks make, the device they run on, and how much they do."""

    folder: Path
    device: str
    size: Size

    def config(self, epochs: int = 1) -> Config:
        """Return the configuration of the paper's regions with random weights."""
        changes = [f"machine.device={self.device}", f"training.epochs={epochs}"]
        for encoder in ("model.ground", "model.aerial"):
            changes += [f"{encoder}.backbone=hf:{self.folder / 'backbone'}", f"{encoder}.pretrained=false"]
        return configuration.load("region", [*changes, *self.size.settings.split()])

    def trained(self) -> tuple[Run, list[Path]]:
        """Load the run of the check "training" and name the photos to locate; raises InputError if it left no run."""
        if not (self.folder / RUN / "run.json").is_file():
            raise InputError("skipped: the check 'training' left no run")
        return Run.load(self.folder / RUN), PhotoTable.load(self.folder / "table").files[: self.size.located]


def photos(site: Site) -> Iterator[Row]:
    """Render a region, pack its photos, and describe the backbone."""
    started, config, size = time.perf_counter(), site.config(), site.size
    shape = config.photo.width_px, config.photo.height_px
    world = simulate(site.folder / "world", size_km=size.world_km, photos=size.photos)
    table = ingest(world.photos_dir, out=site.folder / "table", split=SplitRule(kind="date"))
    packing = pack.Packing(config.levels.cell, shard_photos=512, size_px=shape)
    pack.run(table, packing, out=site.folder / "shards", set_apart=partial(set_apart, config=config))
    write_json(site.folder / "backbone" / "config.json", {"model_type": "dinov2", **size.backbone})
    yield f"{size.photos:,} photos rendered, ingested and packed", f"{time.perf_counter() - started:.0f} s"


def training(site: Site) -> Iterator[Row]:
    """Train, and compare the loop with a step on one batch, and with forward and backward alone."""
    config = site.config()
    bare_s, step_s, steps_per_epoch, weights = on_one_batch(site, config)
    batch, photo, tile = config.training.batch_size, config.photo, config.tile
    tiles = batch // config.training.photos_per_place + config.training.random_tiles
    sizes = f"{batch} photos of {photo.width_px} x {photo.height_px} px, {tiles} tiles of {tile.size_px} px"
    yield f"batch of two encoders of {weights / 1e6:.1f} million weights together, {config.machine.precision}", sizes
    yield "forward and backward alone, inputs on the device", f"{batch / bare_s:,.1f} photos/s"
    yield "whole step on one batch kept in memory", f"{batch / step_s:,.1f} photos/s"
    epochs = -(-site.size.steps // steps_per_epoch)
    train(site.config(epochs), site.folder / "shards", site.folder / AERIAL, out=site.folder / RUN)
    lines = [json.loads(line) for line in (site.folder / RUN / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    loop_s = statistics.median(line["seconds"] for line in lines[2:])  # the first ones hold what happens once
    yield f"training from packed photos, {lines[-1]['step'] + 1} steps", f"{batch / loop_s:,.1f} photos/s"
    yield "training against forward and backward alone", f"{bare_s / loop_s:.2f} x"
    yield "share of the training's time that the data path costs", f"{1 - step_s / loop_s:.1%}"
    yield "loss of the first and the last step", f"{lines[0]['loss']:.3f}, {lines[-1]['loss']:.3f}"
    yield "peak memory", f"{peak_memory() / 1e9:.2f} GB"


def on_one_batch(site: Site, config: Config) -> tuple[float, float, int, int]:
    """Seconds of forward and backward and of a whole step on the same batch; steps per epoch; number of weights."""
    shards, out = site.folder / "shards", site.folder / "one-batch"
    trainer = prepare(config, shards, site.folder / AERIAL, out=out, resume=False).trainer
    trainer.model.train()
    batch = trainer.batches.take(0)
    trainer.batches.close()
    trainer.batches = Prefetcher(lambda _: batch, trainer.device, stop=0)
    samples = (batch.photos, batch.tiles)
    photos, tiles = (replace(each, inputs=each.inputs.to(trainer.device)) for each in samples if each is not None)
    bare_s = seconds(partial(forward_backward, trainer, replace(batch, photos=photos, tiles=tiles)), site)
    trainer.step(0)  # it clusters the prototypes, which those that follow do not
    step_s = seconds(partial(trainer.step, 1), site)
    trainer.batches.close()
    return bare_s, step_s, trainer.sampler.steps_per_epoch, sum(p.numel() for p in trainer.model.parameters())


def prototypes(site: Site) -> Iterator[Row]:
    """Look up and update rows of a sharded table of a continent's size, as benchmarks/training.py does on a CPU."""
    count, dim, started = site.size.prototypes, site.size.dim, time.perf_counter()
    work = prototype_work(count, dim, device=site.device)
    yield f"making a sharded table of {count:,} prototypes, D = {dim}", f"{time.perf_counter() - started:.1f} s"
    vectors = torch.nn.functional.normalize(torch.randn(BATCH, dim, device=site.device), dim=1).requires_grad_()
    step_s = seconds(partial(work, vectors), site)
    yield f"look-up, loss and update, {BATCH} photos a step", f"{1 / step_s:,.1f} steps/s"
    yield "table and its optimiser's state, computed", f"{count * (4 * dim + 8) / 1e9:.2f} GB"
    yield "peak memory", f"{peak_memory() / 1e9:.2f} GB"


def building(site: Site) -> Iterator[Row]:
    """Build a database, and locate photos together and one by one."""
    machine = MachineConfig.model_validate({"device": site.device})
    (run, files), started = site.trained(), time.perf_counter()
    cells = build(run, site.folder / AERIAL, out=site.folder / "town.cells", machine=machine)
    built_s, count = time.perf_counter() - started, len(cells.ids)
    yield f"building {count:,} cells", f"{1e3 * built_s / count:,.1f} ms per cell"
    with Locator.open(cells, machine=machine) as locator:
        many_s = seconds(lambda: list(locator.locate_many(files)), site)
        single_s = seconds(lambda: locator.locate(files[0]), site)
    yield f"locating {len(files)} photos together, decoding included", f"{1e3 * many_s / len(files):,.2f} ms per photo"
    yield "locating one photo", f"{1e3 * single_s:,.1f} ms"
    yield "peak memory", f"{peak_memory() / 1e9:.2f} GB"


def agreement(site: Site) -> Iterator[Row]:
    """Compare embeddings, codes and first answers with those of the CPU in float32."""
    vectors, codes, cells = results(site, "cpu", "float32")
    for precision in ("float32", "bfloat16"):
        made_vectors, made_codes, made_cells = results(site, site.device, precision)
        where = f"{site.device} in {precision} against CPU in float32"
        yield f"embeddings of {len(vectors)} photos, {where}", difference(made_vectors, vectors)
        yield f"codes of {len(codes):,} cells, {where}", difference(made_codes, codes)
        yield f"same first cell, {where}", f"{sum(map(str.__eq__, made_cells, cells))} of {len(cells)} photos"


def results(site: Site, device: str, precision: str) -> tuple[Float32, Float32, list[str]]:
    """Build and locate: embeddings of photos (B, D), codes (N, D), and the first cell of each photo."""
    machine, (run, files) = MachineConfig.model_validate({"device": device, "precision": precision}), site.trained()
    cells = build(run, site.folder / AERIAL, out=site.folder / f"{device}-{precision}.cells", machine=machine)
    with Locator.open(cells, machine=machine) as locator:
        names, vectors, _ = locator.read(files)
        answers = locator.answers(names, vectors, 1, None)
    return vectors, np.asarray(cells.code_set.exact[:], np.float32), [answer.candidates[0].cell for answer in answers]


def difference(made: Float32, expected: Float32) -> str:
    """Say how near the rows of two arrays (N, D) are."""
    cosine = (made * expected).sum(axis=1) / np.linalg.norm(made, axis=1) / np.linalg.norm(expected, axis=1)
    return f"cosine at least {cosine.min():.6f}, largest difference {np.abs(made - expected).max():.1e}"


def seconds(work: Callable[[], object], site: Site) -> float:
    """Mean time of `work`, with the device idle before and after; three runs before do not count."""
    synchronize: Callable[[], None] = getattr(torch, site.device).synchronize
    for _ in range(3):
        work()
    synchronize()
    started = time.perf_counter()
    for _ in range(site.size.repeats):
        work()
    synchronize()
    return (time.perf_counter() - started) / site.size.repeats


# In order, each with its share of the time.
CHECKS: dict[Callable[[Site], Iterable[Row]], int] = {photos: 2, training: 5, prototypes: 2, building: 2, agreement: 3}


def attempt(check: Callable[[Any], Iterable[Row]], site: Any, limit_s: float) -> list[Row]:
    """Run a check in a process of its own; returns its rows, of which the last says why it is not complete, if it is not."""
    context = multiprocessing.get_context("forkserver")
    # CUDA does not survive a fork of a process that has asked for it, as a library may on import.
    context.set_forkserver_preload([] if torch.cuda.is_available() else PRELOADED)
    with tempfile.NamedTemporaryFile() as file:
        process = context.Process(target=write_rows, args=(check, site, Path(file.name)))
        process.start()
        process.join(max(limit_s, 0))
        late = process.is_alive()
        process.kill()
        process.join()
        rows = [(what, figure) for what, figure in map(json.loads, Path(file.name).read_text("utf-8").splitlines())]
    reason = f"stopped at its time limit of {limit_s:.0f} s" if late else f"ended with status {process.exitcode}"
    return [*rows, (NOT_COMPLETE, reason)] if late or process.exitcode else rows


def write_rows(check: Callable[[Any], Iterable[Row]], site: Any, path: Path) -> None:
    """Write each row of a check as soon as it is measured, and the reason if it fails."""
    with path.open("w", encoding="utf-8", buffering=1) as file:
        try:
            for row in check(site):
                file.write(json.dumps(row) + "\n")
        except Exception as error:  # whatever it is, it belongs into the table
            traceback.print_exc()
            kind = "" if isinstance(error, CellcodeError) else f"{type(error).__name__}: "
            file.write(json.dumps((NOT_COMPLETE, kind + str(error).strip().split("\n")[0])) + "\n")


def machine(device: str) -> str:
    """Name device, driver, processor, version of torch and day."""
    name = device
    if device == "cuda":
        status, driver = subprocess.getstatusoutput("nvidia-smi -i 0 --query-gpu=driver_version --format=csv,noheader")
        name = f"{torch.cuda.get_device_name()}, driver {driver if status == 0 else 'unknown'}"
    return f"{name}; {processor()}; torch {torch.__version__}; {date.today()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu", "auto"), default="auto")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all checks together")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    given = parser.parse_args(arguments)
    try:
        device = choose_device(given.device).type
    except InputError as error:
        parser.error(str(error))
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # peak memory is then that of the process
    started, left, complete = time.monotonic(), sum(CHECKS.values()), True
    lines = ["| check | what | measured |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), device, SIZES[given.size])
        for check, share in CHECKS.items():
            begun = time.monotonic()
            rows = attempt(check, site, (started + 60 * given.minutes - begun) * share / left)
            left, complete = left - share, complete and rows[-1][0] != NOT_COMPLETE
            rows.append(("the whole check", f"{time.monotonic() - begun:.0f} s"))
            lines += [f"| {check.__name__} | {what} | {figure} |" for what, figure in rows]
            print(f"{check.__name__}: {rows[-1][1]}", file=sys.stderr, flush=True)
    command = f"python tools/device_check.py --size {given.size} --device {device}"
    table = "\n".join([f"`{command}`, {time.monotonic() - started:.0f} s; {machine(device)}", "", *lines, ""])
    print(table)
    if given.out is not None:
        given.out.write_text(table, encoding="utf-8")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
