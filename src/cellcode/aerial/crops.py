"""Crops: where their corners lie, from a quadrilateral of a source's pixels to a square, and those of many points."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from cellcode.aerial.protocol import AerialSource
from cellcode.geography import s2
from cellcode.geography.distance import offset
from cellcode.progress import track
from cellcode.types import Bools, Datetimes, Float32, Float64, UInt8


class Crops(NamedTuple):
    """Squares of imagery around N points; see `Crop`."""

    pixels: UInt8  # (N, size_px, size_px, 3) uint8
    mask: Bools  # (N, size_px, size_px) bool
    dates: Datetimes  # (N,) datetime64[D], NaT where not known
    complete: Bools  # (N,) bool, False where something is masked that may be there later


def read_crops(
    source: AerialSource,
    lat_deg: Float64,
    lon_deg: Float64,
    *,
    size_m: float,
    size_px: int,
    bearing_deg: float = 0.0,
    description: str | None = None,
) -> Crops:
    """Cut a square around each point, with as many threads as there are cores, in an order that keeps blocks in the cache.

    Args:
        description: shown as progress; None shows none.
    """
    count = len(lat_deg)
    pixels = np.empty((count, size_px, size_px, 3), np.uint8)
    mask, dates = np.empty((count, size_px, size_px), bool), np.full(count, "NaT", "datetime64[D]")
    complete = np.ones(count, bool)
    order = np.argsort(s2.cell_ids(lat_deg, lon_deg, s2.MAX_LEVEL)) if count else np.empty(0, np.int64)

    def cut(row: int) -> None:
        crop = source.read(float(lat_deg[row]), float(lon_deg[row]), size_m, size_px, bearing_deg)
        pixels[row], mask[row], complete[row] = crop.pixels, crop.mask, crop.complete
        if crop.date:
            dates[row] = np.datetime64(crop.date, "D")

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = threads.map(cut, order.tolist())
        for _ in track(done, description, count) if description else done:
            pass
    return Crops(pixels, mask, dates, complete)


def crop_corners(lat_deg: float, lon_deg: float, size_m: float, bearing_deg: float) -> tuple[Float64, Float64]:
    """Latitudes and longitudes, (4,) each, of a crop's upper left, lower left, lower right and upper right corner."""
    right, up = np.array([-0.5, -0.5, 0.5, 0.5]) * size_m, np.array([0.5, -0.5, -0.5, 0.5]) * size_m
    cos, sin = math.cos(math.radians(bearing_deg)), math.sin(math.radians(bearing_deg))
    return offset(lat_deg, lon_deg, right * cos + up * sin, up * cos - right * sin)


def sides(corners: Float64) -> Float64:
    """Lengths of the sides of a quadrilateral, (4, 2) to (4,)."""
    lengths: Float64 = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    return lengths


def warp(source: UInt8, corners: Float64, size_px: int) -> tuple[UInt8, Bools]:
    """Map the quadrilateral `corners` (UL, LL, LR, UR; pixels from the corner of `source`) to a square, bilinearly.

    `source` is (height, width, 4), the mask (255: imagery) comes last. Returns pixels and mask. Colours are weighted with their
    mask, so that they do not fade into missing pixels beside them.
    """
    height, width = source.shape[:2]
    inside = (corners >= 1).all() and (corners <= (width - 1, height - 1)).all()
    if inside and source[..., 3].min() == 255:  # nothing is missing: most crops
        return _bytes(_bend(source, corners, size_px, 3)), np.ones((size_px, size_px), bool)
    # A frame of empty pixels: Pillow leaves half a pixel at the rim empty, and outside the file there is no imagery.
    padded = np.pad(source, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
    weight = np.pad(source[..., 3], 1, mode="edge").astype(np.float32) / 255
    padded[..., :3] = np.pad(source[..., :3], ((1, 1), (1, 1), (0, 0)), mode="edge") * weight[..., None]
    bent = _bend(np.dstack([padded, weight]), corners + 1, size_px, 5)
    mask, share = bent[3] >= 127.5, np.maximum(bent[4], 1e-3)
    return _bytes(bent[:3] / share) * mask[..., None], mask


def _bend(bands: npt.NDArray[np.number], corners: Float64, size_px: int, count: int) -> Float32:
    """Warp the first `count` bands, (height, width, bands) to (count, size_px, size_px)."""
    coefficients, size = _projective(size_px, corners), (size_px, size_px)
    made = np.empty((count, *size), np.float32)
    for band in range(count):
        # Float images, because Pillow cuts 8-bit values off where it should round them.
        image = Image.fromarray(bands[..., band].astype(np.float32))
        bent = image.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
        made[band] = np.asarray(bent)
    return made


def _bytes(bands: Float32) -> UInt8:
    np.clip(np.rint(bands, out=bands), 0, 255, out=bands)
    return np.ascontiguousarray(bands.astype(np.uint8).transpose(1, 2, 0))


def _projective(size_px: int, corners: Float64) -> list[float]:
    """Eight coefficients that take the square's corners (UL, LL, LR, UR) to `corners`, as Pillow expects them."""
    square = np.array([[0, 0], [0, size_px], [size_px, size_px], [size_px, 0]], np.float64)
    rows, values = [], []
    for (x, y), (u, v) in zip(square, corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solved: list[float] = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return solved
