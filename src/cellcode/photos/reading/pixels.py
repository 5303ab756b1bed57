"""Many photos at an encoder's size."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cellcode.config import PhotoConfig
from cellcode.photos.reading.image import PhotoError, PhotoSpec, read_pixels
from cellcode.progress import track
from cellcode.types import UInt8


def load_pixels(
    files: Sequence[Path], photo: PhotoConfig, *, description: str = "reading photos"
) -> tuple[UInt8, dict[int, str]]:
    """Decode photos with as many threads as there are cores.

    Returns:
        (N, height_px, width_px, 3) uint8, and the reason for each index that could not be read; its pixels are 0.
    """
    pixels = np.zeros((len(files), photo.height_px, photo.width_px, 3), np.uint8)
    spec, failures = PhotoSpec.of(photo), dict[int, str]()

    def read(index: int) -> None:
        try:
            pixels[index] = read_pixels(files[index], spec)
        except PhotoError as error:
            failures[index] = str(error)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in track(threads.map(read, range(len(files))), description, len(files)):
            pass
    return pixels, failures
