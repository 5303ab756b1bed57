"""Slices of the tested photos: by density of training photos and dates, land use, view, and days since training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cellcode.database import Database
from cellcode.evaluation.metrics import Bootstrap, Result
from cellcode.geography import s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.photos import PhotoTable
from cellcode.types import Bools, Datetimes, Ids, Int64

Bins = dict[str, Bools]
DAY_LIMITS = (0, 120, 240)  # a season is 91 days: within one, within the next two, in another one
QUADRANTS = ("north", "east", "south", "west")


@dataclass(frozen=True)
class Slice:
    """Tested photos in bins: the key in report.json, and masks of the N photos in the order they are shown; none is empty."""

    name: str
    bins: Bins


class NotKnownError(Exception):
    """The photo table lacks what a slice needs; the sentence names it."""


@dataclass(frozen=True)
class Trained:
    """Training photos of P prototype-level cells with any, from the facts of the database: what was really trained on.

    Attributes:
        cells: (P,) uint64, sorted.
        photos: (P,) how many.
        dates: (P,) distinct capture days, exact up to 2; 0 where no photo carries a date.
        day: (Q,) known capture days of all of them.
        day_cell: (Q,) the row in `cells` of each; -1 for one in no cell.
    """

    cells: Ids
    photos: Int64
    dates: Int64
    day: Datetimes
    day_cell: Int64

    @classmethod
    def of(cls, database: Database, photos: PhotoTable) -> Trained:
        """Collect them; `photos`, of the split "train", are for their days.

        A database keeps the first and the last day of each cell only: they are used where there are no such photos.
        """
        facts, level = database.facts, database.config.levels.prototype
        has = facts.photos > 0
        cells, row = np.unique(s2.parents(database.ids[has], level), return_inverse=True)
        days = np.concatenate([facts.first_date[has], facts.last_date[has]])
        known = ~np.isnat(days)
        pairs = np.unique(np.stack([np.tile(row, 2)[known], days[known].astype(np.int64)]), axis=1)
        # The facts have both days of cells with up to two; one with more is enough for "3 or more".
        dates = np.bincount(pairs[0], minlength=len(cells)).astype(np.int64)
        np.maximum.at(dates, row, facts.dates[has])
        day_cell, day = pairs[0], pairs[1].astype("datetime64[D]")
        taken = photos.captured_at.astype("datetime64[D]")
        if not np.isnat(taken).all():
            place = rows_of_ids(cells, s2.cell_ids(photos.lat_deg, photos.lon_deg, level))
            day_cell, day = place[~np.isnat(taken)], taken[~np.isnat(taken)]
        total = np.bincount(row, facts.photos[has], len(cells)).astype(np.int64)
        return cls(cells, total, dates, day, day_cell)

    def rows(self, table: PhotoTable, level: int) -> Int64:
        """Return the row of the cell of each photo, (N,); -1 where nothing was trained on."""
        return rows_of_ids(self.cells, s2.cell_ids(table.lat_deg, table.lon_deg, level))


def density(database: Database, table: PhotoTable) -> Int64:
    """Return the training photos in the prototype-level cell of each photo, (N,)."""
    trained = Trained.of(database, table.select(np.zeros(len(table), bool)))
    return np.append(trained.photos, 0)[trained.rows(table, database.config.levels.prototype)]  # row -1: none


def cut(database: Database, table: PhotoTable, training: PhotoTable) -> tuple[list[Slice], list[str]]:
    """Return the slices of the tested photos, and a sentence for each one that cannot be made."""
    trained = Trained.of(database, training)
    own = trained.rows(table, database.config.levels.prototype)
    makers: dict[str, Callable[[], Bins]] = {
        "spatial_density": lambda: _by_photos(trained, own),
        "temporal_density": lambda: _by_dates(trained, own),
        "land_use": lambda: _by_land_use(table),
        "heading": lambda: _by_heading(table),
        "field_of_view": lambda: _by_field_of_view(table),
        "days_from_training": lambda: _by_days(trained, own, table),
    }
    made, notes = [], []
    for name, make in makers.items():
        try:
            made.append(Slice(name, {bin: mask for bin, mask in make().items() if mask.any()}))
        except NotKnownError as error:
            notes.append(f"no slice by {name.replace('_', ' ')}: {error}")
    return made, notes


def recalls(slices: list[Slice], results: list[Result], radius_m: float, places: Bootstrap) -> dict[str, Any]:
    """Return `by` of report.json: recall@K within the radius by slice, bin and system, with intervals."""
    ranks = list(results[0].hits)
    hits = np.stack([result.hits[k][radius_m] for result in results for k in ranks], axis=1)

    def of(mask: Bools) -> dict[str, Any]:
        means = hits[mask].mean(axis=0).reshape(len(results), -1).round(6)
        ends = places.intervals_95(hits, mask).reshape(len(results), -1, 2).round(4)
        keys = [str(k) for k in ranks]
        return {
            "photos": int(mask.sum()),
            "systems": {
                result.name: {
                    "recall": dict(zip(keys, means[row].tolist(), strict=True)),
                    "interval_95": dict(zip(keys, ends[row].tolist(), strict=True)),
                }
                for row, result in enumerate(results)
            },
        }

    return {each.name: {bin: of(mask) for bin, mask in each.bins.items()} for each in slices}


def _by_photos(trained: Trained, own: Int64) -> Bins:
    bins = {"0 photos": own < 0}
    if len(trained.cells):
        count = np.where(own >= 0, trained.photos[own], 0)
        ends = np.unique(np.quantile(trained.photos, [0.25, 0.5, 0.75, 1.0], method="inverted_cdf"))
        for first, last in zip([1, *(ends[:-1] + 1)], ends, strict=True):
            bins[f"{_range(first, last)} photo{'s' if last > 1 else ''}"] = (count >= first) & (count <= last)
    return bins


def _by_dates(trained: Trained, own: Int64) -> Bins:
    if not trained.dates.any():
        raise NotKnownError("no training photo carries a capture date")
    dated = (own < 0) | (trained.dates[own] > 0)  # photos whose cell has only undated training photos do not count
    dates = np.where(own >= 0, trained.dates[own], 0)
    return {"0 dates": dated & (dates == 0), "1 date": dates == 1, "2 dates": dates == 2, "3 or more dates": dates >= 3}


def _by_land_use(table: PhotoTable) -> Bins:
    if "land_use" not in table.rows.column_names:
        raise NotKnownError("the photo table has no column land_use")
    values = np.array([value or "" for value in table.column("land_use")])
    if not (values != "").any():
        raise NotKnownError("no tested photo has a land_use in the photo table")
    names, counts = np.unique(values[values != ""], return_counts=True)
    return {str(name): values == name for name in names[np.argsort(-counts, kind="stable")]}


def _by_heading(table: PhotoTable) -> Bins:
    heading = table.heading_deg
    known = np.isfinite(heading)
    if not known.any():
        raise NotKnownError("no tested photo has a heading")
    quadrant = np.where(known, np.floor((np.where(known, heading, 0) % 360 + 45) % 360 / 90), -1)
    return {name: quadrant == number for number, name in enumerate(QUADRANTS)}


def _by_field_of_view(table: PhotoTable) -> Bins:
    field = table.fov_deg
    known = field[np.isfinite(field)]
    if not len(known):
        raise NotKnownError("no tested photo has a field of view")
    low, high = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf")
    if known.max() <= low:
        raise NotKnownError(f"all tested photos have a field of view of {low:.0f} degrees")
    return {
        f"up to {low:.0f} degrees": field <= low,
        f"{low:.0f} to {high:.0f} degrees": (field > low) & (field <= high),
        f"above {high:.0f} degrees": field > high,
    }


def _by_days(trained: Trained, own: Int64, table: PhotoTable) -> Bins:
    """Days to the nearest training date in the photo's cell, else in the whole region."""
    taken = table.captured_at.astype("datetime64[D]")
    if np.isnat(taken).all():
        raise NotKnownError("no tested photo has a capture date")
    if not len(trained.day):
        raise NotKnownError("no training photo carries a capture date")
    apart = np.full(len(table), -1, np.int64)
    order = np.argsort(trained.day_cell, kind="stable")
    day, cell = trained.day[order], trained.day_cell[order]
    everywhere = np.unique(trained.day)
    for row in np.flatnonzero(~np.isnat(taken)):
        first, last = np.searchsorted(cell, [own[row], own[row] + 1])
        near = day[first:last] if own[row] >= 0 and last > first else everywhere
        apart[row] = np.abs(near - taken[row]).min().astype(np.int64)
    bins = {"same day": apart == 0}
    for first, last in pairwise(DAY_LIMITS):
        bins[f"{first + 1} to {last} days"] = (apart > first) & (apart <= last)
    return bins | {f"more than {DAY_LIMITS[-1]} days": apart > DAY_LIMITS[-1]}


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"
