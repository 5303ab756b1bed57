"""The world on one date: sun, season, weather, and the buildings as they stood then.

A scene holds the colours of everything seen from above. The aerial image is that raster with its shadows; photos take the
colours of ground, crowns and roofs from it and add the walls.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from cellcode.simulation.look import BUILDINGS, COARSE_M, Look, Material, Style
from cellcode.simulation.noise import uniform
from cellcode.simulation.world import World
from cellcode.types import Bools, Float32, Int64, UInt8

CHANGED_SHARE = 0.05  # buildings that change between one date and the next
SHADOW_M = 2  # shadows are cast on a raster of this step
STRIP = 256
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Day:
    """One date of the survey. Colours are RGB shares; angles in degrees, the azimuth clockwise from north."""

    time: datetime
    sun_azimuth_deg: float
    sun_elevation_deg: float
    sunlight: Colour
    ambient: Colour
    sky: Colour
    haze: Colour
    visibility_m: float
    clouds: float
    grass: Colour
    leaves: Colour
    crop: Colour
    soil: Colour
    snow: float = 0.0
    wet: float = 0.0


def _day(text: str, azimuth: float, elevation: float, **kwargs: object) -> Day:
    return Day(datetime.fromisoformat(text), azimuth, elevation, **kwargs)  # type: ignore[arg-type]


# The aerial image is the oldest; the last date is photographed only where no other one is (see survey).
AERIAL_DAY = _day(
    "2023-07-18T11:30:00", 150, 56, sunlight=(0.72, 0.70, 0.64), ambient=(0.38, 0.40, 0.44), sky=(0.42, 0.62, 0.90),
    haze=(0.78, 0.84, 0.92), visibility_m=1500, clouds=0.2, grass=(0.36, 0.47, 0.20), leaves=(0.17, 0.33, 0.12),
    crop=(0.62, 0.58, 0.30), soil=(0.46, 0.38, 0.28),
)  # fmt: skip
PHOTO_DAYS = (
    _day(
        "2024-03-16T09:40:00", 128, 27, sunlight=(0.70, 0.64, 0.54), ambient=(0.40, 0.43, 0.48), sky=(0.58, 0.70, 0.86),
        haze=(0.80, 0.83, 0.86), visibility_m=450, clouds=0.5, grass=(0.38, 0.45, 0.22), leaves=(0.34, 0.36, 0.20),
        crop=(0.34, 0.44, 0.20), soil=(0.40, 0.32, 0.24), wet=0.4,
    ),
    _day(
        "2024-06-22T13:10:00", 190, 60, sunlight=(0.74, 0.71, 0.64), ambient=(0.38, 0.40, 0.44), sky=(0.36, 0.58, 0.92),
        haze=(0.76, 0.84, 0.94), visibility_m=1100, clouds=0.15, grass=(0.33, 0.48, 0.18), leaves=(0.15, 0.34, 0.11),
        crop=(0.48, 0.55, 0.24), soil=(0.48, 0.40, 0.30),
    ),
    _day(
        "2024-10-12T16:30:00", 236, 17, sunlight=(0.78, 0.60, 0.40), ambient=(0.40, 0.40, 0.44), sky=(0.62, 0.68, 0.80),
        haze=(0.88, 0.80, 0.70), visibility_m=600, clouds=0.4, grass=(0.40, 0.44, 0.20), leaves=(0.55, 0.36, 0.12),
        crop=(0.54, 0.46, 0.30), soil=(0.38, 0.30, 0.22),
    ),
    _day(
        "2025-01-25T12:20:00", 182, 19, sunlight=(0.42, 0.42, 0.42), ambient=(0.52, 0.54, 0.58), sky=(0.74, 0.77, 0.80),
        haze=(0.80, 0.82, 0.84), visibility_m=260, clouds=0.9, grass=(0.44, 0.46, 0.30), leaves=(0.36, 0.31, 0.25),
        crop=(0.42, 0.40, 0.26), soil=(0.34, 0.28, 0.22), snow=0.35, wet=0.5,
    ),
    _day(
        "2025-05-10T15:20:00", 232, 46, sunlight=(0.74, 0.69, 0.58), ambient=(0.38, 0.40, 0.45), sky=(0.44, 0.62, 0.88),
        haze=(0.80, 0.84, 0.88), visibility_m=750, clouds=0.3, grass=(0.35, 0.50, 0.19), leaves=(0.24, 0.42, 0.14),
        crop=(0.40, 0.52, 0.20), soil=(0.44, 0.36, 0.27),
    ),
)  # fmt: skip
DAYS = (AERIAL_DAY, *PHOTO_DAYS)


@dataclass(frozen=True)
class Scene:
    """What can be seen on a day; rasters as in `World`.

    Attributes:
        height_m, eaves_m, material: float32 and uint8, with the day's buildings.
        colour: (size, size, 3) uint8, the surface from above in even light.
        light: (size / SHADOW_M, ...) float32, share of direct sunlight that reaches the surface.
        wall: (BUILDINGS, 3) float32.
        sun: east, south, up: the unit vector towards the sun.
    """

    world: World
    day: Day
    height_m: Float32
    eaves_m: Float32
    material: UInt8
    colour: UInt8
    light: Float32
    wall: Float32
    sun: tuple[float, float, float]


def make_scene(world: World, day: Day) -> Scene:
    """Bring the world to a day."""
    state, gone, factor = _buildings(world.seed, DAYS.index(day))
    number, is_building = world.building, world.material == Material.BUILDING
    vanished = is_building & gone[number]
    scale = np.where(is_building, factor[number], np.float32(1))
    scale[vanished] = 0
    material = world.material.copy()
    material[vanished] = Material.GRAVEL
    height, eaves = (np.asarray(raster * scale, np.float32) for raster in (world.height_m, world.eaves_m))
    azimuth, elevation = math.radians(day.sun_azimuth_deg), math.radians(day.sun_elevation_deg)
    sun = (math.sin(azimuth) * math.cos(elevation), -math.cos(azimuth) * math.cos(elevation), math.sin(elevation))
    numbers = np.arange(BUILDINGS)
    choice = world.look.walls
    walls = choice[(uniform(world.seed + 80, numbers, state) ** 1.3 * len(choice)).astype(int)]
    walls = walls * (0.8 + 0.4 * uniform(world.seed + 81, numbers, state))[:, None]
    colour = _colours(world, day, material, height, eaves, state)
    return Scene(world, day, height, eaves, material, colour, _sunlit(height, sun), walls.astype(np.float32), sun)


def _buildings(seed: int, day: int) -> tuple[Int64, Bools, Float32]:
    """Version of each building on a day, whether it is gone, and the factor on its height."""
    numbers = np.arange(BUILDINGS)
    version = np.zeros(BUILDINGS, np.int64)
    for index in range(1, day + 1):
        version[uniform(seed + 70, numbers, index) < CHANGED_SHARE] = index
    changed = version > 0
    gone = changed & (uniform(seed + 71, numbers, version) < 0.25)
    factor = np.where(changed, 0.6 + 0.9 * uniform(seed + 72, numbers, version), 1).astype(np.float32)
    return version, gone, factor


def _palette(day: Day, look: Look) -> Float32:
    """Colours of the materials, (18, 3)."""
    green, earth = np.array(look.green, np.float32), np.array(look.earth, np.float32)
    grass, leaves, crop = (np.array(colour, np.float32) * green for colour in (day.grass, day.leaves, day.crop))
    soil = np.array(day.soil, np.float32) * earth
    damp = 1 - 0.3 * day.wet
    table = {
        Material.GRASS: grass,
        Material.ASPHALT: np.array((0.33, 0.33, 0.35)) * damp,
        Material.PAVEMENT: np.array((0.58, 0.56, 0.53)) * damp,
        Material.MARKING: np.array((0.86, 0.86, 0.84)),
        Material.CROP: crop,
        Material.PLOUGHED: soil * damp,
        Material.MEADOW: grass * (1.1, 1.0, 1.05),
        Material.FOREST_FLOOR: 0.5 * soil + 0.3 * grass,
        Material.WATER: np.array((0.16, 0.24, 0.30)),
        Material.COURTYARD: np.array((0.50, 0.47, 0.42)) * damp,
        Material.GRAVEL: np.array((0.62, 0.57, 0.48)) * damp,
        Material.TREE: leaves,
        Material.HEDGE: 0.5 * leaves + 0.5 * np.array((0.16, 0.28, 0.12)),
        Material.BUILDING: np.array((0.5, 0.5, 0.5)),
        Material.SPORT: np.array((0.60, 0.32, 0.22)),
        Material.POOL: np.array((0.30, 0.66, 0.80)),
        Material.SHORE: np.array((0.70, 0.64, 0.48)),
        Material.CAR_PARK: np.array((0.40, 0.40, 0.41)) * damp,
    }
    return np.array([table[material] for material in Material], np.float32)


_COVERED_BY_SNOW = (
    Material.GRASS, Material.CROP, Material.PLOUGHED, Material.MEADOW, Material.FOREST_FLOOR, Material.COURTYARD,
    Material.BUILDING, Material.SPORT, Material.GRAVEL,
)  # fmt: skip
_STYLED = {  # what shows the district, and how strongly: its roofs, its stone, its soil, its kinds of trees
    Material.ASPHALT: (Style.ROADS, 0.08), Material.CAR_PARK: (Style.ROADS, 0.08), Material.PAVEMENT: (Style.PAVING, 0.14),
    Material.COURTYARD: (Style.PAVING, 0.13), Material.GRAVEL: (Style.PAVING, 0.13), Material.GRASS: (Style.GREEN, 0.08),
    Material.TREE: (Style.GREEN, 0.10), Material.HEDGE: (Style.GREEN, 0.10), Material.MEADOW: (Style.SOIL, 0.09),
    Material.CROP: (Style.SOIL, 0.11), Material.PLOUGHED: (Style.SOIL, 0.10), Material.FOREST_FLOOR: (Style.SOIL, 0.08),
    Material.BUILDING: (Style.ROOFS, 0.17),
}  # fmt: skip


def _colours(world: World, day: Day, material: UInt8, height: Float32, eaves: Float32, state: Int64) -> UInt8:
    numbers = np.arange(BUILDINGS)
    palette = _palette(day, world.look)
    style, strength = np.zeros(len(Material), np.int64), np.zeros(len(Material), np.float32)
    for styled, (which, how_much) in _STYLED.items():
        style[styled], strength[styled] = which, how_much
    snowy = np.isin(np.arange(len(Material)), _COVERED_BY_SNOW)
    choice = world.look.roofs
    roofs = choice[(uniform(world.seed + 82, numbers, state) * len(choice)).astype(int)]
    roofs = roofs * (0.85 + 0.3 * uniform(world.seed + 83, numbers, state))[:, None]
    own = 0.88 + 0.24 * uniform(world.seed + 84, numbers)  # parcels and crowns differ in brightness
    colour = np.empty((*material.shape, 3), np.uint8)

    def fill(first: int) -> None:
        rows = slice(first, first + STRIP)
        kind, number = material[rows], world.building[rows]
        rgb = palette[kind]
        building = kind == Material.BUILDING
        rgb[building] = roofs[number[building]]
        # Districts have soft borders, so the steps of the coarse grid do not show.
        y, x = np.arange(rows.start, rows.start + len(kind)) // COARSE_M, np.arange(world.size_m) // COARSE_M
        which, how_much = style[kind], strength[kind]
        for channel in range(3):
            rgb[..., channel] += world.style[which, channel, y[:, None], x[None, :]] * how_much
        grain = world.texture[rows].astype(np.float32) / 255 - 0.5
        ridge = np.clip((height[rows] - eaves[rows]) * 0.03, 0, 0.15) * building
        rgb *= ((0.9 + 0.2 * own[number]) * (1 + 0.22 * grain) + ridge)[..., None]
        if day.snow:
            cover = snowy[kind] & (world.texture[rows] < 255 * (0.4 + day.snow))
            rgb[cover] = rgb[cover] * (1 - day.snow) + day.snow * 0.92
        colour[rows] = np.clip(rgb * 255, 0, 255).astype(np.uint8)

    _in_strips(fill, world.size_m)
    return colour


def _sunlit(height: Float32, sun: tuple[float, float, float]) -> Float32:
    """March from every point towards the sun; 1 where nothing is higher than the ray."""
    low = np.ascontiguousarray(height[::SHADOW_M, ::SHADOW_M])
    size = len(low)
    slope, east, south = (part / math.hypot(sun[0], sun[1]) for part in (sun[2], sun[0], sun[1]))
    reach = min(80, math.ceil(float(low.max()) / slope / SHADOW_M))
    padded = np.pad(low, reach + 1)
    lit = np.ones((size, size), np.float32)

    def march(first: int) -> None:
        last = min(first + STRIP, size)
        own = low[first:last] + 0.5
        shadow = np.zeros(own.shape, bool)
        for step in range(1, reach + 1):
            i, j = reach + 1 + round(south * step), reach + 1 + round(east * step)
            shadow |= padded[first + i : last + i, j : j + size] > own + np.float32(slope * step * SHADOW_M)
        lit[first:last][shadow] = 0.25

    _in_strips(march, size)
    return lit


def _in_strips(work: Callable[[int], None], rows: int) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(work, range(0, rows, STRIP)))
