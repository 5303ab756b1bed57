"""What the encoders are fed: augmented pixels, or cached features of augmented pixels when a part of them is frozen.

All kinds draw samples for photo indices, so that the loop does not know which regime it runs. A draw is a function of the
indices and the generator, wherever it is done: batches are made in a thread of their own, see `prefetch`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn

from cellcode.config import Config
from cellcode.device import autocast, send
from cellcode.distributed import collectives
from cellcode.geography import distance
from cellcode.model.encoder import Encoder
from cellcode.model.places import Places
from cellcode.progress import Meter
from cellcode.training.data import augmentation
from cellcode.training.data.tiles import CellTiles
from cellcode.types import Float64, Int64, UInt8

CACHE_BATCH = 64


@dataclass(frozen=True)
class Sample:
    """Augmented images, or features of such, ready for an encoder.

    Attributes:
        inputs: (B, ...), on the CPU.
        lat_deg, lon_deg: float64 (B,).
        after: the blocks of the encoder that made the features; None: `inputs` are images.
    """

    inputs: Tensor
    lat_deg: Float64
    lon_deg: Float64
    after: int | None = None

    def embed(self, encoder: nn.Module, device: torch.device) -> Places:
        """Embed with an encoder on a device."""
        return Places(encoder(send(self.inputs, device), after=self.after), self.lat_deg, self.lon_deg)

    def pinned(self) -> Sample:
        """Return the same in pinned memory, from which CUDA copies while the host continues."""
        return Sample(self.inputs.pin_memory(), self.lat_deg, self.lon_deg, self.after)


class PhotoReader(Protocol):
    """Photos by index: all of them in memory, or those of the batch that a stream has read last."""

    def pixels_of(self, indices: Int64) -> UInt8:
        """Return pixels (B, H, W, 3)."""

    def positions_of(self, indices: Int64) -> tuple[Float64, Float64]:
        """Return latitudes and longitudes in degrees, (B,) each."""


@dataclass(frozen=True)
class PhotoArrays:
    """Photos in memory: pixels (N, H, W, 3) uint8 and positions in degrees, float64 (N,)."""

    pixels: UInt8
    lat_deg: Float64
    lon_deg: Float64

    def pixels_of(self, indices: Int64) -> UInt8:
        """See `PhotoReader`."""
        return self.pixels[indices]

    def positions_of(self, indices: Int64) -> tuple[Float64, Float64]:
        """See `PhotoReader`."""
        return self.lat_deg[indices], self.lon_deg[indices]


class Inputs(ABC):
    """A source of training samples for one encoder.

    Attributes:
        cached_bytes: bytes per view of a photo in a file; 0: nothing is cached.
    """

    cached_bytes: int = 0

    @abstractmethod
    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw one augmented sample per index; with tiles, random negatives follow."""

    def of_photos(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw one augmented sample per index, without random negatives."""
        return self.draw(indices, random)


class PhotoInputs(Inputs):
    """Photos as augmented pixels."""

    def __init__(self, photos: PhotoReader, config: Config) -> None:
        self.photos, self.config = photos, config

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw augmented photos (B, H, W, 3) float32."""
        pixels = torch.from_numpy(self.photos.pixels_of(indices))
        images = augmentation.photos(pixels, self.config.augmentation, random)
        return Sample(images, *self.photos.positions_of(indices))


class TileInputs(Inputs):
    """Tiles around photos, translated and rotated at random, each of a random date where the store has several.

    Args:
        store: imagery around the photos' cells, and around others for random negatives.
        photos: whose positions the tiles are cut around.
        config: `training.random_tiles` of it are drawn by all processes together.
    """

    def __init__(self, store: CellTiles, photos: PhotoReader, config: Config) -> None:
        self.store, self.photos, self.config = store, photos, config
        self.random_tiles = -(-config.training.random_tiles // collectives.world())

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a tile around each photo, see `CellTiles.cut`, then this process's share of the random negatives."""
        around = self.of_photos(indices, random)
        if not self.random_tiles:
            return around
        rows = torch.randint(len(self.store.cells), (self.random_tiles,), generator=random).numpy()
        more = self._cut(rows, self.store.lat_deg[rows], self.store.lon_deg[rows], random)
        return Sample(
            torch.cat([around.inputs, more.inputs]),
            np.concatenate([around.lat_deg, more.lat_deg]),
            np.concatenate([around.lon_deg, more.lon_deg]),
        )

    def of_photos(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a tile around each photo; the positions are the tiles' centres."""
        lat_deg, lon_deg = self.photos.positions_of(indices)
        return self._cut(self.store.rows(lat_deg, lon_deg, self.config.levels.cell), lat_deg, lon_deg, random)

    def _cut(self, rows: Int64, lat_deg: Float64, lon_deg: Float64, random: Generator) -> Sample:
        rule = self.config.augmentation
        moves = augmentation.uniform(len(rows), 3, random=random).double().numpy()
        reach_m = rule.tile_translation_m
        lat_deg, lon_deg = distance.offset(lat_deg, lon_deg, moves[:, 0] * reach_m, moves[:, 1] * reach_m)
        # With one date nothing is drawn, so that the draws that follow are those of a source without dates.
        dates = self.store.dates
        date = torch.randint(dates, (len(rows),), generator=random).numpy() if dates > 1 else None
        tiles, _ = self.store.cut(rows, lat_deg, lon_deg, moves[:, 2] * rule.tile_rotation_deg, date)
        together = tiles.flatten(1, -3)  # the scales of a tile, one below the other, are in the same light
        lit = augmentation.light(together.permute(0, 3, 1, 2), rule.tile_exposure, rule.tile_white_balance, random)
        return Sample(lit.clamp(0, 255).permute(0, 2, 3, 1).reshape(tiles.shape), lat_deg, lon_deg)


class CachedInputs(Inputs):
    """Features at the end of a frozen prefix, for several augmented views of every sample, in a memory-mapped file.

    Args:
        inputs: where the views are drawn from.
        count: number of samples N.
        encoder: its blocks before `start` are frozen.
        views: augmented copies of each sample.
        path: the file; it can be deleted after training.
    """

    def __init__(
        self, inputs: Inputs, count: int, encoder: Encoder, start: int, views: int, path: Path, precision: str
    ) -> None:
        self.start, self.path = start, path
        device = encoder.projection.weight.device
        encoder.eval()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lat_deg = np.empty((views, count))
        self.lon_deg = np.empty((views, count))
        features = None
        with Meter("caching features of the frozen part", views * count) as meter, torch.inference_mode():
            for view in range(views):
                for first in range(0, count, CACHE_BATCH):
                    batch = np.arange(first, min(first + CACHE_BATCH, count))
                    drawn = inputs.of_photos(batch)
                    self.lat_deg[view, batch], self.lon_deg[view, batch] = drawn.lat_deg, drawn.lon_deg
                    with autocast(precision, device):
                        made = encoder.prefix(drawn.inputs.to(device), start).half().cpu().numpy()
                    if features is None:
                        shape = (views, count, *made.shape[1:])
                        features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
                    features[view, batch] = made
                    meter.advance(len(batch))
        assert features is not None
        self.features = features
        self.cached_bytes = features[0, 0].nbytes

    @classmethod
    def frozen(cls, inputs: Inputs, count: int, encoder: Encoder, config: Config, path: Path) -> CachedInputs:
        """Freeze the first blocks of an encoder as the regime requires, and cache their features of every sample."""
        training, blocks = config.training, len(encoder.backbone.blocks)
        start = blocks if training.regime == "frozen" else max(0, blocks - training.last_blocks)
        encoder.freeze(start)
        return cls(inputs, count, encoder, start, training.cached_views, path, config.machine.precision)

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a view of each sample."""
        view = torch.randint(len(self.features), (len(indices),), generator=random).numpy()
        features = torch.from_numpy(self.features[view, indices]).float()
        return Sample(features, self.lat_deg[view, indices], self.lon_deg[view, indices], self.start)

    def close(self) -> None:
        """Delete the file."""
        del self.features
        self.path.unlink(missing_ok=True)
