"""Photos as the ground encoder sees them, a part at a time: 35,000 decoded photos would take more than a gigabyte."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cellcode.progress import Meter
from cellcode.search import Failure, Locator
from cellcode.types import Float32, Int64

PART = 512


def embed(locator: Locator, files: Sequence[Path], description: str) -> tuple[Float32, Int64, list[str], float]:
    """Read and embed photos.

    Returns:
        (M, D) embeddings of those that can be read, their numbers (M,), the reasons of the others, and the encoder's
        milliseconds per photo (the fastest part's).
    """
    embedded, good, reasons, paces_ms = [np.empty((0, locator.database.code_set.dim), np.float32)], [], [], []
    with ThreadPoolExecutor(locator.threads) as threads, Meter(description, len(files)) as meter:
        for first in range(0, len(files), PART):
            made = list(threads.map(locator.pixels, files[first : first + PART]))
            pixels = [each for each in made if not isinstance(each, Failure)]
            if pixels:
                started = time.perf_counter()
                embedded.append(locator.embed(np.stack(pixels)))
                paces_ms.append(1000 * (time.perf_counter() - started) / len(pixels))
            good += [first + row for row, each in enumerate(made) if not isinstance(each, Failure)]
            reasons += [each.message for each in made if isinstance(each, Failure)]
            meter.advance(len(made))
    return np.concatenate(embedded), np.array(good, np.int64), reasons, min(paces_ms, default=0.0)
