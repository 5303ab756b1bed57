"""The photos of a training: the protocol, and the photos of a table, which are all decoded before the first step."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels
from cellcode.runs import CellFacts
from cellcode.training.data.hard_batches import HardBatches
from cellcode.training.data.inputs import CachedInputs, Inputs, PhotoArrays, PhotoInputs, TileInputs
from cellcode.training.data.sampling import PlaceSampler, Sampler
from cellcode.training.data.tiles import CellTiles
from cellcode.types import Float64, Ids, UInt8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Feed:
    """What feeds the loop: which photos make a batch, and where samples of photos and tiles come from."""

    sampler: Sampler
    photos: Inputs
    tiles: Inputs | None = None


class TrainingPhotos(ABC):
    """Photos to train on.

    Attributes:
        noun: what the positions are of, for messages.
        lat_deg, lon_deg: float64 (N,), positions of the photos or of the cells that hold them; cells are all that matters.
    """

    noun: ClassVar[str]
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
        """Set up the sampler and the inputs of the encoders.

        Args:
            store: tiles of the photos' cells; None without imagery.
            cache: a folder for features of frozen blocks.
        """

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
        feed = Feed(self.sampler(config), PhotoInputs(arrays, config))
        if store is not None:
            feed = replace(feed, tiles=TileInputs(store, arrays, config))
        if config.training.regime == "full":
            return feed
        photos = CachedInputs.frozen(feed.photos, len(self), ground, config, cache / "photos.npy")
        if feed.tiles is None or aerial is None:
            return replace(feed, photos=photos)
        tiles = CachedInputs.frozen(feed.tiles, len(self), aerial, config, cache / "tiles.npy")
        return replace(feed, photos=photos, tiles=tiles)

    def sampler(self, config: Config) -> PlaceSampler:
        """Return batches of photos that share a cell of the database."""
        cells, rule = s2.cell_ids(self.lat_deg, self.lon_deg, config.levels.cell), config.training
        prototypes = np.unique(s2.parents(cells, config.levels.prototype), return_inverse=True)[1]
        return PlaceSampler(
            cells.view(np.int64),
            rule.batch_size,
            rule.photos_per_place,
            rule.seed,
            rule.sampling_exponent,
            HardBatches.of(config),
            prototypes,
        )


def decode(table: PhotoTable, config: Config, description: str) -> tuple[UInt8, PhotoTable]:
    """Decode photos; those that can no longer be read are left out and counted.

    Raises:
        InputError: none can be read.
    """
    pixels, failures = load_pixels(table.files, config.photo, description=description)
    if failures:
        first = next(iter(failures.values()))
        collectives.warn(logger, f"{len(failures)} of {len(table)} photos left out; the first: {first}")
        good = np.setdiff1d(np.arange(len(table)), list(failures))
        if not len(good):
            raise InputError(f"none of the {len(table)} photos can be read; the first: {first}")
        pixels, table = pixels[good], table.select(good)
    return pixels, table
