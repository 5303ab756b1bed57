"""Photos embedded by a ground encoder, decoded a chunk at a time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellcode.config import Config
from cellcode.device import choose_device
from cellcode.model import inference
from cellcode.model.encoder import Encoder
from cellcode.photos.reading.pixels import load_pixels
from cellcode.types import Float32, Int64

CHUNK = 4096  # photos that are decoded at once


def embed(
    encoder: Encoder, config: Config, files: Sequence[Path], device: str = "auto", description: str = "reading photos"
) -> tuple[Float32, Int64, dict[int, str]]:
    """Embed photos; those that cannot be read are left out.

    Args:
        config: has the size of photos and the precision.
        description: of the progress.

    Returns:
        (n, D) float32 of unit length; (n,) int64, numbers of the files that can be read, ascending; the
        reason for each of the others.
    """
    where = choose_device(device)
    encoder = encoder.to(where).eval()
    parts, rows = [np.zeros((0, config.model.dim), np.float32)], [np.zeros(0, np.int64)]
    failures: dict[int, str] = {}
    for first in range(0, len(files), CHUNK):
        pixels, failed = load_pixels(files[first : first + CHUNK], config.photo, description=description)
        failures |= {first + row: reason for row, reason in failed.items()}
        good = np.setdiff1d(np.arange(len(pixels)), list(failed))
        rows.append(first + good)
        parts.append(inference.embed(encoder, pixels[good], config.machine.precision, where))
    return np.concatenate(parts), np.concatenate(rows), failures
