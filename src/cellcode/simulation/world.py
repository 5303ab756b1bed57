"""The geometry of the rendered world: what stands on every square metre.

Everything is a pure function of seed and coordinates. Streets are the lines of an irregular lattice that smooth noise has
bent; the blocks between them are town, suburb, park, farmland or forest by large-scale noise, and are filled lot by lot.
Photos and the aerial image both read these rasters, so that the one explains the other.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cellcode.simulation.look import LOOKS, Look
from cellcode.simulation.noise import byte, hashed, pick, smooth, uniform
from cellcode.types import Bools, Float16, Float32, Float64, Int64, Strings, UInt8, UInt32

COARSE_M = 16  # large-scale noise is evaluated on this grid and interpolated
STYLE_M = 360  # districts are about this large
BUILDINGS = 1 << 18  # buildings are known by this many hashed numbers; two far ones may share one, which does no harm
ROWS = 128  # rows of the raster made at a time
BEACH_M = 40
COAST_M = 250  # what lies nearer to the sea is coast
TOWN, SUBURB, FOREST = 0.55, -0.25, 0.75  # of the fields `urban` and `wood`


class Material(IntEnum):
    """What the surface is made of."""

    GRASS = 0
    ASPHALT = 1
    PAVEMENT = 2
    MARKING = 3
    CROP = 4
    PLOUGHED = 5
    MEADOW = 6
    FOREST_FLOOR = 7
    WATER = 8
    COURTYARD = 9
    GRAVEL = 10
    TREE = 11
    HEDGE = 12
    BUILDING = 13
    SPORT = 14
    POOL = 15
    SHORE = 16
    CAR_PARK = 17


class Style(IntEnum):
    """What a district does in its own way; three figures each, colours or measures."""

    WALLS = 0
    ROOFS = 1
    ROADS = 2
    PAVING = 3
    GREEN = 4
    SOIL = 5
    WINDOWS = 6


@dataclass(frozen=True)
class World:
    """Rasters of one metre: row 0 is the north edge, column 0 the west edge.

    Attributes:
        height_m: float16, top of what stands there; 0 is bare ground.
        eaves_m: float16, where the wall ends and the roof begins; 0 where there is no building.
        material: uint8, `Material`.
        building: uint32 below BUILDINGS, number of the building or, elsewhere, of the lot or parcel.
        style: float32 (len(Style), 3, ...) on the coarse grid, mean 0 and deviation 1: how the district does things.
        urban: float32 on the coarse grid: above 0.6 town, above -0.2 suburb, below country.
        wood: float32 on the coarse grid: above 0.75 the country is forest.
        sea_m: float32 on the coarse grid, rough distance from the sea, negative in it; infinite in a world without a coast.
        texture: uint8, fine grain of the ground.
        seed: of everything.
        look: what its buildings, plants and cameras are like.
    """

    size_m: int
    seed: int
    height_m: Float16
    eaves_m: Float16
    material: UInt8
    building: UInt32
    texture: UInt8
    style: Float32
    urban: Float32
    wood: Float32
    sea_m: Float32
    look: Look

    def land_use(self, x_m: Float64, y_m: Float64) -> Strings:
        """Kind of area around points: coast, town, suburb, forest or farmland."""
        at = (y_m / COARSE_M).astype(int), (x_m / COARSE_M).astype(int)
        urban = self.urban[at]
        kinds = [self.sea_m[at] < COAST_M, urban > TOWN, urban > SUBURB, self.wood[at] > FOREST]
        return np.select(kinds, ["coast", "town", "suburb", "forest"], "farmland")


def make_world(size_m: int, seed: int, look: str = "north", coast: bool = False) -> World:
    """Build the rasters, some rows at a time.

    Args:
        look: one of LOOKS.
        coast: the west of the world is sea.
    """
    field = _Fields(size_m, seed, coast)
    shape = (size_m, size_m)
    world = World(
        size_m=size_m,
        seed=seed,
        height_m=np.zeros(shape, np.float16),
        eaves_m=np.zeros(shape, np.float16),
        material=np.zeros(shape, np.uint8),
        building=np.zeros(shape, np.uint32),
        texture=np.zeros(shape, np.uint8),
        style=field.style,
        urban=field.urban,
        wood=field.wood,
        sea_m=field.sea_m,
        look=LOOKS[look],
    )
    strips = [slice(first, min(first + ROWS, size_m)) for first in range(0, size_m, ROWS)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda rows: _fill(world, rows, field), strips))
    return world


class _Fields:
    """Large-scale noise on the coarse grid."""

    def __init__(self, size_m: int, seed: int, coast: bool) -> None:
        self.size_m, self.seed = size_m, seed
        nodes = np.arange(0, size_m + 2 * COARSE_M, COARSE_M, dtype=np.float64)
        x, y = nodes[None, :], nodes[:, None]
        away = np.hypot(x - size_m * 0.45, y - size_m * 0.55) / (size_m / 2)
        self.urban = smooth(seed + 1, x, y, 1400) * 0.75 + (0.75 - 1.35 * away).astype(np.float32)
        self.wet = smooth(seed + 2, x, y, 1100)
        self.wood = smooth(seed + 3, x, y, 700)
        self.bend: Float32 = np.stack([smooth(seed + 4 + k, x, y, 420) * 22 for k in range(2)])
        styles = [[smooth(seed + 200 + 3 * style + k, x, y, STYLE_M) for k in range(3)] for style in Style]
        self.style = np.array(styles, np.float32)
        self.river = smooth(seed + 11, x, y, 1500)
        self.sea_m: Float32 = np.full(self.urban.shape, np.inf, np.float32)
        if coast:
            self.sea_m = (x - 0.09 * size_m + 260 * smooth(seed + 12, x, y, 900)).astype(np.float32)

    def at(self, coarse: Float32, rows: slice) -> Float32:
        """Interpolate a coarse field bilinearly to the metre raster of some rows."""
        y = np.arange(rows.start, rows.stop) / COARSE_M
        x = np.arange(self.size_m) / COARSE_M
        j, i = y.astype(np.int64), x.astype(np.int64)
        b, a = (y - j).astype(np.float32)[:, None], (x - i).astype(np.float32)
        strip = coarse[j] * (1 - b) + coarse[j + 1] * b
        return np.asarray(strip[:, i] * (1 - a) + strip[:, i + 1] * a, np.float32)


@dataclass
class _Lattice:
    """Position of every pixel between two lines of an irregular lattice along one axis."""

    index: Int64
    before_m: Float32  # distance from the line before
    after_m: Float32  # distance to the line after


def _lattice(position_m: Float32, seed: int, pitch_m: float) -> _Lattice:
    """Lines every `pitch_m`, each moved by up to 0.32 of it."""
    cell = np.floor(position_m / pitch_m).astype(np.int64)
    lines = np.arange(cell.min() - 1, cell.max() + 3)
    at_m = ((lines + 0.64 * (uniform(seed, lines) - 0.5)) * pitch_m).astype(np.float32)
    row = cell - lines[0]
    index = cell - (position_m < at_m[row]) + (position_m >= at_m[row + 1])
    return _Lattice(index, position_m - at_m[index - lines[0]], at_m[index + 1 - lines[0]] - position_m)


@dataclass
class _Lots:
    """The lot of every pixel of a block: which side it faces, how deep it lies, and where along the side."""

    side: Int64
    depth_m: Float32  # from the block's edge (the middle of the street)
    along_m: Float32


def _fill(world: World, rows: slice, field: _Fields) -> None:
    seed = world.seed
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    x = np.arange(world.size_m, dtype=np.float32)[None, :]
    u, v = x + field.at(field.bend[0], rows), y + field.at(field.bend[1], rows)
    pitch_m = world.look.street_pitch_m
    across, along = _lattice(u, seed + 20, pitch_m[0]), _lattice(v, seed + 21, pitch_m[1])
    i, j = across.index, along.index
    urban, wood, wet = field.at(field.urban, rows), field.at(field.wood, rows), field.at(field.wet, rows)
    river = np.abs(field.at(field.river, rows)) < 0.045
    # One value a block, so that a block is of one kind; read at its middle pixel would need its outline: hash + noise do.
    mood = uniform(seed + 22, i, j)
    town = urban + 0.5 * (mood - 0.5) > TOWN
    suburb = ~town & (urban + 0.5 * (mood - 0.5) > SUBURB)
    country = ~town & ~suburb
    lots = _lots(across, along)

    material = np.full(u.shape, Material.MEADOW, np.uint8)
    height = np.zeros(u.shape, np.float32)
    eaves = np.zeros(u.shape, np.float32)
    number = hashed(seed + 23, i, j) % np.uint32(BUILDINGS)
    _country(material, height, number, country, wood, u, v, x, y, seed)
    _blocks(material, height, eaves, number, town, suburb, lots, i, j, mood, seed, world.look)
    _trees(material, height, number, town, suburb, country, wood, x, y, seed, world.look)
    water = river | (wet < -1.45)
    shore = (np.abs(field.at(field.river, rows)) < 0.075) | (wet < -1.3)
    material[shore & (height == 0)] = Material.SHORE
    for raster in (height, eaves):
        raster[water] = 0
    material[water] = Material.WATER
    _streets(material, height, eaves, across, along, country, water, seed)
    if np.isfinite(world.sea_m).all():
        _sea(material, height, eaves, field.at(world.sea_m, rows))
    world.height_m[rows], world.eaves_m[rows] = height, eaves
    world.material[rows], world.building[rows] = material, number
    world.texture[rows] = hashed(seed + 24, x, y) >> np.uint32(24)


def _lots(across: _Lattice, along: _Lattice) -> _Lots:
    edges = np.stack([across.before_m, across.after_m, along.before_m, along.after_m])
    side = edges.argmin(axis=0)
    return _Lots(side, edges.min(axis=0), np.where(side < 2, along.before_m, across.before_m))


def _country(
    material: UInt8,
    height: Float32,
    number: UInt32,
    country: Bools,
    wood: Float32,
    u: Float32,
    v: Float32,
    x: Float32,
    y: Float32,
    seed: int,
) -> None:
    """Parcels with crops, meadows and ploughed soil, hedges between some of them, forest."""
    east, north = _lattice(u * 0.9 + v * 0.25, seed + 30, 150.0), _lattice(v * 0.9 - u * 0.25, seed + 31, 210.0)
    parcel = hashed(seed + 32, east.index, north.index)
    kind = (parcel >> np.uint32(3)) % np.uint32(8)
    grown = np.array(
        [Material.CROP] * 4 + [Material.PLOUGHED, Material.MEADOW, Material.MEADOW, Material.GRASS], np.uint8
    )[kind]
    material[country] = grown[country]
    number[country] = (parcel % np.uint32(BUILDINGS))[country]
    edge = np.minimum(np.minimum(east.before_m, east.after_m), np.minimum(north.before_m, north.after_m))
    hedge = country & (edge < 1.2) & ((parcel >> np.uint32(12)) % np.uint32(3) == 0)
    material[hedge] = Material.HEDGE
    height[hedge] = 1.6 + 1.2 * ((parcel >> np.uint32(16)) & np.uint32(1))[hedge]
    farm = country & ((parcel >> np.uint32(20)) % np.uint32(7) == 0)
    yard = np.maximum(np.abs(east.before_m - 45), np.abs(north.before_m - 50))
    material[farm & (yard < 26)] = Material.GRAVEL
    barn = farm & (np.abs(east.before_m - 38) < 7) & (np.abs(north.before_m - 50) < 18)
    house = farm & (np.abs(east.before_m - 58) < 6) & (np.abs(north.before_m - 44) < 8)
    material[barn | house] = Material.BUILDING
    roof = np.where(barn, 7 - np.abs(east.before_m - 38), 6 - np.abs(east.before_m - 58)) * 0.7
    height[barn | house] = (4.2 + roof)[barn | house]
    forest = country & (wood > FOREST) & (height == 0)
    material[forest] = Material.FOREST_FLOOR


def _blocks(
    material: UInt8,
    height: Float32,
    eaves: Float32,
    number: UInt32,
    town: Bools,
    suburb: Bools,
    lots: _Lots,
    i: Int64,
    j: Int64,
    mood: Float32,
    seed: int,
    look: Look,
) -> None:
    """Fill built blocks lot by lot: terraces in town, houses in gardens in the suburb, parks, squares and yards."""
    block = hashed(seed + 40, i, j)
    width = np.where(town, 9.0 + pick(block, 2, 9), 17.0 + pick(block, 2, 8)).astype(np.float32)
    lot = np.floor(lots.along_m / width).astype(np.int64)
    inside = lots.along_m - lot * width
    chance = hashed(seed + 41, i, j, lots.side * 64 + lot)
    setback = np.where(town, 8.5 + pick(block, 7, 3), 12.0 + pick(block, 7, 6)).astype(np.float32)
    deep = np.where(town, 11.0 + pick(block, 10, 5), 9.0 + pick(block, 10, 4)).astype(np.float32)
    into = lots.depth_m - setback - np.where(town, 0, 2.5 * byte(chance, 0))
    gap = np.where(town, 0.0, 3.0 + 3.0 * byte(chance, 8)).astype(np.float32)
    built = (town | suburb) & (into >= 0) & (into < deep) & (inside >= gap) & (inside < width - gap * 0.4)
    built &= byte(chance, 16) < np.where(town, 0.95, 0.86)
    park = (town | suburb) & (pick(block, 14, 11) == 0)
    tower = town & (pick(block, 18, 13) == 0)
    car_park = (town | suburb) & (pick(block, 22, 23) == 0)
    built &= ~park & ~car_park & ~tower
    storeys = np.where(
        town, 2 + np.floor(4.9 * (0.6 * byte(chance, 4) + 0.4 * mood)), 1 + (byte(chance, 4) > 0.55)
    ).astype(np.float32)
    wall = (storeys + look.more_storeys) * look.storey_m + 0.6
    flat = (pick(block, 26, 3) == 0) | look.flat_roofs
    ridge = np.minimum(into, deep - into) * np.where(flat, 0.05, 0.75)
    slab = tower & (np.abs(lots.depth_m - 30) < 8)
    material[town] = Material.COURTYARD
    material[suburb] = Material.GRASS
    material[park] = Material.GRASS
    material[park & (np.abs(lots.depth_m - 16) < 1.5)] = Material.GRAVEL
    material[park & (lots.depth_m > 24) & (pick(block, 5, 2) == 0)] = Material.SPORT
    material[tower] = Material.GRASS
    material[car_park] = Material.CAR_PARK
    pool = (
        suburb & ~park & (np.abs(into - deep - 9) < 2.5) & (np.abs(inside - width / 2) < 4) & (byte(chance, 20) < 0.18)
    )
    material[pool] = Material.POOL
    fence = suburb & ~park & ~car_park & (np.abs(lots.depth_m - 8.2) < 0.6) & (pick(block, 12, 3) > 0) & (inside > 3.2)
    material[fence], height[fence] = Material.HEDGE, (0.9 + 0.9 * byte(chance, 12))[fence]
    built |= slab
    material[built] = Material.BUILDING
    wall = np.where(slab, 21.0 + 3 * pick(block, 8, 8), wall)
    eaves[built] = wall[built]
    height[built] = (wall + np.where(slab, 0, ridge))[built]
    lot_number = hashed(seed + 42, i, j, np.where(slab, 0, lots.side * 64 + lot)) % np.uint32(BUILDINGS)
    number[town | suburb] = lot_number[town | suburb]


def _trees(
    material: UInt8,
    height: Float32,
    number: UInt32,
    town: Bools,
    suburb: Bools,
    country: Bools,
    wood: Float32,
    x: Float32,
    y: Float32,
    seed: int,
    look: Look,
) -> None:
    """At most one tree in each square of 7 m, its crown inside the square."""
    i, j = np.floor(x / 7).astype(np.int64), np.floor(y / 7).astype(np.int64)
    tree = hashed(seed + 50, i, j)
    radius = 1.6 + 1.8 * byte(tree, 0)
    center_x, center_y = (
        i * 7 + radius + (7 - 2 * radius) * byte(tree, 8),
        j * 7 + radius + (7 - 2 * radius) * byte(tree, 16),
    )
    off = np.hypot(x - center_x, y - center_y)
    open_ground = (height == 0) & np.isin(
        material, (Material.GRASS, Material.COURTYARD, Material.MEADOW, Material.FOREST_FLOOR)
    )
    likely = np.where(material == Material.FOREST_FLOOR, 0.92, np.where(town, 0.16, np.where(suburb, 0.2, 0.015)))
    likely = likely * np.clip(1 + 0.5 * wood, 0.2, 2) * look.trees
    crown = open_ground & (off < radius) & (byte(tree, 24) < likely)
    material[crown] = Material.TREE
    tall = (4.5 + 5.5 * byte(tree, 0) + 2.0 * (material == Material.FOREST_FLOOR)) * np.sqrt(
        np.clip(1 - (off / (radius * 1.05)) ** 2, 0.05, 1)
    )
    height[crown] = tall[crown]
    number[crown] = (tree % np.uint32(BUILDINGS))[crown]


def _streets(
    material: UInt8,
    height: Float32,
    eaves: Float32,
    across: _Lattice,
    along: _Lattice,
    country: Bools,
    water: Bools,
    seed: int,
) -> None:
    """Carve streets along the lattice's lines: all of them where it is built up, every third in the country."""
    for axis, (here, other) in enumerate(((across, along), (along, across))):
        first = here.before_m < here.after_m
        line = here.index + ~first
        off = np.minimum(here.before_m, here.after_m)
        style = hashed(seed + 60 + axis, line)
        lane = 2.6 + (style % np.uint32(5)).astype(np.float32) * 0.55
        exists = ~country | (style % np.uint32(3) == 0)
        road = exists & (off < lane)
        walk = exists & ~country & (off >= lane) & (off < lane + 1.5 + (style >> np.uint32(8)) % np.uint32(3))
        walk &= ~water & (np.minimum(other.before_m, other.after_m) > 2.6)
        for raster in (height, eaves):
            raster[road | walk] = 0
        material[walk] = Material.PAVEMENT
        material[road] = np.where(
            country & ((style >> np.uint32(12)) % np.uint32(3) == 0), Material.GRAVEL, Material.ASPHALT
        )[road]
        dashed = (
            road & ~country & (off < 0.5) & (other.before_m % 6 < 3) & ((style >> np.uint32(16)) % np.uint32(2) == 0)
        )
        material[dashed] = Material.MARKING
        # Street trees stand in a row along some streets.
        lined = exists & ~country & ((style >> np.uint32(20)) % np.uint32(3) == 0) & ~water
        spot = np.hypot(off - (lane + 2.2), other.before_m % 11 - 5.5)
        planted = lined & (spot < 1.7) & (np.minimum(other.before_m, other.after_m) > 9) & (off > lane + 0.6)
        material[planted] = Material.TREE
        height[planted], eaves[planted] = 6.5 - spot[planted], 0


def _sea(material: UInt8, height: Float32, eaves: Float32, sea_m: Float32) -> None:
    """Water, a beach, and a paved promenade behind it; streets end there."""
    for kind, where in (
        (Material.WATER, sea_m < 0),
        (Material.SHORE, (sea_m >= 0) & (sea_m < BEACH_M)),
        (Material.PAVEMENT, (sea_m >= BEACH_M) & (sea_m < BEACH_M + 6)),
    ):
        material[where] = kind
        for raster in (height, eaves):
            raster[where] = 0
