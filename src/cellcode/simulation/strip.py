"""Filling some rows of a world, lot by lot: parcels and farms in the country, blocks in town and suburb, trees, streets."""

from dataclasses import dataclass

import numpy as np

from cellcode.simulation.look import BUILDINGS, FOREST, SUBURB, TOWN, Look, Material
from cellcode.simulation.noise import byte, hashed, pick, uniform
from cellcode.types import Bools, Float32, Int64, UInt8

BEACH_M = 40
TREES_ON = (Material.GRASS, Material.COURTYARD, Material.MEADOW, Material.FOREST_FLOOR)


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


class Strip:
    """Rows of a world while they are filled; arrays of shape (R, size) unless another one is given.

    Attributes:
        x: (1, size) float32, metres to the east.
        y: (R, 1) float32, metres to the south.
        u, v: x and y as the noise bends them; streets are straight in these.
        wood: large-scale noise: where the country is wooded.
        across, along: the lattice of streets in u and in v.
        town, suburb, country: bool; each point is of one of the three.
        mood: one value per block.
        material, height, eaves, number: what `fill` writes; see `World`.
    """

    def __init__(
        self, seed: int, look: Look, *, x: Float32, y: Float32, u: Float32, v: Float32, urban: Float32, wood: Float32
    ) -> None:
        self.seed, self.look, self.x, self.y, self.u, self.v, self.wood = seed, look, x, y, u, v, wood
        self.across = _lattice(u, seed + 20, look.street_pitch_m[0])
        self.along = _lattice(v, seed + 21, look.street_pitch_m[1])
        # One value per block, so that a block is of one kind.
        self.mood = uniform(seed + 22, *self.block)
        built_up = urban + 0.5 * (self.mood - 0.5)
        self.town = built_up > TOWN
        self.suburb = ~self.town & (built_up > SUBURB)
        self.country = ~self.town & ~self.suburb
        self.material: UInt8 = np.full(u.shape, Material.MEADOW, np.uint8)
        self.height: Float32 = np.zeros(u.shape, np.float32)
        self.eaves: Float32 = np.zeros(u.shape, np.float32)
        self.number = hashed(seed + 23, *self.block) % np.uint32(BUILDINGS)

    @property
    def block(self) -> tuple[Int64, Int64]:
        """Column and row of the block in the lattice of streets."""
        return self.across.index, self.along.index

    def fill(self, water: Bools, shore: Bools) -> None:
        """Fill the rows with everything but the sea."""
        _country(self)
        _blocks(self)
        _trees(self)
        self.material[shore & (self.height == 0)] = Material.SHORE
        self.cover(Material.WATER, water)
        _streets(self, water)

    def flood(self, sea_m: Float32) -> None:
        """Add the sea, a beach, and a paved promenade behind it; streets end there."""
        self.cover(Material.WATER, sea_m < 0)
        self.cover(Material.SHORE, (sea_m >= 0) & (sea_m < BEACH_M))
        self.cover(Material.PAVEMENT, (sea_m >= BEACH_M) & (sea_m < BEACH_M + 6))

    def cover(self, material: Material, where: Bools) -> None:
        """Replace whatever stands somewhere by bare ground of a material."""
        self.material[where] = material
        self.height[where] = self.eaves[where] = 0


def _country(strip: Strip) -> None:
    """Parcels with crops, meadows and ploughed soil, hedges between some of them, forest."""
    material, height, number, country = strip.material, strip.height, strip.number, strip.country
    seed, u, v = strip.seed, strip.u, strip.v
    east, north = _lattice(u * 0.9 + v * 0.25, seed + 30, 150.0), _lattice(v * 0.9 - u * 0.25, seed + 31, 210.0)
    parcel = hashed(seed + 32, east.index, north.index)
    kind = pick(parcel, 3, 8)
    grown = [Material.CROP] * 4 + [Material.PLOUGHED, Material.MEADOW, Material.MEADOW, Material.GRASS]
    material[country] = np.array(grown, np.uint8)[kind][country]
    number[country] = (parcel % np.uint32(BUILDINGS))[country]
    edge = np.minimum(np.minimum(east.before_m, east.after_m), np.minimum(north.before_m, north.after_m))
    hedge = country & (edge < 1.2) & (pick(parcel, 12, 3) == 0)
    material[hedge] = Material.HEDGE
    height[hedge] = 1.6 + 1.2 * ((parcel >> np.uint32(16)) & np.uint32(1))[hedge]
    farm = country & (pick(parcel, 20, 7) == 0)
    yard = np.maximum(np.abs(east.before_m - 45), np.abs(north.before_m - 50))
    material[farm & (yard < 26)] = Material.GRAVEL
    barn = farm & (np.abs(east.before_m - 38) < 7) & (np.abs(north.before_m - 50) < 18)
    house = farm & (np.abs(east.before_m - 58) < 6) & (np.abs(north.before_m - 44) < 8)
    material[barn | house] = Material.BUILDING
    roof = np.where(barn, 7 - np.abs(east.before_m - 38), 6 - np.abs(east.before_m - 58)) * 0.7
    height[barn | house] = (4.2 + roof)[barn | house]
    forest = country & (strip.wood > FOREST) & (height == 0)
    material[forest] = Material.FOREST_FLOOR


def _blocks(strip: Strip) -> None:
    """Fill built blocks lot by lot: terraces in town, houses in gardens in the suburb, parks, squares and yards."""
    material, height, seed = strip.material, strip.height, strip.seed
    town, suburb, (i, j) = strip.town, strip.suburb, strip.block
    across, along = strip.across, strip.along
    edges = np.stack([across.before_m, across.after_m, along.before_m, along.after_m])
    side, depth_m = edges.argmin(axis=0), edges.min(axis=0)  # of the lot: the street it faces, metres from its middle
    along_m = np.where(side < 2, along.before_m, across.before_m)
    block = hashed(seed + 40, i, j)
    width = np.where(town, 9.0 + pick(block, 2, 9), 17.0 + pick(block, 2, 8)).astype(np.float32)
    lot = np.floor(along_m / width).astype(np.int64)
    inside = along_m - lot * width
    chance = hashed(seed + 41, i, j, side * 64 + lot)
    setback = np.where(town, 8.5 + pick(block, 7, 3), 12.0 + pick(block, 7, 6)).astype(np.float32)
    deep = np.where(town, 11.0 + pick(block, 10, 5), 9.0 + pick(block, 10, 4)).astype(np.float32)
    into = depth_m - setback - np.where(town, 0, 2.5 * byte(chance, 0))
    gap = np.where(town, 0.0, 3.0 + 3.0 * byte(chance, 8)).astype(np.float32)
    built = (town | suburb) & (into >= 0) & (into < deep) & (inside >= gap) & (inside < width - gap * 0.4)
    built &= byte(chance, 16) < np.where(town, 0.95, 0.86)
    park = (town | suburb) & (pick(block, 14, 11) == 0)
    tower = town & (pick(block, 18, 13) == 0)
    car_park = (town | suburb) & (pick(block, 22, 23) == 0)
    built &= ~park & ~car_park & ~tower
    luck = byte(chance, 4)
    storeys = np.where(town, 2 + np.floor(4.9 * (0.6 * luck + 0.4 * strip.mood)), 1 + (luck > 0.55)).astype(np.float32)
    wall = (storeys + strip.look.more_storeys) * strip.look.storey_m + 0.6
    flat = (pick(block, 26, 3) == 0) | strip.look.flat_roofs
    ridge = np.minimum(into, deep - into) * np.where(flat, 0.05, 0.75)
    slab = tower & (np.abs(depth_m - 30) < 8)
    material[town] = Material.COURTYARD
    material[suburb] = Material.GRASS
    material[park] = Material.GRASS
    material[park & (np.abs(depth_m - 16) < 1.5)] = Material.GRAVEL
    material[park & (depth_m > 24) & (pick(block, 5, 2) == 0)] = Material.SPORT
    material[tower] = Material.GRASS
    material[car_park] = Material.CAR_PARK
    pool = suburb & ~park & (np.abs(into - deep - 9) < 2.5) & (np.abs(inside - width / 2) < 4)
    material[pool & (byte(chance, 20) < 0.18)] = Material.POOL
    fence = suburb & ~park & ~car_park & (np.abs(depth_m - 8.2) < 0.6) & (pick(block, 12, 3) > 0) & (inside > 3.2)
    material[fence], height[fence] = Material.HEDGE, (0.9 + 0.9 * byte(chance, 12))[fence]
    built |= slab
    material[built] = Material.BUILDING
    wall = np.where(slab, 21.0 + 3 * pick(block, 8, 8), wall)
    strip.eaves[built] = wall[built]
    height[built] = (wall + np.where(slab, 0, ridge))[built]
    lot_number = hashed(seed + 42, i, j, np.where(slab, 0, side * 64 + lot)) % np.uint32(BUILDINGS)
    strip.number[town | suburb] = lot_number[town | suburb]


def _trees(strip: Strip) -> None:
    """At most one tree in each square of 7 m, its crown inside the square."""
    material, height, x, y = strip.material, strip.height, strip.x, strip.y
    i, j = np.floor(x / 7).astype(np.int64), np.floor(y / 7).astype(np.int64)
    tree = hashed(strip.seed + 50, i, j)
    radius = 1.6 + 1.8 * byte(tree, 0)
    center_x, center_y = (at * 7 + radius + (7 - 2 * radius) * byte(tree, shift) for at, shift in ((i, 8), (j, 16)))
    off = np.hypot(x - center_x, y - center_y)
    open_ground = (height == 0) & np.isin(material, TREES_ON)
    likely = np.select([material == Material.FOREST_FLOOR, strip.town, strip.suburb], [0.92, 0.16, 0.2], 0.015)
    likely = likely * np.clip(1 + 0.5 * strip.wood, 0.2, 2) * strip.look.trees
    crown = open_ground & (off < radius) & (byte(tree, 24) < likely)
    material[crown] = Material.TREE
    tall = (4.5 + 5.5 * byte(tree, 0) + 2.0 * (material == Material.FOREST_FLOOR)) * np.sqrt(
        np.clip(1 - (off / (radius * 1.05)) ** 2, 0.05, 1)
    )
    height[crown] = tall[crown]
    strip.number[crown] = (tree % np.uint32(BUILDINGS))[crown]


def _streets(strip: Strip, water: Bools) -> None:
    """Carve streets along the lattice's lines: all of them where it is built up, every third in the country."""
    material, country = strip.material, strip.country
    for axis, (here, other) in enumerate(((strip.across, strip.along), (strip.along, strip.across))):
        first = here.before_m < here.after_m
        line = here.index + ~first
        off = np.minimum(here.before_m, here.after_m)
        style = hashed(strip.seed + 60 + axis, line)
        lane = 2.6 + (style % np.uint32(5)).astype(np.float32) * 0.55
        exists = ~country | (style % np.uint32(3) == 0)
        road = exists & (off < lane)
        walk = exists & ~country & (off >= lane) & (off < lane + 1.5 + pick(style, 8, 3))
        walk &= ~water & (np.minimum(other.before_m, other.after_m) > 2.6)
        strip.cover(Material.ASPHALT, road)
        strip.cover(Material.PAVEMENT, walk)
        material[road & country & (pick(style, 12, 3) == 0)] = Material.GRAVEL
        dashed = road & ~country & (off < 0.5) & (other.before_m % 6 < 3) & (pick(style, 16, 2) == 0)
        material[dashed] = Material.MARKING
        # Street trees stand in a row along some streets.
        lined = exists & ~country & (pick(style, 20, 3) == 0) & ~water
        spot = np.hypot(off - (lane + 2.2), other.before_m % 11 - 5.5)
        planted = lined & (spot < 1.7) & (np.minimum(other.before_m, other.after_m) > 9) & (off > lane + 0.6)
        material[planted] = Material.TREE
        strip.height[planted], strip.eaves[planted] = 6.5 - spot[planted], 0
