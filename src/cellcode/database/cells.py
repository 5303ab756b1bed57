"""Which cells a database covers, decided and checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellcode.aerial import AerialSource
from cellcode.errors import InputError
from cellcode.geography import Region, s2
from cellcode.runs import Run

Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Candidates:
    """Cells that may enter the database, sorted by id.

    Attributes:
        ids: (N,) uint64 of `levels.cell`.
        has_prototype: (N,), the cell's own parent is in the run's table.
        covered: (N,), the cell's centre lies in the imagery; whether its tile is good enough shows when it is read.
    """

    ids: Ids
    has_prototype: Bools
    covered: Bools


def choose(run: Run, source: AerialSource | None, region: Region | None) -> Candidates:
    """Return the cells of the region that can have a code.

    Without a region: the cells of the imagery's footprint; without imagery either, the cells with training photos.

    Raises:
        InputError: run, imagery and region leave nothing to build; the sentence says which of them is missing.
    """
    level = run.config.levels.cell
    if source is not None and run.aerial is None:
        raise InputError(
            f"{run.folder} was trained without aerial imagery, so it cannot use any: build without --aerial"
        )
    if source is None and run.prototypes is None:
        raise InputError(f"{run.folder} has no prototypes, its codes come from imagery alone: build with --aerial")
    if region is not None:
        ids = region.cells(level)
    elif source is not None:
        ids = source.footprint().cells(level)
    else:
        ids = run.facts.ids
    covered = np.zeros(len(ids), bool)
    if source is not None:
        covered = np.asarray(source.covers(*s2.cell_centers(ids)), bool)
        if not covered.any():
            raise InputError(
                f"the imagery covers none of the {len(ids)} cells of the region; check both, or build without --aerial"
            )
    has_prototype = np.zeros(len(ids), bool)
    if run.prototypes is not None:
        has_prototype = run.prototypes.lookup(s2.parents(ids, run.prototypes.level)) >= 0
    kept = covered | has_prototype
    if not kept.any():
        raise InputError(
            f"none of the {len(ids)} cells of the region has training photos around it; give imagery with "
            "--aerial or another region"
        )
    return Candidates(ids[kept], has_prototype[kept], covered[kept])


def bounds(ids: Ids) -> tuple[float, float, float, float]:
    """Return west, south, east, north of the cells in degrees; west > east across the antimeridian.

    The longitudes left out are the widest gap between the centres of neighbouring cells.
    """
    _, lon = s2.cell_centers(ids)
    ordered = np.sort(lon)
    gaps = np.diff(ordered, append=ordered[0] + 360)
    start = float(ordered[(int(gaps.argmax()) + 1) % len(ordered)])
    west, south, east, north = np.inf, np.inf, -np.inf, -np.inf
    for first in range(0, len(ids), 65536):
        corners = s2.cell_polygons(ids[first : first + 65536])
        # Longitudes counted from the westernmost centre; the half turn keeps corners west of it below zero.
        span = (lon[first : first + 65536] - start) % 360
        offset = (corners[..., 1] - lon[first : first + 65536, None] + 180) % 360 - 180
        west, east = min(west, float((span[:, None] + offset).min())), max(east, float((span[:, None] + offset).max()))
        south, north = min(south, float(corners[..., 0].min())), max(north, float(corners[..., 0].max()))
    if east - west >= 360:
        return -180.0, south, 180.0, north
    west, east = start + west, start + east
    return west + 360 * (west < -180), south, east - 360 * (east > 180), north
