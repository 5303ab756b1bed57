"""Photos from elsewhere, as a run's ground encoder sees them: what a region's own photos are told from."""

from __future__ import annotations

import sys
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

MAX_PHOTOS = 4096


def embed_elsewhere(run: Run, photos: PhotoTable | Path | str, plan: Plan) -> Float32:
    """Return the embeddings of (at most MAX_PHOTOS, evenly spaced) photos, (E, D) of unit length.

    Photos in cells that the plan covers are used as well, but counted on stderr.

    Raises:
        InputError: fewer than MIN_PHOTOS can be read.
    """
    table = photos if isinstance(photos, PhotoTable) else PhotoTable.load(photos)
    files = table.files[:: max(1, -(-len(table) // MAX_PHOTOS))]
    embedded, _, _ = embed(
        run.ground, run.config, files, run.config.machine.device, description="reading photos from elsewhere"
    )
    if len(embedded) < MIN_PHOTOS:
        where = table.root if isinstance(photos, PhotoTable) else photos
        raise InputError(
            f"{where}: {len(embedded)} photos from elsewhere can be read, at least {MIN_PHOTOS} are needed to tell who is "
            "outside the region"
        )
    if own := _inside(plan, table):
        print(
            f"{own} of {len(table)} photos from elsewhere lie in cells of this database: they teach it to refuse its own "
            "photos",
            file=sys.stderr,
        )
    return embedded


def _inside(plan: Plan, table: PhotoTable) -> int:
    """Count the photos in cells of a plan."""
    cells = s2.cell_ids(table.lat_deg, table.lon_deg, plan.level)
    span = np.searchsorted(plan.ranges[:, 0], cells, side="right") - 1
    return int(((span >= 0) & (cells <= plan.ranges[span, 1])).sum())
