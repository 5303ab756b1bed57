"""Out-of-region photos, embedded by the ground encoder of a run: what photos of the region are distinguished from."""

import logging
from pathlib import Path

import numpy as np

from cellcode.database.building.embedding import embed
from cellcode.database.building.plan import Plan
from cellcode.database.calibration.fit import MIN_PHOTOS
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.types import Float32

logger = logging.getLogger(__name__)
MAX_PHOTOS = 4096


def embed_out_of_region(run: Run, photos: PhotoTable | Path | str, plan: Plan) -> Float32:
    """Return the embeddings of (at most MAX_PHOTOS, evenly spaced) photos, (E, D) of unit length.

    Photos in cells that the plan covers are used as well, with a warning that counts them.

    Raises:
        InputError: fewer than MIN_PHOTOS can be read.
    """
    table = photos if isinstance(photos, PhotoTable) else PhotoTable.load(photos)
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
    if own := _inside(plan, table):
        logger.warning(
            f"{own} of {len(table)} out-of-region photos lie in cells of this database: with them it learns to refuse its own "
            "photos"
        )
    return embedded


def _inside(plan: Plan, table: PhotoTable) -> int:
    """Count the photos in cells of a plan."""
    cells = s2.cell_ids(table.lat_deg, table.lon_deg, plan.level)
    span = np.searchsorted(plan.ranges[:, 0], cells, side="right") - 1
    return int(((span >= 0) & (cells <= plan.ranges[span, 1])).sum())
