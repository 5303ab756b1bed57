"""How long this machine takes for a step of a configuration: measured on made-up photos and imagery, in a few seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image

from cellcode.aerial import AerialSource, Crop
from cellcode.config import Config
from cellcode.device import choose_device
from cellcode.geography import Region, s2
from cellcode.model import inference
from cellcode.photos import PhotoTable
from cellcode.photos.reading.image import PhotoSpec, read_pixels
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.planning.encoders import flop
from cellcode.planning.imagery import training_windows
from cellcode.training.data.inputs import Cached
from cellcode.training.loop.checkpoints import Identity
from cellcode.training.loop.trainer import Model, Trainer
from cellcode.training.setup.factory import make_inputs, make_model, make_sampler, make_table
from cellcode.types import Bools, Float64

MAX_PLACES = 50_000  # cells of the made-up model; in a larger region a step takes somewhat longer than what is measured
PHOTO_PX = (2048, 1536)
MEASURED_S = 2.0  # for the steps of the training; one step is taken at least after a first that does not count
MEASURED_FLOP = {"cuda": 2e14, "mps": 1e13, "cpu": 4e11}  # of the images of the batch that is measured, at most about
CROPS = 8


@dataclass(frozen=True)
class Pace:
    """Seconds and sizes of one of each.

    Attributes:
        photo_s: reading a photo, with all cores at it.
        freeze_s: passing a photo, and a tile where there is imagery, through the frozen blocks; 0 in the regime "full".
        step_s: a batch of the training; of a large network, as much longer than what was measured as the batch is larger.
        encode_s: embedding a tile.
        window_s, crop_s: cutting a training window and a tile out of imagery; 0 where imagery is fetched or there is none.
        frozen_bytes: what is kept of a photo and a tile after the frozen blocks.
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
        trains: whether this machine does; else nothing is passed through the encoders, `step_s` and `encode_s` are 0.

    Raises:
        MissingExtraError: the configuration's backbone needs a package that is not installed.
    """
    with TemporaryDirectory() as folder:
        trainer, freeze_s, frozen_bytes = _trainer(config, region, with_imagery, Path(folder))
        step_s = _steps(trainer) * config.training.batch_size / trainer.config.training.batch_size if trains else 0.0
        model = trainer.model
        return Pace(
            photo_s=_photo(config, Path(folder)) / (os.cpu_count() or 1),
            freeze_s=freeze_s,
            step_s=step_s,
            encode_s=_encode(config, model) if with_imagery and trains else 0.0,
            window_s=_cut(local, region, config, training=True) if local is not None else 0.0,
            crop_s=_cut(local, region, config, training=False) if local is not None else 0.0,
            frozen_bytes=frozen_bytes,
            ground_bytes=_bytes(model.ground),
            encoder_bytes=_bytes(model.ground) + (_bytes(model.aerial) if model.aerial is not None else 0),
        )


class _Plain(AerialSource):
    """Imagery of one colour everywhere, to train on while nothing is there."""

    def __init__(self, region: Region) -> None:
        self._region, self.identity = region, "plain"

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`."""
        return Crop(np.full((size_px, size_px, 3), 99, np.uint8), np.ones((size_px, size_px), bool), "")

    def footprint(self) -> Region:
        """See `AerialSource.footprint`."""
        return self._region

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """See `AerialSource.covers`."""
        return np.ones(np.shape(lat_deg), bool)


def _trainer(config: Config, region: Region, with_imagery: bool, folder: Path) -> tuple[Trainer, float, int]:
    """Return a trainer of one batch of photos, and the seconds and bytes of the frozen blocks for one of them."""
    rng = np.random.default_rng(0)
    every, device = _spread(region, config), choose_device(config.machine.device)
    model = make_model(config, every, with_imagery)
    count, whole = _measured(config, model, device), config.training
    strangers = -(-whole.random_tiles * count // whole.batch_size)
    one = {"cached_views": 1, "accumulation": 1, "batch_size": count, "random_tiles": strangers}
    once = config.model_copy(update={"training": config.training.model_copy(update=one)})
    batch = every.select(np.arange(once.training.batch_size) % len(every))
    size = (len(batch), config.photo.height_px, config.photo.width_px, 3)
    started = time.perf_counter()
    imagery: AerialSource | None = _Plain(region) if with_imagery else None
    pixels = rng.integers(0, 255, size, dtype=np.uint8)
    inputs = make_inputs(once, model.to(device), pixels, batch, imagery, folder)
    freeze_s, kept = 0.0, 0
    if config.training.regime != "full":
        freeze_s = (time.perf_counter() - started) / len(batch)
        kept = sum(each.features[0, 0].nbytes for each in (inputs.photos, inputs.tiles) if isinstance(each, Cached))
    sampler, identity, table = make_sampler(once, batch), Identity(config, "", None), make_table(config, every, device)
    return Trainer(once, model, inputs.photos, inputs.tiles, sampler, folder, identity, device, table), freeze_s, kept


def _measured(config: Config, model: Model, device: torch.device) -> int:
    """Return how many photos a batch has, or fewer where these would take minutes."""
    training = config.training
    places = training.photos_per_place
    each = flop(model.ground, config.photo.height_px, config.photo.width_px)
    if model.aerial is not None:
        tiles = 1 / places + training.random_tiles / training.batch_size
        each += tiles * flop(model.aerial, config.tile.size_px, config.tile.size_px)
    few = max(2, round(MEASURED_FLOP.get(device.type, 4e11) / (3 * each * places))) * places
    return min(training.batch_size, few)


def _spread(region: Region, config: Config) -> PhotoTable:
    """Return photos that are not there, at the middle of prototype cells all over the region."""
    lat, lon = _places(region, config.levels.prototype)
    rows = {name: [None] * len(lat) for name in SCHEMA.names} | {
        "file": [""] * len(lat), "lat_deg": lat, "lon_deg": lon, "split": ["train"] * len(lat), "source": [""] * len(lat),
        "width_px": [0] * len(lat), "height_px": [0] * len(lat),
    }  # fmt: skip
    return PhotoTable(pa.Table.from_pydict(rows, schema=SCHEMA), Path())


def _places(region: Region, level: int) -> tuple[Float64, Float64]:
    """Return the middles of cells of a level, of coarser ones in a large region."""
    while region.count_estimate(level) > MAX_PLACES:
        level -= 1
    return s2.cell_centers(region.cells(level))


def _steps(trainer: Trainer) -> float:
    """Return the median of a few steps."""
    trainer.model.train()
    trainer.step(0)
    taken: list[float] = []
    until = time.perf_counter() + MEASURED_S
    while not taken or time.perf_counter() < until:
        taken.append(_seconds(lambda: trainer.step(0)))
    return float(np.median(taken))


def _photo(config: Config, folder: Path) -> float:
    """Return the seconds that a photo as services send it takes on one core."""
    noise = np.random.default_rng(0).integers(0, 255, (PHOTO_PX[1] // 8, PHOTO_PX[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(PHOTO_PX, Image.Resampling.BICUBIC).save(folder / "photo.jpg", quality=85)
    photo = config.photo
    return _median(lambda: read_pixels(folder / "photo.jpg", PhotoSpec.of(photo)))


def _encode(config: Config, model: Model) -> float:
    """Return the seconds that embedding a tile takes."""
    assert model.aerial is not None
    scales, size = len(config.tile.scales), config.tile.size_px
    device, encoder = choose_device(config.machine.device), model.aerial.eval()
    few = max(2, round(MEASURED_FLOP.get(device.type, 4e11) / (4 * flop(encoder, size, size))))  # it is done four times
    count = min(config.build.batch_size, 64, few)
    tiles = np.zeros((count, size, size, 3) if scales == 1 else (count, scales, size, size, 3), np.uint8)
    return _median(lambda: inference.embed(encoder, tiles, config.machine.precision, device, count)) / count


def _cut(source: AerialSource, region: Region, config: Config, training: bool) -> float:
    """Return the seconds that the imagery around a cell takes, at every scale; cells next to each other, as they are read."""
    lat, lon = _places(region, config.levels.cell)
    covered = np.flatnonzero(source.covers(lat, lon))
    if not len(covered):
        return 0.0
    tile = config.tile
    squares = [(window.side_m, window.side_px) for window in training_windows(config)]
    squares = squares if training else [(tile.size_m * scale, tile.size_px) for scale in tile.scales]
    rows = covered[len(covered) // 2 :][:CROPS]

    def cut() -> None:
        for row in rows:
            for size_m, size_px in squares:
                source.read(float(lat[row]), float(lon[row]), size_m, size_px)

    return _seconds(cut) / len(rows)


def _median(work: Callable[[], object]) -> float:
    """Seconds of the second to the fourth time."""
    return float(np.median([_seconds(work) for _ in range(4)][1:]))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
