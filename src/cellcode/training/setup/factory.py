"""The model, the prototypes and the imagery of a training, as the configuration requires them.

Imagery is read around the cells with photos, and around some others for random negatives.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from cellcode.aerial import AerialSource
from cellcode.config import Config
from cellcode.geography import distance, s2
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.training.data.photos import TrainingPhotos
from cellcode.training.data.tiles import CellTiles, TileReader, TileStore
from cellcode.training.loop.trainer import Model
from cellcode.types import Ids

RANDOM_PER_CELL = 2  # cells without photos kept for random negatives, for each cell with photos
MOST_RANDOM = 1_000_000  # of them; more are never drawn in a training
RANDOM_REACH_M = 5000.0  # how far outside the photos' bounding box they may lie


def make_model(config: Config, training: TrainingPhotos, has_aerial: bool) -> Model:
    """Return encoders with fresh or pretrained weights, and a prototype for every prototype cell with a training photo."""
    prototypes = None
    if config.loss.query_prototype and config.prototypes.table == "whole":
        ids = training.cells(config.levels.prototype)
        prototypes = Prototypes(ids, config.model.dim, config.model.interpolation_radius_cells)
    ground = Encoder(config.model.ground, config.model.dim)
    aerial = Encoder(config.model.aerial, config.model.dim, len(config.tile.scales)) if has_aerial else None
    return Model(ground, aerial, prototypes)


def make_table(config: Config, training: TrainingPhotos, device: torch.device) -> ShardedPrototypes | None:
    """Return the same prototypes as a table split over processes, where the configuration requires it."""
    if not config.loss.query_prototype or config.prototypes.table == "whole":
        return None
    ids, model, seed = training.cells(config.levels.prototype), config.model, config.training.seed
    return ShardedPrototypes(ids, model.dim, model.interpolation_radius_cells, config.prototypes, seed, device)


def store_cells(training: TrainingPhotos, source: AerialSource, config: Config) -> Ids:
    """Return the cells whose imagery training needs: those with photos and, for random negatives, some of the others."""
    level = config.levels.cell
    cells = training.cells(level)
    if not config.training.random_tiles or config.training.regime != "full":
        return cells
    rng = np.random.default_rng([config.training.seed, 4])
    west, south, east, north = _near(training, source)
    wanted = min(RANDOM_PER_CELL * len(cells), MOST_RANDOM)
    lat_deg, lon_deg = rng.uniform(south, north, 4 * wanted), rng.uniform(west, east, 4 * wanted)
    covered = source.covers(lat_deg, lon_deg)
    others = np.setdiff1d(s2.cell_ids(lat_deg[covered], lon_deg[covered], level), cells)
    return np.union1d(cells, rng.permutation(others)[:wanted])


def _near(training: TrainingPhotos, source: AerialSource) -> tuple[float, float, float, float]:
    """Return the imagery's bounds near the photos: a service covers a whole country, all of which would be fetched."""
    west, south, east, north = source.bounds
    lat_deg, lon_deg = training.lat_deg, training.lon_deg
    low_lat, low_lon = distance.offset(lat_deg.min(), lon_deg.min(), -RANDOM_REACH_M, -RANDOM_REACH_M)
    high_lat, high_lon = distance.offset(lat_deg.max(), lon_deg.max(), RANDOM_REACH_M, RANDOM_REACH_M)
    if west > east or low_lon > high_lon:  # across the antimeridian
        return source.bounds
    low = max(float(low_lon), west), max(float(low_lat), south)
    return *low, min(float(high_lon), east), min(float(high_lat), north)


def tile_store(source: AerialSource, cells: Ids, config: Config, cache: Path, shared: Path | None) -> CellTiles:
    """Return the tiles of cells, kept in a file in `cache` or, for other trainings too, in `shared`, or read when needed."""
    reach_m, dates = config.augmentation.tile_translation_m, config.augmentation.tile_dates
    if config.training.imagery == "read":
        return TileReader(source, cells, config.tile, dates, config.machine.threads)
    if shared is None:
        return TileStore(source, cells, config.tile, reach_m, cache / "imagery.npy", dates=dates)
    what = f"{source.identity} {config.tile.model_dump_json()} {reach_m}" + (f" {dates}" if dates > 1 else "")
    name = hashlib.sha256(what.encode() + cells.tobytes()).hexdigest()[:16]
    return TileStore(source, cells, config.tile, reach_m, shared / f"{name}.npy", True, dates)
