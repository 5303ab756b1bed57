"""Crops of many points, in an order that keeps the raster's blocks in the cache."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from cellcode.aerial.source import AerialSource
from cellcode.geography import s2
from cellcode.progress import track

Float64 = npt.NDArray[np.float64]


def read_crops(
    source: AerialSource,
    lat_deg: Float64,
    lon_deg: Float64,
    *,
    size_m: float,
    size_px: int,
    bearing_deg: float = 0.0,
    description: str | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Cut a square around each point, with as many threads as there are cores; the points may come in any order.

    Args:
        description: shown as progress; None shows none.

    Returns:
        (N, size_px, size_px, 3) uint8 and (N, size_px, size_px) bool; see `Crop`.
    """
    count = len(lat_deg)
    pixels = np.empty((count, size_px, size_px, 3), np.uint8)
    mask = np.empty((count, size_px, size_px), bool)
    order = np.argsort(s2.cell_ids(lat_deg, lon_deg, s2.MAX_LEVEL)) if count else np.empty(0, np.int64)

    def cut(row: int) -> None:
        crop = source.read(float(lat_deg[row]), float(lon_deg[row]), size_m, size_px, bearing_deg)
        pixels[row], mask[row] = crop.pixels, crop.mask

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = threads.map(cut, order.tolist())
        for _ in track(done, description, count) if description else done:
            pass
    return pixels, mask
