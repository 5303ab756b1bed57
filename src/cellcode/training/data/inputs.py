"""What the encoders are fed: augmented pixels, or cached features of augmented pixels when a part of them is frozen.

Both kinds draw a sample for photo indices, so that the loop does not know which regime it runs. What is drawn is a function of
the indices and the generator, wherever it is done: batches are made in a thread of their own, see `ahead`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn

from cellcode.config import Config
from cellcode.device import autocast, send
from cellcode.geography import distance
from cellcode.model.encoder import Encoder
from cellcode.progress import Meter
from cellcode.training.data import augmentation
from cellcode.training.data.tiles import CellTiles
from cellcode.training.loop.objective import Places
from cellcode.types import Float64, Int64, UInt8

CACHE_BATCH = 64


@dataclass(frozen=True)
class Sample:
    """Randomly changed images, or features of such, ready for an encoder.

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
        """Return the same in memory from which CUDA copies while the host goes on."""
        return Sample(self.inputs.pin_memory(), self.lat_deg, self.lon_deg, self.after)


class Inputs(Protocol):
    """A source of training samples for one encoder."""

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a randomly changed sample of each index."""


class Photos:
    """Photos as augmented pixels.

    Args:
        pixels: (N, H, W, 3) uint8.
        lat_deg, lon_deg: float64 (N,).
    """

    def __init__(self, pixels: UInt8, lat_deg: Float64, lon_deg: Float64, config: Config) -> None:
        self.pixels, self.lat_deg, self.lon_deg = pixels, lat_deg, lon_deg
        self.config = config

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw augmented photos (B, H, W, 3) float32."""
        images = augmentation.photos(torch.from_numpy(self.pixels[indices]), self.config.augmentation, random)
        return Sample(images, self.lat_deg[indices], self.lon_deg[indices])


class Tiles:
    """Tiles around photos, moved and turned at random, each of a date drawn at random where the store keeps several.

    Args:
        store: surroundings of the photos' cells, and of others for tiles from anywhere.
        lat_deg, lon_deg: float64 (N,), positions of the photos.
    """

    def __init__(self, store: CellTiles, lat_deg: Float64, lon_deg: Float64, config: Config) -> None:
        self.store, self.lat_deg, self.lon_deg = store, lat_deg, lon_deg
        self.config = config
        self._rows = store.rows(lat_deg, lon_deg, config.levels.cell)

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a tile around each photo, as `TileStore.cut` gives it, then `training.random_tiles` from anywhere."""
        return self._with_strangers(self.around(indices, random), random)

    def around(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a tile around each photo; the positions are the tiles' centres."""
        return self._cut(self._rows[indices], self.lat_deg[indices], self.lon_deg[indices], random)

    def _with_strangers(self, around: Sample, random: Generator) -> Sample:
        """Append tiles from anywhere in the store."""
        count = self.config.training.random_tiles
        if not count:
            return around
        rows = torch.randint(len(self.store.cells), (count,), generator=random).numpy()
        more = self._cut(rows, self.store.lat_deg[rows], self.store.lon_deg[rows], random)
        return Sample(
            torch.cat([around.inputs, more.inputs]),
            np.concatenate([around.lat_deg, more.lat_deg]),
            np.concatenate([around.lon_deg, more.lon_deg]),
        )

    def _cut(self, rows: Int64, lat_deg: Float64, lon_deg: Float64, random: Generator) -> Sample:
        rule = self.config.augmentation
        moves = augmentation.uniform(len(rows), 3, random=random).double().numpy()
        reach_m = rule.tile_translation_m
        lat_deg, lon_deg = distance.offset(lat_deg, lon_deg, moves[:, 0] * reach_m, moves[:, 1] * reach_m)
        # Where nothing varies nothing is drawn: the draws that follow stay what they are.
        dates = self.store.dates
        date = torch.randint(dates, (len(rows),), generator=random).numpy() if dates > 1 else None
        tiles, _ = self.store.cut(rows, lat_deg, lon_deg, moves[:, 2] * rule.tile_rotation_deg, date)
        together = tiles.flatten(1, -3)  # the scales of a tile, one below the other, are in the same light
        lit = augmentation.light(together.permute(0, 3, 1, 2), rule.tile_exposure, rule.tile_white_balance, random)
        return Sample(lit.clamp(0, 255).permute(0, 2, 3, 1).reshape(tiles.shape), lat_deg, lon_deg)


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
                    drawn = inputs.draw(batch) if isinstance(inputs, Photos) else inputs.around(batch)
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

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a view of each sample."""
        view = torch.randint(len(self.features), (len(indices),), generator=random).numpy()
        features = torch.from_numpy(self.features[view, indices]).float()
        return Sample(features, self.lat_deg[view, indices], self.lon_deg[view, indices], self.start)

    def close(self) -> None:
        """Delete the file."""
        del self.features
        self.path.unlink(missing_ok=True)
