"""A trainer for measurements: one batch of random photos and plain imagery, and the prototypes of the whole region."""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from cellcode.aerial import AerialSource, Crop
from cellcode.config import Config
from cellcode.device import choose_device
from cellcode.geography import Region, s2
from cellcode.photos import PhotoTable
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.planning.encoders import flop
from cellcode.training.data.photos import TablePhotos
from cellcode.training.loop.checkpoints import Identity
from cellcode.training.loop.trainer import Model, Trainer, TrainingSetup
from cellcode.training.setup.factory import make_model, make_table, store_cells, tile_store
from cellcode.types import Bools, Float64

MAX_PLACES = 50_000  # cells with prototypes; in a larger region a step takes somewhat longer than what is measured
_FLOP = {"cuda": 2e14, "mps": 1e13, "cpu": 4e11}


def affordable_flop(device: torch.device) -> float:
    """Return about how many operations a measurement may take on a device, so that it takes seconds."""
    return _FLOP.get(device.type, _FLOP["cpu"])


def trainer(config: Config, region: Region, with_imagery: bool, folder: Path) -> tuple[Trainer, float]:
    """Return a trainer of one batch, and the seconds that frozen blocks take for one of its photos; 0 if none are frozen.

    The batch is smaller than the configuration's where that would take minutes. Files go to `folder`.
    """
    device, everywhere = choose_device(config.machine.device), _photos(region, config)
    model = make_model(config, everywhere, with_imagery)
    config = _one_batch(config, _batch_size(config, model, device))
    rows = np.arange(config.training.batch_size) % len(everywhere)
    shape = (len(rows), config.photo.height_px, config.photo.width_px, 3)
    batch = TablePhotos(everywhere.table.select(rows), np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
    store = None
    if with_imagery:
        source = _Plain(region)
        store = tile_store(source, store_cells(batch, source, config), config, folder, None)
    model.to(device)
    started = time.perf_counter()
    feed = batch.feed(config, model.ground, model.aerial, store, folder)
    freeze_s = (time.perf_counter() - started) / len(batch) if config.training.regime != "full" else 0.0
    table = make_table(config, everywhere, device)
    identity = Identity(config, "", None)
    return Trainer(TrainingSetup(config, model, feed, folder, identity, device, table)), freeze_s


def places(region: Region, level: int) -> tuple[Float64, Float64]:
    """Return the centres of cells of a level, of coarser ones in a large region."""
    while region.count_estimate(level) > MAX_PLACES:
        level -= 1
    return s2.cell_centers(region.cells(level))


class _Plain(AerialSource):
    """Imagery of one colour everywhere."""

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
    """Return how many photos a batch has, or fewer where these would take minutes."""
    training = config.training
    per_place = training.photos_per_place
    each = flop(model.ground, config.photo.height_px, config.photo.width_px)
    if model.aerial is not None:
        tiles = 1 / per_place + training.random_tiles / training.batch_size
        each += tiles * flop(model.aerial, config.tile.size_px, config.tile.size_px)
    return min(training.batch_size, max(2, round(affordable_flop(device) / (3 * each * per_place))) * per_place)


def _one_batch(config: Config, count: int) -> Config:
    """Return the configuration for a single batch of so many photos."""
    whole = config.training
    change = {
        "cached_views": 1,
        "gradient_accumulation": 1,
        "batch_size": count,
        "random_tiles": -(-whole.random_tiles * count // whole.batch_size),
    }
    return config.model_copy(update={"training": whole.model_copy(update=change)})
