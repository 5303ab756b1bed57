"""How much imagery a region needs: windows around its cells, and the tiles of a service that they lie in."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.aerial import AerialSource
from cellcode.aerial.tiles.grid import Grid, web_mercator
from cellcode.aerial.tiles.source import USUAL_TILE_PX, TileSource
from cellcode.config import Config
from cellcode.geography import Region, distance
from cellcode.training.data.tiles import surroundings_px
from cellcode.types import Float64

BYTES_PER_PIXEL = 0.3  # of a JPEG of aerial imagery, as services send them
REACH = 1.25  # radians times 2^level: no point of a cell is farther from its centre (S2's largest diagonal is 2.44)


class Window(NamedTuple):
    """A square of imagery that is kept around a cell in training.

    Attributes:
        side_m, side_px: its edge.
    """

    side_m: float
    side_px: int


def training_windows(config: Config) -> list[Window]:
    """Return what training keeps around every cell with photos, one window for each scale of a tile.

    A tile is cut at any position of the cell, translated and rotated: the window holds the circle around it, wherever it is.
    """
    reach_m = REACH * 2.0**-config.levels.cell * distance.EARTH_RADIUS_M + config.augmentation.tile_translation_m
    windows = []
    for scale in config.tile.scales:
        gsd_m = config.tile.size_m * scale / config.tile.size_px
        side_px = surroundings_px(config.tile.size_px, gsd_m, reach_m)
        windows.append(Window(side_px * gsd_m, side_px))
    return windows


@dataclass(frozen=True)
class Tiles:
    """The tiles of a service that are needed.

    Attributes:
        level: their zoom.
        count: about how many.
        bytes: about how large they are together.
    """

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
