"""How long this machine takes for one of each: a photo, a step, a tile, a crop. Measured on random pixels, in a few seconds."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from cellcode.aerial import AerialSource
from cellcode.config import Config
from cellcode.device import choose_device
from cellcode.geography import Region
from cellcode.model import inference
from cellcode.model.encoder import Encoder
from cellcode.photos.reading.image import PhotoSpec, read_pixels
from cellcode.planning import trial
from cellcode.planning.encoders import flop
from cellcode.planning.imagery import training_windows
from cellcode.training.loop.trainer import Trainer

PHOTO_PX = (2048, 1536)
MEASURED_S = 2.0  # for the steps of the training; at least one is taken after a first that does not count
CROPS = 8


@dataclass(frozen=True)
class Pace:
    """Seconds and sizes of one of each.

    Attributes:
        photo_s: reading a photo, with all cores.
        freeze_s: passing a photo, and a tile where there is imagery, through the frozen blocks; 0 in the regime "full".
        step_s: a batch of the training; of a large network, extrapolated from a smaller batch.
        encode_s: embedding a tile.
        window_s, crop_s: cutting a training window and a tile out of imagery; 0 where imagery is fetched or there is none.
        frozen_bytes: features kept of a photo and a tile after the frozen blocks.
        ground_bytes, encoder_bytes: weights of the ground encoder and of both.
    """

    photo_s: float
    freeze_s: float
    step_s: float
    encode_s: float
    window_s: float
    crop_s: float
    frozen_bytes: int
    ground_bytes: int
    encoder_bytes: int


def measure(
    config: Config, region: Region, with_imagery: bool, local: AerialSource | None, trains: bool = True
) -> Pace:
    """Take a few steps of a training and cut a few crops.

    Args:
        with_imagery: whether there will be an aerial encoder.
        local: imagery on this machine, to cut crops from.
        trains: whether this machine trains; otherwise no steps are taken, and `step_s` and `encode_s` are 0.

    Raises:
        MissingExtraError: the configuration's backbone needs a package that is not installed.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        trainer, freeze_s = trial.trainer(config, region, with_imagery, folder)
        model, tile, batch = trainer.model, config.tile, trainer.config.training.batch_size
        windows = [(window.side_m, window.side_px) for window in training_windows(config)]
        crops = [(tile.size_m * scale, tile.size_px) for scale in tile.scales]
        return Pace(
            photo_s=_photo(config, folder) / (os.cpu_count() or 1),
            freeze_s=freeze_s,
            step_s=_steps(trainer) * config.training.batch_size / batch if trains else 0.0,
            encode_s=_encode(config, model.aerial) if model.aerial is not None and trains else 0.0,
            window_s=_cut(local, region, config, windows) if local is not None else 0.0,
            crop_s=_cut(local, region, config, crops) if local is not None else 0.0,
            frozen_bytes=sum(each.cached_bytes for each in (trainer.photos, trainer.tiles) if each is not None),
            ground_bytes=_bytes(model.ground),
            encoder_bytes=_bytes(model.ground) + (_bytes(model.aerial) if model.aerial is not None else 0),
        )


def _steps(trainer: Trainer) -> float:
    """Return the median seconds of a few steps."""
    trainer.model.train()
    trainer.step(0)
    taken: list[float] = []
    until = time.perf_counter() + MEASURED_S
    while not taken or time.perf_counter() < until:
        taken.append(_seconds(lambda: trainer.step(0)))
    return float(np.median(taken))


def _photo(config: Config, folder: Path) -> float:
    """Return the seconds that decoding a photo of the usual size takes on one core."""
    noise = np.random.default_rng(0).integers(0, 255, (PHOTO_PX[1] // 8, PHOTO_PX[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(PHOTO_PX, Image.Resampling.BICUBIC).save(folder / "photo.jpg", quality=85)
    spec = PhotoSpec.of(config.photo)
    return _median(lambda: read_pixels(folder / "photo.jpg", spec))


def _encode(config: Config, encoder: Encoder) -> float:
    """Return the seconds that embedding a tile takes."""
    scales, size = config.tile.scales, config.tile.size_px
    device = choose_device(config.machine.device)
    affordable = max(2, round(trial.affordable_flop(device) / (4 * flop(encoder.eval(), size, size))))  # four times
    count = min(config.build.batch_size, 64, affordable)
    tiles = np.zeros((count, *([len(scales)] if len(scales) > 1 else []), size, size, 3), np.uint8)
    return _median(lambda: inference.embed(encoder, tiles, config.machine.precision, device, count)) / count


def _cut(source: AerialSource, region: Region, config: Config, squares: list[tuple[float, int]]) -> float:
    """Return the seconds that squares (metres, pixels) around a cell take; of neighbouring cells, as a build reads them."""
    lat, lon = trial.places(region, config.levels.cell)
    covered = np.flatnonzero(source.covers(lat, lon))
    if not len(covered):
        return 0.0
    rows = covered[len(covered) // 2 :][:CROPS]

    def cut() -> None:
        for row in rows:
            for size_m, size_px in squares:
                source.read(float(lat[row]), float(lon[row]), size_m, size_px)

    return _seconds(cut) / len(rows)


def _median(work: Callable[[], object]) -> float:
    """Return the median seconds of the second to the fourth run."""
    return float(np.median([_seconds(work) for _ in range(4)][1:]))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
