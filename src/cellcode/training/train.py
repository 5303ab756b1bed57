"""The training step of the recipe: photos and imagery in, a run out."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.config import Config, MachineConfig
from cellcode.device import choose_device
from cellcode.distributed import collectives, process_group
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.training.data.packed import PackedTraining
from cellcode.training.data.sampling import PlaceSampler
from cellcode.training.data.stream import Stream
from cellcode.training.loop.checkpoints import FOLDER as CHECKPOINT
from cellcode.training.loop.checkpoints import Identity
from cellcode.training.loop.trainer import Trainer
from cellcode.training.loop.validation import embed_validation, recall_of_sample
from cellcode.training.setup import data_setup, factory

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
    with process_group.joined(config.machine.device) as device, process_group.only_first_speaks():
        prepared = prepare(config, photos, aerial, out=out, resume=resume, imagery_cache=imagery_cache, device=device)
        prepared.trainer.fit(resume)
        made = _finish(prepared)
        if not collectives.rank():
            shutil.rmtree(prepared.trainer.folder / CACHE, ignore_errors=True)
        return made if made is not None else Run.load(out)


def _finish(prepared: Prepared) -> Run | None:
    """Write the run. With several processes the first one does it, and the others get None when it is there."""
    trainer, training, validation = prepared.trainer, prepared.training, prepared.validation
    trained, config = trainer.trained.eval().cpu(), trainer.config
    prototypes = trained.prototypes if trainer.table is None else trainer.table.whole()
    unread = _unread(trainer)
    if collectives.rank():
        collectives.barrier()
        return None
    made = Run(
        folder=trainer.folder,
        config=config,
        ground=trained.ground,
        aerial=trained.aerial,
        prototypes=prototypes,
        facts=data_setup.facts(training, config.levels.cell),
        validation=embed_validation(validation, trained.ground, config),
        manifest=data_setup.manifest(training, prepared.source),
    ).save()
    print(
        f"trained on {len(training)} photos in {len(made.facts.ids)} cells, {len(validation)} kept for validation; "
        f"run {made.identity} in {trainer.folder}{unread}",
        file=sys.stderr,
    )
    collectives.barrier()
    return made


def _unread(trainer: Trainer) -> str:
    """Say how many photos of a stream could not be read, of all processes together, in the epoch that missed most."""
    if not isinstance(trainer.sampler, Stream):
        return ""
    epochs = trainer.config.training.epochs
    own = np.array([trainer.sampler.damaged[epoch] for epoch in range(epochs + 1)])
    most = int(collectives.gather_array(own).reshape(-1, epochs + 1).sum(axis=0).max())
    return f"; {most} photos could not be read" if most else ""


@dataclass(frozen=True)
class Prepared:
    """A trainer with everything it was made from."""

    trainer: Trainer
    training: PhotoTable | PackedTraining
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
    """Check the ingredients, read photos and imagery and set up the trainer; see `train` for the arguments.

    Args:
        device: of this process; None: the configuration's.
    """
    config = configuration.resolve(config)
    folder = Path(out)
    source = open_source(aerial) if aerial is not None else None
    training, validation = data_setup.photos_of(photos, config, _cache(folder))
    data_setup.require_supervision(config, training, source)
    if not collectives.rank():
        _clear(folder, resume)
    collectives.barrier()
    device = device or choose_device(config.machine.device)
    if isinstance(training, PhotoTable):
        pixels, training = data_setup.decode(training, config, "reading training photos")
    torch.manual_seed(config.training.seed)
    model = factory.make_model(config, training, source is not None).to(device)
    sampler: PlaceSampler | Stream
    if isinstance(training, PhotoTable):
        inputs = factory.make_inputs(config, model, pixels, training, source, _cache(folder), imagery_cache)
        sampler = factory.make_sampler(config, training)
    else:
        sampler = training.stream(config)
        inputs = factory.stream_inputs(config, sampler, training, source, _cache(folder), imagery_cache)
    cells = len(np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.prototype)))
    imagery = source.identity if source is not None else None
    identity = Identity(config, data_setup.digest(training), imagery, len(training), cells)
    trainer = Trainer(
        config,
        model,
        inputs.photos,
        inputs.tiles,
        sampler,
        folder,
        identity,
        device,
        factory.make_table(config, training, device),
        recall_of_sample(validation, config),
    )
    return Prepared(trainer, training, validation, source)


def _cache(folder: Path) -> Path:
    """Return where this process keeps what it computes once, such as the imagery that it cuts tiles from."""
    return folder / CACHE / str(collectives.rank())


def _clear(folder: Path, resume: bool) -> None:
    """Remove what an earlier training left; its checkpoint and log stay when they are to be continued."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    if not resume:
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        (folder / "log.jsonl").unlink(missing_ok=True)
