"""Where and when photos are taken: dense in town, sparse in the country, a quarter of the cells never.

Reserved areas (small blocks everywhere, and whole level-15 cells) are photographed on the last date only, and that date
photographs nothing else. A split by date therefore tests positions and a date that training never saw, some of them in cells
where no other photo was taken.
"""

from dataclasses import dataclass

import numpy as np

from cellcode.errors import UsageError
from cellcode.geography import s2
from cellcode.simulation.ground import Views
from cellcode.simulation.look import COARSE_M, Material
from cellcode.simulation.noise import uniform
from cellcode.simulation.overhead import to_degrees
from cellcode.simulation.scene import PHOTO_DAYS
from cellcode.simulation.world import World
from cellcode.types import Bools, Float32, Float64, Int64, Strings, UInt64

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
    """Photos to take, all (N,).

    Attributes:
        day: index into PHOTO_DAYS.
        device: number of the camera.
        walk: number of the walk that a photo is a step of, -1 for single photos.
        land_use: see `World.land_use`.
    """

    views: Views
    lat_deg: Float64
    lon_deg: Float64
    day: Int64
    device: Int64
    split: Strings
    walk: Int64
    land_use: Strings


def make_survey(world: World, photos: int) -> Survey:
    """Choose positions, dates and cameras; deterministic in the world's seed."""
    rng = np.random.default_rng([world.seed, 10])
    x, y = candidates(world, max(60 * photos, 20_000), rng)
    lat, lon = to_degrees(world.size_m, x, y)
    distinct, cell, count = np.unique(s2.cell_ids(lat, lon, LEVEL), return_inverse=True, return_counts=True)
    chance = popularity(world, distinct, cell, x, y)[cell] / count[cell]
    chosen = draw(chance, photos, world, rng)
    x, y, lat, lon, cell = x[chosen], y[chosen], lat[chosen], lon[chosen], cell[chosen]
    views = cameras(world, x, y, rng)
    reserved = in_block(world, x, y, 0, RESERVED_BLOCKS) | in_area(world, distinct[cell], 0, RESERVED_CELLS)
    day = np.where(reserved, len(PHOTO_DAYS) - 1, ordinary_days(world, distinct[cell], rng))
    device, split = rng.integers(0, DEVICES, photos), np.where(reserved, "test", "train")
    return Survey(views, lat, lon, day, device, split, np.full(photos, -1), world.land_use(x, y))


def draw(chance: Float64, count: int, world: World, rng: np.random.Generator) -> Int64:
    """Draw `count` different candidates; `UsageError` where there are fewer."""
    if np.count_nonzero(chance) < count:
        raise UsageError(
            f"a world of {world.size_m / 1000:g} km has no room for {count} photos; take fewer, or a larger one"
        )
    return rng.choice(len(chance), count, replace=False, p=chance / chance.sum())


def candidates(world: World, count: int, rng: np.random.Generator) -> tuple[Float64, Float64]:
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


def popularity(world: World, cells: UInt64, cell: Int64, x: Float64, y: Float64) -> Float64:
    """Expected share of photos of each cell: more in town, very uneven everywhere, none in the least popular ones."""
    urban = world.urban[(y / COARSE_M).astype(int), (x / COARSE_M).astype(int)]
    mean_urban = np.bincount(cell, urban) / np.bincount(cell)
    luck = _luck(world, 100, cells).astype(np.float64)
    pull = mean_urban + 1.6 * (luck - 0.5)
    share = np.exp(1.1 * mean_urban + 1.8 * (luck - 0.5))
    share[pull < np.quantile(pull, UNVISITED_SHARE)] = 0
    return np.asarray(share)


def in_block(world: World, x: Float64, y: Float64, low: float, high: float) -> Bools:
    """Tell which points lie in the share low..high of small blocks."""
    block = uniform(world.seed + 101, (x // RESERVED_BLOCK_M).astype(int), (y // RESERVED_BLOCK_M).astype(int))
    return np.asarray((block >= low) & (block < high))


def in_area(world: World, cells: UInt64, low: float, high: float) -> Bools:
    """Tell which level-16 cells lie in the share low..high of level-15 cells."""
    area = _luck(world, 102, s2.parents(cells, LEVEL - 1))
    return np.asarray((area >= low) & (area < high))


def ordinary_days(world: World, cells: UInt64, rng: np.random.Generator) -> Int64:
    """A cell has been visited on one to all of the days but the last."""
    last = len(PHOTO_DAYS) - 1
    visits = 1 + (_luck(world, 103, cells) ** 0.5 * last).astype(int)
    first = (_luck(world, 104, cells) * last).astype(int)
    return np.asarray((first + rng.integers(0, visits)) % last)


def _luck(world: World, salt: int, cells: UInt64) -> Float32:
    return uniform(world.seed + salt, cells & np.uint64(0xFFFFFFFF), cells >> np.uint64(32))


def cameras(world: World, x: Float64, y: Float64, rng: np.random.Generator) -> Views:
    """Draw a camera for each point."""
    count, camera = len(x), world.look.camera
    lowest, highest = np.array(camera.white_balance).T
    return Views(  # drawn in this order
        x_m=x, y_m=y, heading_deg=rng.uniform(0, 360, count), fov_deg=rng.uniform(*camera.fov_deg, count),
        camera_m=rng.uniform(*camera.height_m, count), pitch_deg=rng.normal(0, 2, count),
        roll_deg=rng.normal(0, 1, count), exposure=rng.uniform(*camera.exposure, count),
        white_balance=rng.uniform(lowest, highest, (count, 3)), noise=rng.uniform(*camera.noise, count),
        seed=rng.integers(0, 1 << 31, count),
    )  # fmt: skip
