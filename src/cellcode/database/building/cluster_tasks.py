"""The steps of a build as tasks of a cluster: a worker opens run and imagery itself and keeps them open.

Run, imagery and folders have the same paths on every node. See `cellcode.distributed.ray_tasks` for what a lost worker costs.
"""

import os
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import yaml

from cellcode import config as configuration
from cellcode import plugins
from cellcode.aerial import AerialSource, open_source
from cellcode.database.building import shards
from cellcode.database.building.shards import Reuse
from cellcode.database.store.database import Database
from cellcode.device import choose_device
from cellcode.distributed.ray_tasks import over_ranges
from cellcode.files import atomic_path
from cellcode.model import inference
from cellcode.model.inference import BATCH
from cellcode.photos import PhotoError, PhotoSpec, read_pixels
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.progress import Meter
from cellcode.runs import Run
from cellcode.types import Ids


class Inputs(NamedTuple):
    """What every shard of a build is made from, as a worker can open it: paths, and the configuration as YAML."""

    run: str
    config: str
    aerial: str | None = None
    reuse: str | None = None
    plugins: tuple[str, ...] = (
        ".",
    )  # the working directory, whose modules may be plug-ins, and modules the user named

    @classmethod
    def of(cls, run: Run, aerial: str | None = None, reuse: str | None = None) -> Self:
        """Describe a run that is open."""
        settings = configuration.dump(run.config, machine=True)
        return cls(str(Path(run.folder).resolve()), settings, aerial, reuse, (os.getcwd(), *plugins.allowed()))


def encode(inputs: Inputs, ids: Ids, folder: str) -> str | None:
    """Encode the cells of a shard into a folder, unless it is there; see `shards.write_whole`."""
    if Path(folder).is_dir():
        return None
    run, source, reuse = _opened(inputs)
    return shards.write_whole(run, source, np.array(ids), Path(folder), reuse)  # a copy: Ray's arrays are read-only


def embed_photos(run: Run | Path | str, packed: PackedPhotos | str, split: str, out: Path | str, cluster: str) -> Path:
    """Embed packed photos over a Ray cluster, one shard per task; shards that are there are not embedded again.

    Writes OUT/SPLIT/NAME.npy for each shard: (n, D) float32 of unit length in the order of its photos, 0 where a photo
    is damaged; returns OUT/SPLIT.
    """
    run = Run.of(run)
    packed = packed if isinstance(packed, PackedPhotos) else PackedPhotos.open(packed)
    folder = Path(out).resolve() / split
    names = packed.shards(split).names
    inputs = Inputs.of(run)
    place = packed.place if "://" in packed.place else str(Path(packed.place).resolve())
    left = [name for name in names if not (folder / f"{name}.npy").is_file()]
    calls = ((inputs, place, split, name, str(folder / f"{name}.npy")) for name in left)
    with Meter("embedding photos", len(names)) as meter:
        meter.advance(len(names) - len(left))
        for _ in over_ranges(_embed_shard, calls, cluster):
            meter.advance()
    return folder


def _embed_shard(inputs: Inputs, place: str, split: str, name: str, path: str) -> None:
    run, _, _ = _opened(inputs)
    photo, device = run.config.photo, choose_device("auto")
    encoder = run.ground.to(device).eval()
    loaded = PackedPhotos.open(place).load(split, name)
    made = np.zeros((len(loaded.index["offset"]), run.config.model.dim), np.float32)
    for first in range(0, len(made), BATCH):
        rows, pixels = [], []
        for row in range(first, min(first + BATCH, len(made))):
            try:
                pixels.append(read_pixels(loaded.image(row), PhotoSpec.of(photo)))
                rows.append(row)
            except PhotoError:
                continue  # its row stays 0
        if rows:
            made[rows] = inference.embed(encoder, np.stack(pixels), run.config.machine.precision, device)
    with atomic_path(Path(path)) as temporary:
        np.save(temporary, made)


@lru_cache(maxsize=1)
def _opened(inputs: Inputs) -> tuple[Run, AerialSource | None, Reuse | None]:
    """Open what a worker needs; once for all its shards."""
    folder, *modules = inputs.plugins
    if folder not in sys.path:
        sys.path.append(folder)  # last, as where the build was started
    plugins.allow(*modules)
    settings = configuration.parse(yaml.safe_load(inputs.config), "the build's configuration")
    run = replace(Run.load(inputs.run), config=settings)
    source = open_source(inputs.aerial) if inputs.aerial is not None else None
    reuse = Reuse(Database.open(inputs.reuse)) if inputs.reuse is not None else None
    return run, source, reuse
