"""Crops of many points, in an order that keeps the raster's blocks in the cache."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cellcode.aerial.protocol import AerialSource
from cellcode.geography import s2
from cellcode.progress import track
from cellcode.types import Bools, Datetimes, Float64, UInt8


class Crops(NamedTuple):
    """Squares of imagery around N points; see `Crop`.

    Attributes:
        pixels: (N, size_px, size_px, 3) uint8.
        mask: (N, size_px, size_px) bool.
        dates: (N,) datetime64[D], NaT where not known.
        complete: (N,) bool, False where something is masked that may be there later.
    """

    pixels: UInt8
    mask: Bools
    dates: Datetimes
    complete: Bools


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
    """Cut a square around each point, with as many threads as there are cores; the points may come in any order.

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
