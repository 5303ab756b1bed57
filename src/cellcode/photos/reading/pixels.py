"""Many photos, read by several threads: a few ahead of the one that is used, or all at an encoder's size."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from cellcode.config import PhotoConfig
from cellcode.photos.reading.image import PhotoError, PhotoSpec, read_pixels
from cellcode.progress import track
from cellcode.types import UInt8

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], tasks: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """Yield results in the order of the tasks; at most `ahead` of them wait to be used."""
    waiting = deque[Future[R]]()
    pool = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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
