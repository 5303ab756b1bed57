"""How long this machine takes for one of each: a photo, a step, a tile, a crop. Measured on random pixels, in a few seconds."""

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
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoTable
from cellcode.photos.reading.image import PhotoSpec, read_pixels
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.planning.material import training_windows
from cellcode.planning.step import flop
from cellcode.training.data.photos import TablePhotos
from cellcode.training.loop.checkpoints import Identity
from cellcode.training.loop.trainer import Model, Trainer, TrainingSetup
from cellcode.training.setup.factory import make_model, make_table, store_cells, tile_store
from cellcode.types import Bools, Float64

PHOTO_PX = (2048, 1536)
MEASURED_S = 2.0  # for the steps of the training; at least one is taken after a first that does not count
CROPS = 8
MAX_PLACES = 50_000  # cells with prototypes; in a larger region a step takes somewhat longer than what is measured
_FLOP = {"cuda": 2e14, "mps": 1e13, "cpu": 4e11}  # that a measurement may take on a device, so that it takes seconds


def make_trainer(config: Config, region: Region, with_imagery: bool, folder: Path) -> tuple[Trainer, float]:
    """Return a trainer of one batch, and the seconds that frozen blocks take for one of its photos; 0 if none are frozen.

    The batch is smaller than the configuration's where that would take minutes. Files go to `folder`.
    """
    device, everywhere = choose_device(config.machine.device), _photos(region, config)
    model = make_model(config, everywhere, with_imagery)
    config = _one_batch(config, _batch_size(config, model, device))
    rows = np.arange(config.training.batch_size) % len(everywhere)
    shape = (len(rows), config.photo.height_px, config.photo.width_px, 3)
    batch = TablePhotos(everywhere.table.select(rows), np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
    source = _Plain(region)
    store = tile_store(source, store_cells(batch, source, config), config, folder, None) if with_imagery else None
    model.to(device)
    started = time.perf_counter()
    feed = batch.feed(config, model.ground, model.aerial, store, folder)
    freeze_s = (time.perf_counter() - started) / len(batch) if config.training.regime != "full" else 0.0
    table = make_table(config, everywhere, device)
    return Trainer(TrainingSetup(config, model, feed, folder, Identity(config, "", None), device, table)), freeze_s


def places(region: Region, level: int) -> tuple[Float64, Float64]:
    """Return the centres of cells of a level, of coarser ones in a large region."""
    while region.count_estimate(level) > MAX_PLACES:
        level -= 1
    return s2.cell_centers(region.cells(level))


class _Plain(AerialSource):
    identity = "plain"

    def __init__(self, region: Region) -> None:
        self._region = region

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`."""
        return Crop(np.full((size_px, size_px, 3), 99, np.uint8), np.ones((size_px, size_px), bool))

    def footprint(self) -> Region:
        """See `AerialSource.footprint`."""
        return self._region

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """Return that all points have imagery."""
        return np.ones(np.shape(lat_deg), bool)


def _photos(region: Region, config: Config) -> TablePhotos:
    """Return photos without files, at the centres of prototype cells all over the region."""
    same = {"file": "", "split": "train", "source": "", "width_px": 0, "height_px": 0}
    lat, lon = places(region, config.levels.prototype)
    rows = [{"lat_deg": a, "lon_deg": b, **same} for a, b in zip(lat.tolist(), lon.tolist(), strict=True)]
    return TablePhotos(PhotoTable(pa.Table.from_pylist(rows, schema=SCHEMA), Path()))


def _batch_size(config: Config, model: Model, device: torch.device) -> int:
    training, per_place = config.training, config.training.photos_per_place
    each = flop(model.ground, config.photo.height_px, config.photo.width_px)
    if model.aerial is not None:
        tiles = 1 / per_place + training.random_tiles / training.batch_size
        each += tiles * flop(model.aerial, config.tile.size_px, config.tile.size_px)
    return min(training.batch_size, max(2, round(_FLOP.get(device.type, 4e11) / (3 * each * per_place))) * per_place)


def _one_batch(config: Config, count: int) -> Config:
    whole = config.training
    change = {"cached_views": 1, "gradient_accumulation": 1, "batch_size": count}
    change["random_tiles"] = -(-whole.random_tiles * count // whole.batch_size)
    return config.model_copy(update={"training": whole.model_copy(update=change)})


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
        local: imagery on this machine, to cut crops from.
        trains: whether this machine trains; otherwise no steps are taken, and `step_s` and `encode_s` are 0.

    Raises:
        MissingExtraError: the configuration's backbone needs a package that is not installed.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        trainer, freeze_s = make_trainer(config, region, with_imagery, folder)
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
    scales, size = config.tile.scales, config.tile.size_px
    device = choose_device(config.machine.device)
    affordable = max(2, round(_FLOP.get(device.type, 4e11) / (4 * flop(encoder.eval(), size, size))))  # four times
    count = min(config.build.batch_size, 64, affordable)
    tiles = np.zeros((count, *([len(scales)] if len(scales) > 1 else []), size, size, 3), np.uint8)
    return _median(lambda: inference.embed(encoder, tiles, config.machine.precision, device, count)) / count


def _cut(source: AerialSource, region: Region, config: Config, squares: list[tuple[float, int]]) -> float:
    """Return the seconds that squares (metres, pixels) around a cell take; of neighbouring cells, as a build reads them."""
    lat, lon = places(region, config.levels.cell)
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
    return float(np.median([_seconds(work) for _ in range(4)][1:]))  # the first warms up


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
