"""Photos from the ground: a 2.5D column renderer, vectorised over views.

Every column of a photo is a ray over the height raster. The first sample along the ray whose top rises to a row is what the
row shows; where that sample is bare ground, the exact point of the ground plane is taken instead. Distances of samples grow
by a constant ratio, so that near facades are sharp and far ones cost little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellcode.simulation import occluders
from cellcode.simulation.look import COARSE_M, Material, Style
from cellcode.simulation.noise import byte, hashed, uniform
from cellcode.simulation.scene import SHADOW_M, Scene
from cellcode.types import Bools, Float32, Float64, Int64, UInt8, UInt32

WIDTH_PX, HEIGHT_PX = 128, 96
NEAREST_M, FARTHEST_M, RATIO = 1.2, 480.0, 1.035
DISTANCES_M = (NEAREST_M * RATIO ** np.arange(int(np.log(FARTHEST_M / NEAREST_M) / np.log(RATIO)))).astype(np.float32)


@dataclass(frozen=True)
class Views:
    """Where photos are taken and how; arrays of shape (B,).

    Attributes:
        x_m, y_m: from the world's north-west corner, y to the south.
        heading_deg: clockwise from the raster's north.
        fov_deg: horizontal field of view.
        camera_m: height above ground.
        pitch_deg: positive upwards.
        exposure, white_balance (B, 3), noise: of the camera.
        seed: of each photo's occluders and noise.
    """

    x_m: Float64
    y_m: Float64
    heading_deg: Float64
    fov_deg: Float64
    camera_m: Float64
    pitch_deg: Float64
    roll_deg: Float64
    exposure: Float64
    white_balance: Float64
    noise: Float64
    seed: Int64

    def __len__(self) -> int:
        """Return B."""
        return len(self.x_m)

    def take(self, rows: Int64 | slice) -> Views:
        """Return some of the views."""
        return Views(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Rays:
    """Geometry of a batch: arrays broadcast to (B, H, W)."""

    east: Float32  # (B, W), with `south` the direction of each column in the plane
    south: Float32
    cosine: Float32  # (B, W), of the angle between column and optical axis
    focal_px: Float32  # (B, 1)
    horizon_px: Float32  # (B, W), row of the horizon in each column


def render(scene: Scene, views: Views) -> UInt8:
    """Render photos, (B, HEIGHT_PX, WIDTH_PX, 3) uint8."""
    rays = _rays(views)
    index = _first_hits(scene, views, rays)  # B x H x W, DISTANCES_M.size where a row shows no sample
    rows = (np.arange(HEIGHT_PX, dtype=np.float32) + 0.5)[None, :, None]
    below = rows - rays.horizon_px[:, None, :]
    # Along the ground the ray of a row meets the plane at this distance.
    plane_m = (views.camera_m[:, None, None] * rays.focal_px[..., None] / np.maximum(below, 0.05)).astype(np.float32)
    plane_m = plane_m / rays.cosine[:, None, :]
    hit = index < len(DISTANCES_M)
    distance_m = DISTANCES_M[np.minimum(index, len(DISTANCES_M) - 1)]
    x, y = _along(views, rays, distance_m)
    height = _look(scene.height_m, x, y)
    solid = hit & (height > 0.3)
    distance_m = np.where(solid, distance_m, np.minimum(plane_m, 4 * FARTHEST_M))
    x, y = _along(views, rays, distance_m)
    seen = solid | (hit & (below > 0))
    above_m = views.camera_m[:, None, None] - below * distance_m * rays.cosine[:, None, :] / rays.focal_px[..., None]
    image = _surface(scene, x, y, above_m.astype(np.float32), solid, rays)
    haze = 1 - np.exp(-distance_m / np.float32(scene.day.visibility_m))
    image += (np.array(scene.day.haze, np.float32) - image) * haze[..., None]
    image = np.where(seen[..., None], image, _sky(scene, views, rays, below))
    depth_m = np.where(seen, distance_m, np.inf).astype(np.float32)
    for row in range(len(views)):
        horizon_px, focal_px = float(rays.horizon_px[row].mean()), float(rays.focal_px[row, 0])
        camera_m, light = float(views.camera_m[row]), scene.day.ambient[1] + 0.7 * scene.day.sunlight[1]
        occluders.draw(
            image[row], depth_m[row], horizon_px=horizon_px, focal_px=focal_px, camera_m=camera_m, light=light,
            seed=int(views.seed[row]),
        )  # fmt: skip
    return _develop(image, views)


def _rays(views: Views) -> Rays:
    focal = (WIDTH_PX / 2) / np.tan(np.radians(views.fov_deg / 2))[:, None]
    columns = np.arange(WIDTH_PX) + 0.5 - WIDTH_PX / 2
    angle = np.arctan(columns / focal)
    bearing = np.radians(views.heading_deg)[:, None] + angle
    horizon = HEIGHT_PX / 2 + focal * np.tan(np.radians(views.pitch_deg))[:, None]
    horizon = horizon + columns * np.tan(np.radians(views.roll_deg))[:, None]
    single = [part.astype(np.float32) for part in (np.sin(bearing), -np.cos(bearing), np.cos(angle), focal, horizon)]
    return Rays(*single)


def _first_hits(scene: Scene, views: Views, rays: Rays) -> Int64:
    """Index of the sample that each pixel shows, by counting the samples that stay below its row."""
    batch, columns, samples = len(views), WIDTH_PX, len(DISTANCES_M)
    x = views.x_m.astype(np.float32)[:, None, None] + rays.east[..., None] * DISTANCES_M
    y = views.y_m.astype(np.float32)[:, None, None] + rays.south[..., None] * DISTANCES_M
    height = _look(scene.height_m, x, y)  # B x W x S
    scale = rays.focal_px[..., None] / (rays.cosine[..., None] * DISTANCES_M)
    top = rays.horizon_px[..., None] - scale * (height - views.camera_m.astype(np.float32)[:, None, None])
    top = np.minimum.accumulate(top, axis=2)
    hidden = np.clip(np.ceil(top - 0.5), 0, HEIGHT_PX).astype(np.int64)  # rows above the sample's top
    bins = hidden + (np.arange(batch * columns) * (HEIGHT_PX + 1)).reshape(batch, columns, 1)
    counts = np.bincount(bins.ravel(), minlength=batch * columns * (HEIGHT_PX + 1)).reshape(batch, columns, -1)
    index = samples - np.cumsum(counts, axis=2)[..., :HEIGHT_PX]  # samples whose top is still below the row
    return index.transpose(0, 2, 1)


def _along(views: Views, rays: Rays, distance_m: Float32) -> tuple[Float32, Float32]:
    x = views.x_m.astype(np.float32)[:, None, None] + rays.east[:, None, :] * distance_m
    y = views.y_m.astype(np.float32)[:, None, None] + rays.south[:, None, :] * distance_m
    return x, y


def _look(raster: npt.NDArray[Any], x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> npt.NDArray[Any]:
    """Value of the raster under each point; beyond its edge the edge goes on."""
    rows, columns = (
        np.clip(at.astype(np.int32), 0, size - 1) for at, size in zip((y, x), raster.shape[:2], strict=True)
    )
    picked: npt.NDArray[Any] = raster[rows, columns]
    return picked


def _surface(scene: Scene, x: Float32, y: Float32, above_m: Float32, solid: Bools, rays: Rays) -> Float32:
    """Lit colour of every pixel as if it showed ground or what stands on it, (B, H, W, 3)."""
    day = scene.day
    rgb = _look(scene.colour, x, y).astype(np.float32) / 255
    light = _look(scene.light, x / SHADOW_M, y / SHADOW_M).astype(np.float32) * np.float32(scene.sun[2])
    # Fine grain that the aerial image is too coarse for.
    grain = uniform(
        scene.world.seed + 90, (x * 4).astype(np.int32), (y * 4).astype(np.int32), (above_m * 3).astype(np.int32)
    )
    rgb *= (0.86 + 0.28 * grain)[..., None]
    at = np.nonzero(solid)
    px, py, up = x[at], y[at], above_m[at]
    kind = _look(scene.material, px, py)
    east, south = _outward(scene, px, py, rays.east[at[0], at[2]], rays.south[at[0], at[2]])
    facing = np.maximum(0, east * scene.sun[0] + south * scene.sun[1])
    upright = up < _look(scene.eaves_m, px, py) + 0.2
    wall = (kind == Material.BUILDING) & (upright | (_look(scene.eaves_m, px, py) == 0))
    number = _look(scene.world.building, px, py)
    own = rgb[at]
    own[wall] = _facade(scene, number[wall], px[wall], py[wall], up[wall], east[wall], south[wall])
    # Crowns and roofs take some light from above, walls from the side only.
    lit = np.where(wall, facing, 0.55 * np.float32(scene.sun[2]) + 0.45 * facing)
    crown = (kind == Material.TREE) & (up < 2.0)
    own[crown] *= 0.55
    rgb[at] = own
    light[at] = lit
    sunlight, ambient = np.array(day.sunlight, np.float32), np.array(day.ambient, np.float32)
    return np.asarray(rgb * (ambient + light[..., None] * 1.25 * sunlight), np.float32)


def _outward(scene: Scene, x: Float32, y: Float32, ray_east: Float32, ray_south: Float32) -> tuple[Float32, Float32]:
    """Horizontal normal of what stands at the points: down the slope of its height, or back along the ray on a plateau."""
    height = scene.height_m
    east = _look(height, x - 2, y) - _look(height, x + 2, y)
    south = _look(height, x, y - 2) - _look(height, x, y + 2)
    flat = (np.abs(east) + np.abs(south) < 0.5) | (east * ray_east + south * ray_south > 0)
    east, south = np.where(flat, -ray_east, east), np.where(flat, -ray_south, south)
    length = np.maximum(np.hypot(east, south), 1e-3)
    return np.asarray(east / length, np.float32), np.asarray(south / length, np.float32)


def _facade(
    scene: Scene, number: UInt32, x: Float32, y: Float32, up: Float32, east: Float32, south: Float32
) -> Float32:
    """Walls with rows of windows, doors and shop fronts; period and glass are the building's own."""
    # Houses of a district are alike: most of a wall's colour and half of its windows' rhythm is the district's.
    walls, windows = (
        np.stack([_look(field, x / COARSE_M, y / COARSE_M) for field in scene.world.style[style]], axis=-1)
        for style in (Style.WALLS, Style.WINDOWS)
    )
    rgb = np.clip(0.35 * scene.wall[number] + 0.37 + 0.23 * walls, 0.05, 0.97)
    style = hashed(scene.world.seed + 91, number)
    along = np.where(np.abs(east) > np.abs(south), y, x)
    look = scene.world.look
    period = 1.8 + 2.4 * np.clip(0.5 * byte(style, 0) + 0.25 + 0.2 * windows[:, 0], 0, 1)
    period = period * np.float32(look.window_period)
    across, storey = along / period, up / np.float32(look.storey_m)
    in_bay, in_storey = across - np.floor(across), storey - np.floor(storey)
    width = 0.34 + 0.34 * np.clip(0.5 * byte(style, 6) + 0.25 + 0.2 * windows[:, 1], 0, 1)
    width = width * np.float32(look.window_width)
    sill = 0.22 + 0.14 * byte(style, 12)
    shop = (storey < 1) & (byte(style, 18) > 0.7)
    window = (np.abs(in_bay - 0.5) < width / 2) & (in_storey > sill) & (in_storey < 0.84)
    window |= shop & (in_storey > 0.12) & (in_storey < 0.8) & (np.abs(in_bay - 0.5) < 0.45)
    glass = uniform(scene.world.seed + 92, number, np.floor(across).astype(np.int32), np.floor(storey).astype(np.int32))
    pane = 0.12 + 0.35 * glass[:, None] * np.array(scene.day.sky, np.float32)
    rgb = rgb * np.where(in_storey > 0.96, 0.8, 1.0)[:, None].astype(np.float32)  # a ledge between storeys
    band = (byte(style, 24) > 0.6) & (storey < 0.8) & ~shop
    rgb = np.where(band[:, None], rgb * np.float32(0.72), rgb)
    return np.asarray(np.where(window[:, None], pane, rgb), np.float32)


def _sky(scene: Scene, views: Views, rays: Rays, below: Float32) -> Float32:
    """Sky with clouds that stand still in the day's world, brighter towards the sun."""
    day = scene.day
    up = np.clip(-below / (0.8 * rays.focal_px[..., None]), 0, 1)
    sky, haze = np.array(day.sky, np.float32), np.array(day.haze, np.float32)
    bearing = np.arctan2(rays.east, -rays.south)[:, None, :]
    wave = np.zeros_like(up)
    for octave in range(3):
        turns, phase = 3 + 4 * octave, uniform(scene.world.seed + 95, octave, day.time.month) * 6.3
        wave += np.sin(bearing * turns + phase + 9 * up * (octave + 1)) / (octave + 1.5)
    cloud = np.clip(day.clouds + 0.35 * wave, 0, 1)[..., None]
    base = haze + (sky - haze) * np.sqrt(up)[..., None]
    base = base + (np.float32(0.9) - base) * cloud * np.float32(0.7)
    toward = rays.east * scene.sun[0] + rays.south * scene.sun[1]
    return np.asarray(base * (0.95 + 0.12 * np.maximum(toward, 0)[:, None, :, None] ** 4), np.float32)


def _develop(image: Float32, views: Views) -> UInt8:
    """Exposure, white balance, vignette, sensor noise."""
    y = np.linspace(-1, 1, HEIGHT_PX, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, WIDTH_PX, dtype=np.float32)[None, :]
    vignette = (1 - 0.09 * (x**2 + y**2))[..., None]
    gain = (views.exposure[:, None] * views.white_balance).astype(np.float32)[:, None, None, :]
    image = image * gain * vignette
    for row, (seed, noise) in enumerate(zip(views.seed.tolist(), views.noise.tolist(), strict=True)):
        rng = np.random.default_rng([seed, 1])
        image[row] += noise * rng.standard_normal(image[row].shape, np.float32)
    return np.clip(image * 255, 0, 255).astype(np.uint8)
