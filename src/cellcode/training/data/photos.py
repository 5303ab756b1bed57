"""The photos of a training: those of a table, which are all decoded before the first step, or packed ones.

Packed photos are read when a batch needs them; the facts that a training needs of all of them, from one shard at a time.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.errors import InputError, UsageError
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoError, PhotoTable
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.photos.reading.pixels import load_pixels
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.runs import CellFacts
from cellcode.training.data.inputs import CachedInputs, Inputs, PhotoArrays, PhotoInputs, TileInputs
from cellcode.training.data.sampling import HardBatches, PlaceSampler, Sampler
from cellcode.training.data.schedule import Cells, Schedule
from cellcode.training.data.stream import Stream
from cellcode.training.data.tiles import CellTiles
from cellcode.types import Float64, Ids, UInt8

logger = logging.getLogger(__name__)
MOST_VALIDATION = 20_000  # validation photos taken out of their shards; enough for every number they fit
_MERGED = 64  # shards whose facts are gathered before they are summed


@dataclass(frozen=True)
class Feed:
    """What feeds the loop: which photos make a batch, and where samples of photos and tiles come from."""

    sampler: Sampler
    photos: Inputs
    tiles: Inputs | None = None


class TrainingPhotos(ABC):
    """Photos to train on. Positions (N,) are theirs or of the cells that hold them; cells are all that matters."""

    noun: ClassVar[str]  # what the positions are of, for messages
    lat_deg: Float64
    lon_deg: Float64

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of photos."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A digest of which photos these are and where they were taken."""

    @abstractmethod
    def cell_facts(self, level: int) -> CellFacts:
        """Count the photos and capture dates of each cell of a level."""

    @abstractmethod
    def distinct(self, column: str) -> list[str]:
        """Return the distinct values of the column "licence" or "attribution", sorted."""

    @abstractmethod
    def feed(
        self, config: Config, ground: Encoder, aerial: Encoder | None, store: CellTiles | None, cache: Path
    ) -> Feed:
        """Set up the sampler and the inputs of the encoders; `cache` is a folder for features of frozen blocks."""

    def read(self, config: Config) -> TrainingPhotos:
        """Return the photos that can be read, decoded if all of them are held in memory."""
        return self

    def cells(self, level: int) -> Ids:
        """Return the cells of a level that have photos, uint64, sorted."""
        return np.unique(s2.cell_ids(self.lat_deg, self.lon_deg, level))


class TablePhotos(TrainingPhotos):
    """The photos of a table; `pixels` (N, H, W, 3) uint8 once they are read."""

    noun = "training photos"

    def __init__(self, table: PhotoTable, pixels: UInt8 | None = None) -> None:
        self.table, self.pixels = table, pixels
        self.lat_deg, self.lon_deg = table.lat_deg, table.lon_deg

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.table)

    @property
    def digest(self) -> str:
        """See `TrainingPhotos`."""
        files = "\n".join(str(name) for name in self.table.column("file")).encode()
        return hashlib.sha256(files + self.lat_deg.tobytes() + self.lon_deg.tobytes()).hexdigest()[:16]

    def cell_facts(self, level: int) -> CellFacts:
        """See `TrainingPhotos`."""
        return CellFacts.of_photos(self.lat_deg, self.lon_deg, self.table.captured_at, level)

    def distinct(self, column: str) -> list[str]:
        """See `TrainingPhotos`."""
        return sorted({str(value) for value in self.table.column(column) if value is not None})

    def read(self, config: Config) -> TablePhotos:
        """Decode the photos; see `decode`."""
        pixels, table = decode(self.table, config, "reading training photos")
        return TablePhotos(table, pixels)

    def feed(
        self, config: Config, ground: Encoder, aerial: Encoder | None, store: CellTiles | None, cache: Path
    ) -> Feed:
        """See `TrainingPhotos`; features of blocks that the regime freezes are cached."""
        assert self.pixels is not None  # `read` comes first
        arrays = PhotoArrays(self.pixels, self.lat_deg, self.lon_deg)
        photos: Inputs = PhotoInputs(arrays, config)
        tiles: Inputs | None = TileInputs(store, arrays, config) if store is not None else None
        if config.training.regime != "full":
            photos = CachedInputs.frozen(photos, len(self), ground, config, cache / "photos.npy")
            if tiles is not None and aerial is not None:
                tiles = CachedInputs.frozen(tiles, len(self), aerial, config, cache / "tiles.npy")
        return Feed(self.sampler(config), photos, tiles)

    def sampler(self, config: Config) -> PlaceSampler:
        """Return batches of photos that share a cell of the database."""
        cells, rule = s2.cell_ids(self.lat_deg, self.lon_deg, config.levels.cell), config.training
        prototypes = np.unique(s2.parents(cells, config.levels.prototype), return_inverse=True)[1]
        rules = rule.batch_size, rule.photos_per_place, rule.seed, rule.sampling_exponent
        return PlaceSampler(cells.view(np.int64), *rules, HardBatches.of(config), prototypes)


def decode(table: PhotoTable, config: Config, description: str) -> tuple[UInt8, PhotoTable]:
    """Decode photos; those that can no longer be read are left out and counted; InputError if none can."""
    pixels, failures = load_pixels(table.files, config.photo, description=description)
    if failures:
        first = next(iter(failures.values()))
        collectives.warn(logger, f"{len(failures)} of {len(table)} photos left out; the first: {first}")
        good = np.setdiff1d(np.arange(len(table)), list(failures))
        if not len(good):
            raise InputError(f"none of the {len(table)} photos can be read; the first: {first}")
        pixels, table = pixels[good], table.select(good)
    return pixels, table


@dataclass(frozen=True)
class PackedTraining(TrainingPhotos):
    """The training photos of packed photos. Its size is that of the cells with photos, whose centres are its positions."""

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
        rules = training.batch_size, training.photos_per_place, training.seed, config.stream.window_shards
        process = collectives.rank(), collectives.world()
        schedule = Schedule(self.packed.shards("train"), *rules, *process, training.hard_group_size)
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
    shards, damaged, made = packed.shards(split), 0, [SCHEMA.empty_table()]
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
    loaded = packed.load(split, name)
    (folder / part).mkdir(parents=True, exist_ok=True)
    members = loaded.index["member"][:most].tolist()
    files: dict[int, str] = {}  # by row
    for row, member in enumerate(members):
        file = Path(part, member)
        with suppress(PhotoError):
            (folder / file).write_bytes(loaded.image(row))
            files[row] = file.as_posix()
    rows = packed.rows(split, name).take(pa.array(list(files), pa.int64()))
    column = pa.array(list(files.values()), pa.string())
    return rows.set_column(0, SCHEMA.field("file"), column), len(members) - len(files)
