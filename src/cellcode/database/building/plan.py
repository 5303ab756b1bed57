"""Which cells a database may cover, and the shards it is built in: decided and checked before any work starts."""

import hashlib
from dataclasses import dataclass

import numpy as np

from cellcode.aerial import AerialSource
from cellcode.errors import InputError
from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges
from cellcode.runs import Run
from cellcode.types import Bools, Ids


@dataclass(frozen=True)
class Plan:
    """Cells that may enter the database, as ranges; they are listed one shard at a time."""

    ranges: Ids  # (R, 2), first and last cell of each range, of `level`, sorted
    level: int
    shards: Ids  # (S,), the S2 cells that hold them, sorted
    asked: int  # cells of the region, also those that cannot have a code

    @property
    def total(self) -> int:
        """Number of cells."""
        return ranges.count(self.ranges, self.level)

    def cells(self, shard: np.uint64) -> Ids:
        """Return the cells of one shard, sorted."""
        return ranges.expand(_within(self.ranges, shard, self.level), self.level)

    @property
    def digest(self) -> str:
        """Changes when the cells or the shards do."""
        return hashlib.sha256(self.ranges.tobytes() + self.shards.tobytes()).hexdigest()[:16]


def choose(run: Run, source: AerialSource | None, region: Region | None) -> Plan:
    """Return the cells of the region that may have a code.

    Without a region: the cells of the imagery's footprint; without imagery either, the cells with training photos.
    InputError: run, imagery and region leave nothing to build; the sentence says which of them is missing.
    """
    level = run.config.levels.cell
    if source is not None and run.aerial is None:
        raise InputError(
            f"{run.folder} was trained without aerial imagery, so it cannot use any: build without --aerial"
        )
    if source is None and run.prototypes is None:
        raise InputError(f"{run.folder} has no prototypes, its codes come from imagery alone: build with --aerial")
    # A region may be far larger than the imagery and the prototypes' cells.
    possible = [source.footprint().ranges(level)] if source is not None else []
    if run.prototypes is not None:
        possible.append(ranges.spans(run.prototypes.ids, level))
    everywhere = possible[0] if source is not None else ranges.merge(run.facts.ids)
    spans = region.ranges(level) if region is not None else everywhere
    asked = ranges.count(spans, level)
    spans = ranges.intersection(spans, ranges.join(np.concatenate(possible), level), level)
    shard_level = max(level - run.config.build.shard_depth, 0)
    plan = Plan(spans, level, _ancestors(spans, shard_level), asked)
    parts = map(plan.cells, plan.shards)
    if source is not None and not any(covered(source, ids).any() for ids in parts):
        raise InputError(
            f"the imagery covers none of the {asked} cells of the region; check both, or build without --aerial"
        )
    if source is None and not any(has_prototype(run, ids).any() for ids in parts):
        raise InputError(
            f"none of the {asked} cells of the region has training photos around it; give imagery with "
            "--aerial or another region"
        )
    return plan


def covered(source: AerialSource | None, ids: Ids) -> Bools:
    """Tell which cells have their centre in the imagery, (N,); whether a tile is good enough shows when it is read."""
    return np.zeros(len(ids), bool) if source is None else np.asarray(source.covers(*s2.cell_centers(ids)), bool)


def has_prototype(run: Run, ids: Ids) -> Bools:
    """Tell which cells have their own parent in the run's table, (N,)."""
    if run.prototypes is None:
        return np.zeros(len(ids), bool)
    return run.prototypes.lookup(s2.parents(ids, run.prototypes.level)) >= 0


def bounds(ids: Ids, block: int = 65536) -> tuple[float, float, float, float]:
    """Return west, south, east, north of the cells in degrees; west > east across the antimeridian.

    The longitudes left out are the widest gap between the centres of neighbouring cells, or of their ancestors where
    there are many cells.
    """
    level = int(s2.levels(ids[:1])[0])
    coarse = np.unique(s2.parents(ids, max(level - 6, 0))) if len(ids) > block else ids
    ordered = np.sort(s2.cell_centers(coarse)[1])
    gaps = np.diff(ordered, append=ordered[0] + 360)
    # In the middle of the gap, so that no cell begins west of the start.
    start = float(ordered[gaps.argmax()] + gaps.max() / 2)
    west, south, east, north = np.inf, np.inf, -np.inf, -np.inf
    for first in range(0, len(ids), block):
        part = ids[first : first + block]
        corners, (_, lon) = s2.cell_polygons(part), s2.cell_centers(part)
        span = (lon - start) % 360
        offset = (corners[..., 1] - lon[:, None] + 180) % 360 - 180
        west, east = min(west, float((span[:, None] + offset).min())), max(east, float((span[:, None] + offset).max()))
        south, north = min(south, float(corners[..., 0].min())), max(north, float(corners[..., 0].max()))
    if east - west >= 360:
        return -180.0, south, 180.0, north
    west, east = ((start + end + 180) % 360 - 180 for end in (west, east))
    return west, south, east, north


def _ancestors(spans: Ids, level: int) -> Ids:
    """Return the cells of a coarser level that ranges lie in, sorted."""
    ends = np.stack([s2.parents(spans[:, 0], level), s2.parents(spans[:, 1], level)], axis=1)
    return ranges.expand(ranges.join(ends, level), level)


def _within(spans: Ids, cell: np.uint64, level: int) -> Ids:
    """Return the parts of ranges of `level` that lie in a coarser cell."""
    first, last = s2.parents(s2.range_min(cell), level)[0], s2.parents(s2.range_max(cell), level)[0]
    part = spans[np.searchsorted(spans[:, 1], first) : np.searchsorted(spans[:, 0], last, side="right")]
    return np.clip(part, first, last)
