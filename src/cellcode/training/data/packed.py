"""Packed photos in training: the facts that a training needs of all of them, read from the shards one at a time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.errors import InputError, UsageError
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoError, PhotoTable
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.runs import CellFacts
from cellcode.training.data.hard_batches import HardBatches
from cellcode.training.data.inputs import PhotoInputs, TileInputs
from cellcode.training.data.photos import Feed, TrainingPhotos
from cellcode.training.data.schedule import Cells, Schedule
from cellcode.training.data.stream import Stream
from cellcode.training.data.tiles import CellTiles
from cellcode.types import Float64

logger = logging.getLogger(__name__)
MOST_VALIDATION = 20_000  # validation photos taken out of their shards; enough for every number they fit
_MERGED = 64  # shards whose facts are gathered before they are summed


@dataclass(frozen=True)
class PackedTraining(TrainingPhotos):
    """The training photos of packed photos. Its size is that of the cells with photos, not that of the photos.

    Attributes:
        facts: of the cells of `levels.cell`.
        lat_deg, lon_deg: centres of those cells, float64 (C,).
    """

    noun = "cells with training photos"

    packed: PackedPhotos
    facts: CellFacts
    lat_deg: Float64
    lon_deg: Float64

    def __len__(self) -> int:
        """Return the number of photos."""
        return int(self.facts.photos.sum(dtype=np.int64))

    @classmethod
    def of(cls, packed: PackedPhotos, config: Config) -> PackedTraining:
        """Read the positions of all training photos.

        Raises:
            InputError: there are none.
            UsageError: the regime needs the features of all photos in a cache.
        """
        if config.training.regime != "full":
            raise UsageError(
                "packed photos are trained on with training.regime full; others keep features of every photo"
            )
        if not packed.manifest["splits"].get("train"):
            raise InputError(f"{packed.place} has no photos in its split 'train'; pack a table that has")
        facts = cell_facts(packed, "train", config.levels.cell)
        return cls(packed, facts, *s2.cell_centers(facts.ids))

    @property
    def digest(self) -> str:
        """See `TrainingPhotos`."""
        return self.packed.identity

    def cell_facts(self, level: int) -> CellFacts:
        """See `TrainingPhotos`; the level is that of `facts`."""
        return self.facts

    def distinct(self, column: str) -> list[str]:
        """See `TrainingPhotos`."""
        return list(self.packed.manifest[f"{column}s"])

    def feed(
        self, config: Config, ground: Encoder, aerial: Encoder | None, store: CellTiles | None, cache: Path
    ) -> Feed:
        """See `TrainingPhotos`; photos are read when a batch needs them."""
        stream = self.stream(config)
        tiles = TileInputs(store, stream, config) if store is not None else None
        return Feed(stream, PhotoInputs(stream, config), tiles)

    def stream(self, config: Config) -> Stream:
        """Open the stream of this process."""
        training = config.training
        schedule = Schedule(
            self.packed.shards("train"),
            training.batch_size,
            training.photos_per_place,
            training.seed,
            config.stream.window_shards,
            collectives.rank(),
            collectives.world(),
            training.hard_group_size,
        )
        cells, hard = None, HardBatches.of(config)
        if hard is not None or training.sampling_exponent != 1:
            cells = Cells.of(self.facts.ids, self.facts.photos, training.sampling_exponent, config.levels.prototype)
        return Stream(self.packed, "train", config, schedule, cells, hard)


def cell_facts(packed: PackedPhotos, split: str, level: int) -> CellFacts:
    """Count the photos of a split and their capture days per cell, as `CellFacts.of_photos` does for all at once."""
    gathered: list[pa.Table] = []
    for name in packed.shards(split).names:
        rows = packed.rows(split, name, ["lat_deg", "lon_deg", "captured_at"])
        cell = s2.cell_ids(rows.column("lat_deg").to_numpy(), rows.column("lon_deg").to_numpy(), level)
        day = rows.column("captured_at").to_numpy(zero_copy_only=False).astype("datetime64[D]")
        gathered.append(pa.table({"cell": cell, "day": day, "photos": np.ones(len(cell), np.int64)}))
        if len(gathered) > _MERGED:
            gathered = [_summed(gathered)]
    days = _summed(gathered).group_by("cell")
    found = days.aggregate([("photos", "sum"), ("day", "count"), ("day", "min"), ("day", "max")]).sort_by("cell")
    first, last = (found[f"day_{end}"].to_numpy().astype("datetime64[D]") for end in ("min", "max"))
    photos, dates = (found[name].to_numpy().astype(np.int32) for name in ("photos_sum", "day_count"))
    return CellFacts(found["cell"].to_numpy(), photos, dates, first, last)


def _summed(parts: list[pa.Table]) -> pa.Table:
    """Sum the photos of the same cell and day; an unknown day is null."""
    summed = pa.concat_tables(parts).group_by(["cell", "day"]).aggregate([("photos", "sum")])
    return summed.select(["cell", "day", "photos_sum"]).rename_columns(["cell", "day", "photos"])


def unpack(packed: PackedPhotos, split: str, folder: Path, most: int = MOST_VALIDATION) -> PhotoTable:
    """Write the images of the first photos of a split, which are in random order, into a folder; return their table.

    Each part contributes its share. Damaged photos are left out and counted.
    """
    shards, damaged = packed.shards(split), 0
    made = [SCHEMA.empty_table()]
    part_of = np.array([name.rpartition("/")[0] for name in shards.names])
    for part in packed.parts:
        own = np.flatnonzero(part_of == part)
        left = round(most * int(shards.photos[own].sum()) / max(1, int(shards.photos.sum())))
        for number in own.tolist():
            if left <= 0:
                break
            rows, lost = _unpack_shard(packed, split, shards.names[number], folder, part, left)
            made.append(rows)
            left, damaged = left - len(rows), damaged + lost
    if damaged:
        collectives.warn(logger, f"{damaged} packed photos of the split {split} are damaged and left out")
    return PhotoTable(pa.concat_tables(made).cast(SCHEMA), folder)


def _unpack_shard(
    packed: PackedPhotos, split: str, name: str, folder: Path, part: str, most: int
) -> tuple[pa.Table, int]:
    """Write the first images of a shard to folder/part; return their rows and how many were damaged."""
    loaded, rows = packed.load(split, name), packed.rows(split, name)
    (folder / part).mkdir(parents=True, exist_ok=True)
    kept: list[int] = []
    files: list[str] = []
    damaged = 0
    for row, member in enumerate(loaded.index["member"][:most].tolist()):
        file = Path(part, member)
        try:
            (folder / file).write_bytes(loaded.image(row))
        except PhotoError:
            damaged += 1
            continue
        kept.append(row)
        files.append(file.as_posix())
    return rows.take(pa.array(kept, pa.int64())).set_column(
        0, SCHEMA.field("file"), pa.array(files, pa.string())
    ), damaged
