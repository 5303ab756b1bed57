"""What the encoders are fed: augmented pixels, or cached features of augmented pixels when a part of them is frozen.

All kinds draw samples for photo indices, so that the loop does not know which regime it runs. A draw is a function of the
indices and the generator, wherever it is done: batches are made in a thread of their own, see `Prefetcher`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn

from cellcode.config import Config
from cellcode.device import autocast, send
from cellcode.distributed import collectives
from cellcode.files import new_array
from cellcode.geography import distance
from cellcode.model.encoder import Encoder
from cellcode.model.places import Places
from cellcode.progress import Meter
from cellcode.training.data import augmentation
from cellcode.training.data.tiles import CellTiles
from cellcode.types import Float64, Int64, UInt8

CACHE_BATCH = 64
PREFETCHED = 2  # batches that are prepared while one is trained on


@dataclass(frozen=True)
class Sample:
    """Augmented images (B, ...) on the CPU, or features of such after some blocks of the encoder, and their positions (B,)."""

    inputs: Tensor
    lat_deg: Float64
    lon_deg: Float64
    after: int | None = None

    def embed(self, encoder: nn.Module, device: torch.device) -> Places:
        """Embed with an encoder on a device."""
        return Places(encoder(send(self.inputs, device), after=self.after), self.lat_deg, self.lon_deg)

    def pinned(self) -> Sample:
        """Return the same in pinned memory, from which CUDA copies while the host continues."""
        return replace(self, inputs=self.inputs.pin_memory())


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
    """A source of training samples for one encoder; `cached_bytes` per view of a photo are kept in a file."""

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

    The store holds other cells too: `training.random_tiles` random negatives are drawn by all processes together.
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
        tiles, lat_deg = torch.cat([around.inputs, more.inputs]), np.concatenate([around.lat_deg, more.lat_deg])
        return Sample(tiles, lat_deg, np.concatenate([around.lon_deg, more.lon_deg]))

    def of_photos(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a tile around each photo; the positions are the tiles' centres."""
        lat_deg, lon_deg = self.photos.positions_of(indices)
        return self._cut(self.store.rows(lat_deg, lon_deg, self.config.levels.cell), lat_deg, lon_deg, random)

    def _cut(self, rows: Int64, lat_deg: Float64, lon_deg: Float64, random: Generator) -> Sample:
        rule, reach_m = self.config.augmentation, self.config.augmentation.tile_translation_m
        moves = augmentation.uniform(len(rows), 3, random=random).double().numpy()
        lat_deg, lon_deg = distance.offset(lat_deg, lon_deg, moves[:, 0] * reach_m, moves[:, 1] * reach_m)
        # With one date nothing is drawn, so that the draws that follow are those of a source without dates.
        dates = self.store.dates
        date = torch.randint(dates, (len(rows),), generator=random).numpy() if dates > 1 else None
        tiles, _ = self.store.cut(rows, lat_deg, lon_deg, moves[:, 2] * rule.tile_rotation_deg, date)
        together = tiles.flatten(1, -3)  # the scales of a tile, one below the other, are in the same light
        lit = augmentation.light(together.permute(0, 3, 1, 2), rule.tile_exposure, rule.tile_white_balance, random)
        return Sample(lit.clamp(0, 255).permute(0, 2, 3, 1).reshape(tiles.shape), lat_deg, lon_deg)


class CachedInputs(Inputs):
    """Features after the first `start` blocks, which are frozen, in a memory-mapped file.

    It holds several augmented `views` of each of `count` samples, and can be deleted after training.
    """

    def __init__(
        self, inputs: Inputs, count: int, encoder: Encoder, start: int, views: int, path: Path, precision: str
    ) -> None:
        self.start, self.path = start, path
        device = encoder.projection.weight.device
        encoder.eval()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lat_deg, self.lon_deg = np.empty((2, views, count))
        features = None
        with Meter("caching features of the frozen part", views * count) as meter, torch.inference_mode():
            for view, first in itertools.product(range(views), range(0, count, CACHE_BATCH)):
                batch = np.arange(first, min(first + CACHE_BATCH, count))
                drawn = inputs.of_photos(batch)
                self.lat_deg[view, batch], self.lon_deg[view, batch] = drawn.lat_deg, drawn.lon_deg
                with autocast(precision, device):
                    made = encoder.prefix(drawn.inputs.to(device), start).half().cpu().numpy()
                if features is None:
                    shape = (views, count, *made.shape[1:])
                    features = new_array(path, shape, np.float16)
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


@dataclass(frozen=True)
class Batch:
    """A process's share of a batch, numbered since the training began.

    Tiles are one per place, then `random_tiles` random negatives; None without imagery.
    """

    number: int
    indices: Int64
    photos: Sample
    tiles: Sample | None = None
    random_tiles: int = 0

    def pinned(self) -> Batch:
        """Return the same in pinned memory, from which CUDA copies while the host continues."""
        tiles = self.tiles.pinned() if self.tiles is not None else None
        return replace(self, photos=self.photos.pinned(), tiles=tiles)


class Prefetcher:
    """Prepares the batches that follow the one taken last in a thread of its own; on CUDA they are pinned.

    Torch, numpy and Pillow release the interpreter lock while they work, so that one thread reads, augments and cuts beside the
    training, and nothing is copied between processes. It hides that work where the encoders leave a core free, as on a GPU;
    where they use all of them it neither helps nor harms. Each batch has a generator with a seed of its own, so that what is
    drawn does not depend on when.

    Args:
        make: makes the batch of a number; called in rising order unless another number is taken.
        stop: batches from this number on are made only when they are taken.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device, stop: int) -> None:
        self._make, self._device, self._stop = make, device, stop
        self._pending: dict[int, Future[Batch]] = {}
        threads = torch.get_num_threads()
        # On a CPU the encoders use all cores: as many threads again would only wait for each other.
        own = max(1, threads // 4) if device.type == "cpu" else threads
        self._maker = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (own,))
        self._maker.submit(torch.get_num_threads).result()
        torch.set_num_threads(threads)  # what a thread sets is also what threads that begin later get

    def take(self, number: int) -> Batch:
        """Return a batch, once, and begin those that follow it; raises whatever making it raised."""
        if number not in self._pending:
            for pending in self._pending.values():
                pending.cancel()
            self._pending = {}
        for each in (number, *range(number + 1, min(number + 1 + PREFETCHED, self._stop))):
            if each not in self._pending:
                self._pending[each] = self._maker.submit(self._ready, each)
        return self._pending.pop(number).result()

    def close(self) -> None:
        """End the thread."""
        self._maker.shutdown(cancel_futures=True)

    def _ready(self, number: int) -> Batch:
        batch = self._make(number)
        return batch.pinned() if self._device.type == "cuda" else batch
