"""What the encoders are fed: augmented pixels, or cached features of augmented pixels when a part of them is frozen.

Both kinds give a batch for photo indices and embed it, so that the loop does not know which regime it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cellcode.config import Config
from cellcode.geography import distance
from cellcode.model.encoder import Encoder
from cellcode.model.precision import autocast
from cellcode.progress import Meter
from cellcode.training import augment
from cellcode.training.objective import Places
from cellcode.training.tiles import TileStore

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
CACHE_BATCH = 64


class Inputs(Protocol):
    """A source of training samples for one encoder."""

    def embed(self, encoder: Encoder, indices: Indices) -> Places:
        """Embed a randomly changed sample of each index."""


class Photos:
    """Photos as augmented pixels.

    Args:
        pixels: (N, H, W, 3) uint8.
        lat_deg, lon_deg: float64 (N,).
    """

    def __init__(
        self, pixels: npt.NDArray[np.uint8], lat_deg: Float64, lon_deg: Float64, config: Config, device: torch.device
    ) -> None:
        self.pixels, self.lat_deg, self.lon_deg = pixels, lat_deg, lon_deg
        self.config, self.device = config, device

    def images(self, indices: Indices) -> tuple[Tensor, Float64, Float64]:
        """Draw augmented photos (B, H, W, 3) float32 and give their positions."""
        pixels = torch.from_numpy(self.pixels[indices])
        return augment.photos(pixels, self.config.augmentation), self.lat_deg[indices], self.lon_deg[indices]

    def embed(self, encoder: Encoder, indices: Indices) -> Places:
        """See `Inputs`."""
        images, lat_deg, lon_deg = self.images(indices)
        return Places(encoder(images.to(self.device)), lat_deg, lon_deg)


class Tiles:
    """Tiles around photos, moved and turned at random, each of a date drawn at random where the store keeps several.

    Args:
        store: surroundings of the photos' cells, and of others for tiles from anywhere.
        lat_deg, lon_deg: float64 (N,), positions of the photos.
    """

    def __init__(
        self, store: TileStore, lat_deg: Float64, lon_deg: Float64, config: Config, device: torch.device
    ) -> None:
        self.store, self.lat_deg, self.lon_deg = store, lat_deg, lon_deg
        self.config, self.device = config, device
        self._rows = store.rows(lat_deg, lon_deg, config.levels.cell)

    def images(self, indices: Indices) -> tuple[Tensor, Float64, Float64]:
        """Draw a tile around each photo, as `TileStore.cut` gives it, and give the tiles' centres."""
        return self._cut(self._rows[indices], self.lat_deg[indices], self.lon_deg[indices])

    def strangers(self, count: int) -> tuple[Tensor, Float64, Float64]:
        """Draw tiles from anywhere in the store."""
        rows = torch.randint(len(self.store.cells), (count,)).numpy()
        return self._cut(rows, self.store.lat_deg[rows], self.store.lon_deg[rows])

    def embed(self, encoder: Encoder, indices: Indices) -> Places:
        """See `Inputs`; `training.random_tiles` tiles from anywhere follow those of the indices."""
        images, lat_deg, lon_deg = self.images(indices)
        if count := self.config.training.random_tiles:
            more, more_lat_deg, more_lon_deg = self.strangers(count)
            images = torch.cat([images, more])
            lat_deg, lon_deg = np.concatenate([lat_deg, more_lat_deg]), np.concatenate([lon_deg, more_lon_deg])
        return Places(encoder(images.to(self.device)), lat_deg, lon_deg)

    def _cut(self, rows: Indices, lat_deg: Float64, lon_deg: Float64) -> tuple[Tensor, Float64, Float64]:
        random = self.config.augmentation
        moves = augment.uniform(len(rows), 3).double().numpy()
        reach_m = random.tile_translation_m
        lat_deg, lon_deg = distance.offset(lat_deg, lon_deg, moves[:, 0] * reach_m, moves[:, 1] * reach_m)
        # Where nothing varies nothing is drawn: the draws that follow stay what they are.
        date = torch.randint(self.store.dates, (len(rows),)).numpy() if self.store.dates > 1 else None
        tiles, _ = self.store.cut(rows, lat_deg, lon_deg, moves[:, 2] * random.tile_rotation_deg, date)
        together = tiles.flatten(1, -3)  # the scales of a tile, one below the other, are in the same light
        lit = augment.light(together.permute(0, 3, 1, 2), random.tile_exposure, random.tile_white_balance)
        return lit.clamp(0, 255).permute(0, 2, 3, 1).reshape(tiles.shape), lat_deg, lon_deg


class Cached:
    """Features at the end of a frozen prefix, for several augmented views of every sample, in a memory-mapped file.

    Args:
        inputs: where the views are drawn from.
        count: number of samples N.
        encoder: its blocks before `start` are frozen.
        views: augmented copies of each sample.
        path: the file; it can be deleted after training.
    """

    def __init__(
        self, inputs: Photos | Tiles, count: int, encoder: Encoder, start: int, views: int, path: Path, precision: str
    ) -> None:
        self.start, self.device, self.path = start, inputs.device, path
        encoder.eval()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lat_deg = np.empty((views, count))
        self.lon_deg = np.empty((views, count))
        features = None
        with Meter("caching features of the frozen part", views * count) as meter, torch.inference_mode():
            for view in range(views):
                for first in range(0, count, CACHE_BATCH):
                    batch = np.arange(first, min(first + CACHE_BATCH, count))
                    images, self.lat_deg[view, batch], self.lon_deg[view, batch] = inputs.images(batch)
                    with autocast(precision, self.device):
                        made = encoder.prefix(images.to(self.device), start).half().cpu().numpy()
                    if features is None:
                        shape = (views, count, *made.shape[1:])
                        features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
                    features[view, batch] = made
                    meter.advance(len(batch))
        assert features is not None
        self.features = features

    def embed(self, encoder: Encoder, indices: Indices) -> Places:
        """See `Inputs`; a sample's view is drawn at random."""
        view = torch.randint(len(self.features), (len(indices),)).numpy()
        features = torch.from_numpy(self.features[view, indices]).to(self.device).float()
        places = encoder.from_prefix(features, self.start)
        return Places(places, self.lat_deg[view, indices], self.lon_deg[view, indices])

    def close(self) -> None:
        """Delete the file."""
        del self.features
        self.path.unlink(missing_ok=True)
