"""The geometry of the rendered world: what stands on every square metre.

Everything is a pure function of seed and coordinates. Streets are the lines of an irregular lattice that smooth noise has
bent; the blocks between them are town, suburb, park, farmland or forest by large-scale noise, and are filled lot by lot.
Photos and the aerial image both read these rasters, so that the one explains the other.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cellcode.simulation.look import COARSE_M, COAST_M, FOREST, LOOKS, SUBURB, TOWN, Look, Style
from cellcode.simulation.noise import hashed, smooth
from cellcode.simulation.strip import Strip
from cellcode.types import Float16, Float32, Float64, Strings, UInt8, UInt32

STYLE_M = 360  # districts are about this large
ROWS = 128  # rows of the raster made at a time


@dataclass(frozen=True)
class World:
    """Rasters of one metre: row 0 is the north edge, column 0 the west edge.

    Attributes:
        height_m: float16, top of what stands there; 0 is bare ground.
        eaves_m: float16, where the wall ends and the roof begins; 0 where there is no building.
        material: uint8, `Material`.
        building: uint32 below BUILDINGS, number of the building or, elsewhere, of the lot or parcel.
        style: float32 (len(Style), 3, ...) on the coarse grid, mean 0 and deviation 1: the style of the district.
        urban: float32 on the coarse grid: above 0.6 town, above -0.2 suburb, below country.
        wood: float32 on the coarse grid: above 0.75 the country is forest.
        sea_m: float32 on the coarse grid, rough distance from the sea, negative in it; infinite in a world without a coast.
        texture: uint8, fine grain of the ground.
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
    """Build the rasters, some rows at a time; `look` is one of LOOKS, and with a coast the west is sea."""
    fields, shape = _Fields(size_m, seed, coast), (size_m, size_m)
    height, eaves = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
    material, building, texture = np.zeros(shape, np.uint8), np.zeros(shape, np.uint32), np.zeros(shape, np.uint8)
    coarse = {"style": fields.style, "urban": fields.urban, "wood": fields.wood, "sea_m": fields.sea_m}
    world = World(size_m, seed, height, eaves, material, building, texture, look=LOOKS[look], **coarse)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda first: _fill(world, slice(first, first + ROWS), fields), range(0, size_m, ROWS)))
    return world


def _fill(world: World, rows: slice, fields: _Fields) -> None:
    y = np.arange(world.size_m, dtype=np.float32)[rows, None]
    x = np.arange(world.size_m, dtype=np.float32)[None, :]
    rows = slice(rows.start, rows.start + len(y))
    u, v = x + fields.at(fields.bend[0], rows), y + fields.at(fields.bend[1], rows)
    urban, wood = fields.at(fields.urban, rows), fields.at(fields.wood, rows)
    strip = Strip(world.seed, world.look, x=x, y=y, u=u, v=v, urban=urban, wood=wood)
    river, wet = np.abs(fields.at(fields.river, rows)), fields.at(fields.wet, rows)
    strip.fill(water=(river < 0.045) | (wet < -1.45), shore=(river < 0.075) | (wet < -1.3))
    if np.isfinite(world.sea_m).all():
        strip.flood(fields.at(world.sea_m, rows))
    world.height_m[rows], world.eaves_m[rows] = strip.height, strip.eaves
    world.material[rows], world.building[rows] = strip.material, strip.number
    world.texture[rows] = hashed(world.seed + 24, x, y) >> np.uint32(24)


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
