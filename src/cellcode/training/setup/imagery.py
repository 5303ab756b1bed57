"""Which imagery a training reads: around the cells with photos, and around some others for tiles from anywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cellcode.aerial import AerialSource
from cellcode.config import Config
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.training.data.packed import PackedTraining
from cellcode.training.data.tile_reader import TileReader
from cellcode.training.data.tiles import CellTiles, TileStore
from cellcode.types import Ids

STRANGERS_PER_CELL = 2  # cells without photos kept for tiles from anywhere, for each cell with photos
MOST_STRANGERS = 1_000_000  # of them; more are never drawn in a training
STRANGERS_M = 5000.0  # how far around the photos' box they are looked for


def store_cells(training: PhotoTable | PackedTraining, source: AerialSource, config: Config) -> Ids:
    """Cells whose imagery training needs: those with photos and, for tiles from anywhere, some of the others."""
    level = config.levels.cell
    cells = np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, level))
    if not config.training.random_tiles or config.training.regime != "full":
        return cells
    rng = np.random.default_rng([config.training.seed, 4])
    west, south, east, north = _near(training, source)
    wanted = min(STRANGERS_PER_CELL * len(cells), MOST_STRANGERS)
    lat_deg, lon_deg = rng.uniform(south, north, 4 * wanted), rng.uniform(west, east, 4 * wanted)
    covered = source.covers(lat_deg, lon_deg)
    others = np.setdiff1d(s2.cell_ids(lat_deg[covered], lon_deg[covered], level), cells)
    return np.union1d(cells, rng.permutation(others)[:wanted])


def _near(training: PhotoTable | PackedTraining, source: AerialSource) -> tuple[float, float, float, float]:
    """Return the part of the imagery's bounds around the photos: a service has a whole country, which would all be fetched."""
    west, south, east, north = source.bounds
    lat_deg, lon_deg = training.lat_deg, training.lon_deg
    low_lat, low_lon = distance.offset(lat_deg.min(), lon_deg.min(), -STRANGERS_M, -STRANGERS_M)
    high_lat, high_lon = distance.offset(lat_deg.max(), lon_deg.max(), STRANGERS_M, STRANGERS_M)
    if west > east or low_lon > high_lon:  # across the antimeridian
        return source.bounds
    return (
        max(float(low_lon), west),
        max(float(low_lat), south),
        min(float(high_lon), east),
        min(float(high_lat), north),
    )


def tile_store(source: AerialSource, cells: Ids, config: Config, cache: Path, shared: Path | None) -> CellTiles:
    """Give the imagery of the cells: from a file in `cache` or, for other trainings too, in `shared`, or as it is wanted."""
    reach_m, dates = config.augmentation.tile_translation_m, config.augmentation.tile_dates
    if config.training.imagery == "read":
        return TileReader(source, cells, config.tile, dates, config.machine.threads)
    if shared is None:
        return TileStore(source, cells, config.tile, reach_m, cache / "imagery.npy", dates=dates)
    what = f"{source.identity} {config.tile.model_dump_json()} {reach_m}" + (f" {dates}" if dates > 1 else "")
    name = hashlib.sha256(what.encode() + cells.tobytes()).hexdigest()[:16]
    return TileStore(source, cells, config.tile, reach_m, shared / f"{name}.npy", True, dates)
