"""The training step of the recipe: photos and imagery in, a run out."""

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.config import Config, MachineConfig
from cellcode.device import choose_device, deterministic
from cellcode.distributed import collectives, process_group
from cellcode.files import locked_folder, remove_folder
from cellcode.model.encoder import require_parts
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.training.data.photos import TrainingPhotos
from cellcode.training.loop.checkpoints import FOLDER as CHECKPOINT
from cellcode.training.loop.checkpoints import Identity
from cellcode.training.loop.trainer import Trainer, TrainingSetup
from cellcode.training.loop.validation import embed_validation, recall_of_sample
from cellcode.training.setup import data_setup, factory

logger = logging.getLogger(__name__)
CACHE = "cache"


def train(
    config: Config | Path | str,
    photos: PhotoTable | Path | str,
    aerial: AerialSource | Path | str | None = None,
    *,
    out: Path | str,
    resume: bool = False,
    overrides: Iterable[str] = (),
    machine: MachineConfig | None = None,
    imagery_cache: Path | None = None,
) -> Run:
    """Train two encoders and the prototypes of the cells where photos were taken.

    Args:
        config: a configuration, the path of one, or the name of a shipped one such as "demo".
        photos: a photo table, or packed photos in a folder or a store; its split "train" is used. Its split "validation"
            fits the calibration; without photos in it, part of "train" of a table is kept out for that.
        aerial: imagery; None trains prototypes only.
        out: the run's folder.
        resume: continue from the checkpoint in `out`, as if never stopped.
        overrides: `key=value`, in place of the configuration's.
        machine: device, precision and threads in place of the configuration's; None: those.
        imagery_cache: folder that keeps the imagery read, for other trainings of the same cells and tiles.

    Raises:
        InputError: no training photos, no imagery where they are, or a checkpoint of something else.
    """
    config = configuration.resolve(config, overrides, machine)
    folder = Path(out)
    with process_group.joined(config.machine.device) as device, _locked(folder), deterministic(device):
        try:
            prepared = prepare(
                config, photos, aerial, out=folder, resume=resume, imagery_cache=imagery_cache, device=device
            )
            prepared.trainer.fit(resume)
            return _finish(prepared) or Run.load(folder)
        finally:
            remove_folder(_cache(folder))
            with suppress(OSError):  # there is none, or another process has not removed its part yet
                (folder / CACHE).rmdir()


@dataclass(frozen=True)
class Prepared:
    """A trainer with the data it was made from; the photos are those that can be read."""

    trainer: Trainer
    training: TrainingPhotos
    validation: PhotoTable
    source: AerialSource | None


def prepare(
    config: Config | Path | str,
    photos: PhotoTable | Path | str,
    aerial: AerialSource | Path | str | None = None,
    *,
    out: Path | str,
    resume: bool,
    imagery_cache: Path | None = None,
    device: torch.device | None = None,
) -> Prepared:
    """Check what is given, read photos and imagery and set up the trainer; see `train` for the arguments.

    Every random number of model, prototypes and inputs comes from the configuration's seed.
    """
    config, folder = configuration.resolve(config), Path(out)
    require_parts(config)
    remove_folder(_cache(folder))  # of a training that was killed
    device = device or choose_device(config.machine.device)
    source = open_source(aerial) if aerial is not None else None
    training, validation = data_setup.photos_of(photos, config, _cache(folder))
    data_setup.require_supervision(config, training, source)
    if not collectives.rank():
        _clear(folder, resume)
    collectives.barrier()
    training = training.read(config)
    torch.manual_seed(config.training.seed)
    model = factory.make_model(config, training, source is not None).to(device)
    store, imagery = None, None
    if source is not None:
        cells, imagery = factory.store_cells(training, source, config), source.identity
        store = factory.tile_store(source, cells, config, _cache(folder), imagery_cache)
    cell_count = len(training.cells(config.levels.prototype))
    identity = Identity(config, training.digest, imagery, len(training), cell_count)
    feed = training.feed(config, model.ground, model.aerial, store, _cache(folder))
    table, recall = factory.make_table(config, training, device), recall_of_sample(validation, config)
    setup = TrainingSetup(config, model, feed, folder, identity, device, table, recall)
    return Prepared(Trainer(setup), training, validation, source)


def _finish(prepared: Prepared) -> Run | None:
    """Write the run. With several processes the first one does it, and the others get None when it is there."""
    trainer, training, validation = prepared.trainer, prepared.training, prepared.validation
    trained, config = trainer.trained.eval().cpu(), trainer.config
    prototypes = trained.prototypes if trainer.table is None else trainer.table.whole()
    # Photos of a stream that no process could read, in the epoch with the most of them.
    own = np.array([[trainer.sampler.damaged[epoch] for epoch in range(config.training.epochs + 1)]])
    damaged = int(collectives.gather_array(own).sum(axis=0).max())
    if collectives.rank():
        collectives.barrier()
        return None
    run = Run(
        folder=trainer.folder,
        config=config,
        ground=trained.ground,
        aerial=trained.aerial,
        prototypes=prototypes,
        facts=training.cell_facts(config.levels.cell),
        validation=embed_validation(validation, trained.ground, config),
        manifest=data_setup.manifest(training, prepared.source) | {"reproducible": conditions(config, trainer.device)},
    ).save()
    logger.info(
        "trained on %d photos in %d cells, %d kept for validation; run %s in %s%s",
        *(len(training), len(run.facts.ids), len(validation), run.identity, trainer.folder),
        f"; {damaged} photos could not be read" if damaged else "",
    )
    collectives.barrier()
    return run


def conditions(config: Config, device: torch.device) -> dict[str, Any]:
    """Return under what else than the configuration the same bytes are trained again, if the device adds in a fixed order."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": str(device),
        "precision": config.machine.precision,
        "processes": collectives.world(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _locked(folder: Path) -> AbstractContextManager[None]:
    """The first of several processes holds the lock."""
    return nullcontext() if collectives.rank() else locked_folder(folder)


def _cache(folder: Path) -> Path:
    """Return where this process keeps what it computes once, such as the imagery that it cuts tiles from."""
    return folder / CACHE / str(collectives.rank())


def _clear(folder: Path, resume: bool) -> None:
    """Remove an earlier training; its checkpoint and log stay when they are to be resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    if not resume:
        remove_folder(folder / CHECKPOINT)
        (folder / "log.jsonl").unlink(missing_ok=True)
