"""The parts of a training, as the configuration wants them: model, prototypes, sampler, and what feeds the encoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cellcode.aerial import AerialSource
from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.photos import PhotoTable
from cellcode.training.data.hard_batches import Alike
from cellcode.training.data.inputs import Cached, Photos, Tiles
from cellcode.training.data.packed import PackedTraining
from cellcode.training.data.sampling import PlaceSampler
from cellcode.training.data.stream import Stream, StreamedPhotos, StreamedTiles
from cellcode.training.loop.trainer import Model
from cellcode.training.setup.imagery import store_cells, tile_store
from cellcode.types import UInt8


def make_model(config: Config, training: PhotoTable | PackedTraining, has_aerial: bool) -> Model:
    """Encoders with fresh or pretrained weights, and a prototype for every prototype cell with a training photo."""
    prototypes = None
    if config.loss.query_prototype and config.prototypes.table == "whole":
        ids = np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.prototype))
        prototypes = Prototypes(ids, config.model.dim, config.model.interpolation_radius_cells)
    ground = Encoder(config.model.ground, config.model.dim)
    aerial = Encoder(config.model.aerial, config.model.dim, len(config.tile.scales)) if has_aerial else None
    return Model(ground, aerial, prototypes)


def make_table(config: Config, training: PhotoTable | PackedTraining, device: torch.device) -> ShardedPrototypes | None:
    """Give the same prototypes as a table split over processes, where the configuration says so."""
    if not config.loss.query_prototype or config.prototypes.table == "whole":
        return None
    ids = np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.prototype))
    model, seed = config.model, config.training.seed
    return ShardedPrototypes(ids, model.dim, model.interpolation_radius_cells, config.prototypes, seed, device)


def make_sampler(config: Config, training: PhotoTable) -> PlaceSampler:
    """Batches of photos that share a cell of the database."""
    cells, rule = s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.cell), config.training
    prototypes = np.unique(s2.parents(cells, config.levels.prototype), return_inverse=True)[1]
    return PlaceSampler(
        cells.view(np.int64),
        rule.batch_size,
        rule.photos_per_place,
        rule.seed,
        rule.sampling_exponent,
        Alike.of(config),
        prototypes,
    )


@dataclass(frozen=True)
class Samples:
    """What the encoders of a training are fed."""

    photos: Photos | Cached | StreamedPhotos
    tiles: Tiles | Cached | None


def make_inputs(
    config: Config,
    model: Model,
    pixels: UInt8,
    training: PhotoTable,
    source: AerialSource | None,
    cache: Path,
    imagery_cache: Path | None = None,
) -> Samples:
    """Give photos (N, H, W, 3) and, with imagery, tiles around them; parts that a regime freezes are cached in `cache`."""
    photos = Photos(pixels, training.lat_deg, training.lon_deg, config)
    tiles = None
    if source is not None:
        cells = store_cells(training, source, config)
        store = tile_store(source, cells, config, cache, imagery_cache)
        tiles = Tiles(store, training.lat_deg, training.lon_deg, _own_strangers(config))
    if config.training.regime == "full":
        return Samples(photos, tiles)
    cached_photos = _freeze(photos, len(training), model.ground, config, cache / "photos.npy")
    if tiles is None or model.aerial is None:
        return Samples(cached_photos, None)
    return Samples(cached_photos, _freeze(tiles, len(training), model.aerial, config, cache / "tiles.npy"))


def stream_inputs(
    config: Config,
    stream: Stream,
    training: PackedTraining,
    source: AerialSource | None,
    cache: Path,
    imagery_cache: Path | None,
) -> Samples:
    """Give photos that are read as they are needed and, with imagery, tiles around them."""
    photos = StreamedPhotos(stream, config)
    if source is None:
        return Samples(photos, None)
    store = tile_store(source, store_cells(training, source, config), config, cache, imagery_cache)
    return Samples(photos, StreamedTiles(store, stream, _own_strangers(config)))


def _own_strangers(config: Config) -> Config:
    """Return the configuration with the share of the tiles from anywhere that each process draws."""
    count = -(-config.training.random_tiles // collectives.world())
    return config.model_copy(update={"training": config.training.model_copy(update={"random_tiles": count})})


def _freeze(inputs: Photos | Tiles, count: int, encoder: Encoder, config: Config, path: Path) -> Cached:
    """Freeze the encoder's first blocks and cache what they make of every sample."""
    training = config.training
    blocks = len(encoder.backbone.blocks)
    start = blocks if training.regime == "frozen" else max(0, blocks - training.last_blocks)
    encoder.freeze(start)
    return Cached(inputs, count, encoder, start, training.cached_views, path, config.machine.precision)
