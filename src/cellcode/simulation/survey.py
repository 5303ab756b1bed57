"""Where and when photos are taken: dense in town, sparse in the country, a quarter of the cells never.

Reserved areas (small blocks everywhere, and whole level-15 cells) are photographed on the last date only, and that date
photographs nothing else. A split by date therefore tests positions and a date that training never saw, some of them in cells
where no other photo was taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellcode.errors import UsageError
from cellcode.geography import s2
from cellcode.simulation.ground import Views
from cellcode.simulation.noise import uniform
from cellcode.simulation.place import to_degrees
from cellcode.simulation.scene import PHOTO_DAYS
from cellcode.simulation.world import COARSE_M, Material, World

Float64 = npt.NDArray[np.float64]
WALKABLE = (
    Material.ASPHALT, Material.PAVEMENT, Material.MARKING, Material.GRAVEL, Material.CAR_PARK, Material.SHORE,
)  # fmt: skip
LEVEL = 16  # popularity is a property of these cells
UNVISITED_SHARE = 0.28  # cells with the least pull get no photo at all
RESERVED_BLOCK_M, RESERVED_BLOCKS, RESERVED_CELLS = 60, 0.07, 0.012
MARGIN_M = 40
CLEARANCE_M = 4.0
DEVICES = 6


@dataclass(frozen=True)
class Survey:
    """Photos to take.

    Attributes:
        views: cameras, (N,).
        lat_deg, lon_deg: their positions.
        day: (N,), index into PHOTO_DAYS.
        device: (N,), number of the camera.
    """

    views: Views
    lat_deg: Float64
    lon_deg: Float64
    day: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]


def make_survey(world: World, photos: int) -> Survey:
    """Choose positions, dates and cameras; deterministic in the world's seed."""
    rng = np.random.default_rng([world.seed, 10])
    x, y = _candidates(world, max(60 * photos, 20_000), rng)
    lat, lon = to_degrees(world.size_m, x, y)
    distinct, cell, count = np.unique(s2.cell_ids(lat, lon, LEVEL), return_inverse=True, return_counts=True)
    chance = _popularity(world, distinct, cell, x, y)[cell] / count[cell]
    if np.count_nonzero(chance) < photos:
        raise UsageError(
            f"a world of {world.size_m / 1000:g} km has no room for {photos} photos; take fewer, or a larger one"
        )
    chosen = rng.choice(len(x), photos, replace=False, p=chance / chance.sum())
    x, y, lat, lon, cell = x[chosen], y[chosen], lat[chosen], lon[chosen], cell[chosen]
    return Survey(
        _cameras(x, y, rng), lat, lon, _days(world, distinct[cell], x, y, rng), rng.integers(0, DEVICES, photos)
    )


def _candidates(world: World, count: int, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Points on streets and paths with nothing taller than a kerb within a few metres."""
    x, y = rng.uniform(MARGIN_M, world.size_m - MARGIN_M, (2, count))
    keep = np.isin(world.material[y.astype(int), x.astype(int)], WALKABLE)
    x, y = x[keep], y[keep]
    clear = np.ones(len(x), bool)
    for angle in np.arange(12) * np.pi / 6:
        for reach in (CLEARANCE_M / 2, CLEARANCE_M):
            i, j = (y + reach * np.sin(angle)).astype(int), (x + reach * np.cos(angle)).astype(int)
            clear &= world.height_m[i, j] < 1
    return x[clear], y[clear]


def _popularity(
    world: World, cells: npt.NDArray[np.uint64], cell: npt.NDArray[np.int64], x: Float64, y: Float64
) -> Float64:
    """Expected share of photos of each cell: more in town, very uneven everywhere, none in the least popular ones."""
    urban = world.urban[(y / COARSE_M).astype(int), (x / COARSE_M).astype(int)]
    mean_urban = np.bincount(cell, urban) / np.bincount(cell)
    luck = uniform(world.seed + 100, cells & np.uint64(0xFFFFFFFF), cells >> np.uint64(32)).astype(np.float64)
    pull = mean_urban + 1.6 * (luck - 0.5)
    share = np.exp(1.1 * mean_urban + 1.8 * (luck - 0.5))
    share[pull < np.quantile(pull, UNVISITED_SHARE)] = 0
    return np.asarray(share)


def _days(
    world: World, cells: npt.NDArray[np.uint64], x: Float64, y: Float64, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Reserved areas get the last day; elsewhere a cell has been visited on one to all of the other days."""
    last = len(PHOTO_DAYS) - 1
    parents = s2.parents(cells, LEVEL - 1)
    block = uniform(world.seed + 101, (x // RESERVED_BLOCK_M).astype(int), (y // RESERVED_BLOCK_M).astype(int))
    area = uniform(world.seed + 102, parents & np.uint64(0xFFFFFFFF), parents >> np.uint64(32))
    reserved = (block < RESERVED_BLOCKS) | (area < RESERVED_CELLS)
    visits = 1 + (
        uniform(world.seed + 103, cells & np.uint64(0xFFFFFFFF), cells >> np.uint64(32)) ** 0.5 * last
    ).astype(int)
    first = (uniform(world.seed + 104, cells & np.uint64(0xFFFFFFFF), cells >> np.uint64(32)) * last).astype(int)
    days = (first + rng.integers(0, visits)) % last
    return np.where(reserved, last, days)


def _cameras(x: Float64, y: Float64, rng: np.random.Generator) -> Views:
    count = len(x)
    return Views(
        x_m=x,
        y_m=y,
        heading_deg=rng.uniform(0, 360, count),
        fov_deg=rng.uniform(60, 110, count),
        camera_m=rng.uniform(1.5, 2.2, count),
        pitch_deg=rng.normal(0, 2, count),
        roll_deg=rng.normal(0, 1, count),
        exposure=rng.uniform(0.65, 1.35, count),
        white_balance=rng.uniform(0.85, 1.15, (count, 3)),
        noise=rng.uniform(0.005, 0.03, count),
        seed=rng.integers(0, 1 << 31, count),
    )
