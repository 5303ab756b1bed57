"""Photos embedded by a ground encoder, decoded a chunk at a time; among them those from outside the region."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellcode.config import Config
from cellcode.database.building.plan import Plan
from cellcode.database.calibration.fit import MIN_PHOTOS
from cellcode.device import choose_device
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.model import inference
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels
from cellcode.runs import Run
from cellcode.types import Float32, Int64

logger = logging.getLogger(__name__)
CHUNK = 4096  # photos that are decoded at once
MAX_PHOTOS = 4096  # from outside the region


def embed(
    encoder: Encoder, config: Config, files: Sequence[Path], device: str = "auto", description: str = "reading photos"
) -> tuple[Float32, Int64, dict[int, str]]:
    """Embed photos with the size and precision of a configuration; those that cannot be read are left out.

    Returns:
        (n, D) float32 of unit length; (n,) int64, numbers of the files that can be read, ascending; reasons for the others.
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


def embed_out_of_region(run: Run, photos: PhotoTable | Path | str, plan: Plan) -> Float32:
    """Return the embeddings of (at most MAX_PHOTOS, evenly spaced) photos, (E, D) of unit length.

    Photos in cells that the plan covers are used as well, with a warning that counts them; InputError where fewer than
    MIN_PHOTOS can be read.
    """
    table = PhotoTable.of(photos)
    table.verify()
    files = table.files[:: max(1, -(-len(table) // MAX_PHOTOS))]
    embedded, _, _ = embed(
        run.ground, run.config, files, run.config.machine.device, description="reading out-of-region photos"
    )
    if len(embedded) < MIN_PHOTOS:
        where = table.root if isinstance(photos, PhotoTable) else photos
        raise InputError(
            f"{where}: {len(embedded)} out-of-region photos can be read, at least {MIN_PHOTOS} are needed to calibrate "
            "in_region"
        )
    cells = s2.cell_ids(table.lat_deg, table.lon_deg, plan.level)
    span = np.searchsorted(plan.ranges[:, 0], cells, side="right") - 1
    if own := int(((span >= 0) & (cells <= plan.ranges[span, 1])).sum()):
        logger.warning(
            f"{own} of {len(table)} out-of-region photos lie in cells of this database: with them it learns to refuse its own "
            "photos"
        )
    return embedded
