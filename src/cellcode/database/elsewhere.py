"""Photos from elsewhere, as a run's ground encoder sees them: what a region's own photos are told from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cellcode.database.calibration import MIN_PHOTOS
from cellcode.errors import InputError
from cellcode.model.precision import autocast, choose_device
from cellcode.photos import PhotoTable
from cellcode.photos.pixels import load_pixels
from cellcode.runs import Run

MAX_PHOTOS = 4096
BATCH = 64


def embed_elsewhere(run: Run, photos: PhotoTable | Path | str) -> npt.NDArray[np.float32]:
    """Return the embeddings of (at most MAX_PHOTOS, evenly spaced) photos, (E, D) of unit length.

    Raises:
        InputError: fewer than MIN_PHOTOS can be read.
    """
    table = photos if isinstance(photos, PhotoTable) else PhotoTable.load(photos)
    files = table.files[:: max(1, -(-len(table) // MAX_PHOTOS))]
    pixels, failures = load_pixels(files, run.config.photo, description="reading photos from elsewhere")
    readable = np.delete(pixels, list(failures), axis=0)
    if len(readable) < MIN_PHOTOS:
        where = table.root if isinstance(photos, PhotoTable) else photos
        raise InputError(
            f"{where}: {len(readable)} photos from elsewhere can be read, at least {MIN_PHOTOS} are needed to tell who is "
            "outside the region"
        )
    device = choose_device(run.config.training.device)
    encoder, embedded = run.ground.to(device).eval(), []
    with torch.inference_mode(), autocast(run.config.training.precision, device):
        for first in range(0, len(readable), BATCH):
            embedded.append(encoder(torch.from_numpy(readable[first : first + BATCH]).to(device)).float().cpu())
    return np.asarray(torch.cat(embedded).numpy())
