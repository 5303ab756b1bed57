"""What a region needs to be fetched: photos, and imagery around its cells in tiles of a service."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.aerial import AerialSource
from cellcode.aerial.tiles.grid import Grid, web_mercator
from cellcode.aerial.tiles.source import USUAL_TILE_PX, TileSource
from cellcode.config import Config
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, distance, s2
from cellcode.photos import PhotoTable
from cellcode.training.data.tiles import surroundings_px
from cellcode.types import Float64

BYTES = 500_000  # of a photo of unknown size: a JPEG about 2048 pixels wide
TEST_SHARE = 0.1  # kept for testing by `ingest` by default
SAMPLE = 200  # photos of a table whose file sizes are read


@dataclass(frozen=True)
class Photos:
    """Photos of a region.

    Attributes:
        source: where they come from, to print.
        training: those for training, validation photos included.
        bytes_each: mean size of a file.
        to_fetch: how many are not on this machine.
        visited: cells of each level with training photos, where positions are known: the first of the prototypes, then of the
            database.
    """

    source: str
    count: int
    training: int
    bytes_each: float
    to_fetch: int
    visited: tuple[int, int] | None = None

    @classmethod
    def of_count(cls, count: int) -> Self:
        """Return a number of photos of which nothing else is known.

        Raises:
            UsageError: the count is negative.
        """
        if count < 0:
            raise UsageError(f"the number of photos is {count}, it must be at least 0")
        return cls("as given", count, round(count * (1 - TEST_SHARE)), BYTES, count)

    @classmethod
    def of_table(cls, folder: Path | str, region: Region, config: Config) -> Self:
        """Return the photos of a table that lie in the region.

        Raises:
            InputError: the folder holds no photo table, or one with nothing in the region.
        """
        table = PhotoTable.load(folder)
        table = table.select(region.contains(table.lat_deg, table.lon_deg))
        if not len(table):
            raise InputError(f"{folder}: none of its photos lies in the region; check that both are of one place")
        training = table.select(np.isin(table.split, ["train", "validation"]))
        visited = [
            len(np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, level)))
            for level in (config.levels.prototype, config.levels.cell)
        ]
        files = table.files[:: max(1, len(table) // SAMPLE)]
        sizes = [path.stat().st_size for path in files if path.is_file()]
        each = float(np.mean(sizes)) if sizes else float(BYTES)
        return cls(str(folder), len(table), len(training), each, 0, (visited[0], visited[1]))

    @classmethod
    def of_service(cls, spec: str, region: Region) -> Self:
        """Return what an online service offers in the region, from its listing and the size of a few photos.

        Raises:
            UsageError: the service is unknown.
            RemoteError: it does not answer.
        """
        from cellcode.photos.sources.registry import estimate

        found = estimate(spec, region)
        if found is None:
            raise InputError(
                f"{spec} fetches nothing, so there is nothing to estimate; ingest it and give the photo table"
            )
        training, each = round(found.photos * (1 - TEST_SHARE)), found.photo_bytes or float(BYTES)
        return cls(found.source, found.photos, training, each, found.photos - found.present)

    def cells(self, of_region: int, which: int) -> int:
        """Return the cells of the region that have training photos: 0 those of the prototypes, 1 those of the database.

        Where positions are unknown, photos are assumed to be spread over the cells at random: real ones keep to streets, and
        to fewer cells.
        """
        if self.visited is not None:
            return min(self.visited[which], of_region)
        return round(-of_region * math.expm1(-self.training / max(of_region, 1)))


BYTES_PER_PIXEL = 0.3  # of a JPEG of aerial imagery, as services send them
REACH = 1.25  # radians times 2^level: no point of a cell is farther from its centre (S2's largest diagonal is 2.44)


class Window(NamedTuple):
    """A square of imagery that is kept around a cell in training, by its edge."""

    side_m: float
    side_px: int


def training_windows(config: Config) -> list[Window]:
    """Return what training keeps around every cell with photos, one window for each scale of a tile.

    A tile is cut at any position of the cell, translated and rotated: the window holds the circle around it, wherever it is.
    """
    reach_m = REACH * 2.0**-config.levels.cell * distance.EARTH_RADIUS_M + config.augmentation.tile_translation_m
    gsds_m = [config.tile.size_m * scale / config.tile.size_px for scale in config.tile.scales]
    sides_px = [surroundings_px(config.tile.size_px, gsd_m, reach_m) for gsd_m in gsds_m]
    return [Window(side_px * gsd_m, side_px) for side_px, gsd_m in zip(sides_px, gsds_m, strict=True)]


@dataclass(frozen=True)
class Tiles:
    """The tiles of a service that are needed: their zoom, about how many, and how large together."""

    level: int
    count: int
    bytes: int


def tiles(config: Config, region: Region, source: AerialSource | None = None) -> Tiles:
    """Return the tiles that training and building read: those under the region and half a window around it.

    Args:
        source: whose grid is used; without one, or one without tiles, that of web maps.
    """
    provider = source.provider if isinstance(source, TileSource) else None
    grid = provider.grid if provider is not None else web_mercator(0, 22)
    half_m = max(window.side_m for window in training_windows(config)) / 2
    south, north = region.bounds[1], region.bounds[3]
    unit = _units_per_metre(grid, (south + north) / 2, region.shape.centroid.x)
    z = grid.level_for(config.tile.size_m / config.tile.size_px * unit, USUAL_TILE_PX)
    side_px = grid.levels[z].tile_px or USUAL_TILE_PX
    count = _meeting(_projected(region, grid).buffer(half_m * unit, join_style="mitre"), grid.levels[z].span)
    return Tiles(z, count, round(count * side_px**2 * BYTES_PER_PIXEL))


def _meeting(shape: BaseGeometry, span: float) -> int:
    """Return how many squares of a grid meet a shape, on average over all positions of the grid.

    A square meets it when its corner lies in the shape swept by the square; the sweep adds the shape's extent along each axis
    (half the way its boundary goes along it) and one square for every part.
    """
    steps = np.abs(np.diff(shapely.get_coordinates(shapely.segmentize(shape.boundary, span)), axis=0))
    steps = steps[(steps <= span * 1.5).all(axis=1)]  # not those between one ring and the next
    return int(np.ceil(shape.area / span**2 + steps.sum() / 2 / span + len(shapely.get_parts(shape))))


def _projected(region: Region, grid: Grid) -> BaseGeometry:
    def project(lon_lat: Float64) -> Float64:
        x, y = grid.xy(np.clip(lon_lat[:, 1], -85, 85), lon_lat[:, 0])
        return np.stack([x, y], axis=1)

    return shapely.transform(shapely.segmentize(region.shape, 0.5), project)


def _units_per_metre(grid: Grid, lat_deg: float, lon_deg: float) -> float:
    """Return the units of a grid's CRS in a metre on the ground, north to south."""
    north, _ = distance.offset(np.array([lat_deg]), np.array([lon_deg]), np.zeros(1), np.array([100.0]))
    x, y = grid.xy(np.array([lat_deg, north[0]]), np.array([lon_deg, lon_deg]))
    return float(np.hypot(x[1] - x[0], y[1] - y[0])) / 100.0
