"""Splits by position and by date, so that a test never asks for what training has seen."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely

from cellcode.errors import UsageError
from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m
from cellcode.photos.table.photo_table import PhotoTable
from cellcode.types import Bools, Datetimes, Float64, Int64, Strings

_TOGETHER = 20_000  # photos whose neighbours are looked for at once


@dataclass(frozen=True)
class SplitRule:
    """How photos become "train" and "test"; "none" is in neither.

    No rule makes "validation": training draws its own out of "train", unless a list of photos names them.

    Attributes:
        kind: "position": whole blocks are tested. "date": the last capture days are. "both": photos of test blocks on test
            days are tested, photos of neither are trained on, the others are in neither. "none": all are trained on.
        block_m: edge of a block.
        test_share: about this share of the photos lies in test blocks.
        test_dates: number of last capture days.
        buffer_m: training photos nearer than this to a test photo are in neither.
        seed: of the choice of blocks.
    """

    kind: Literal["position", "date", "both", "none"] = "position"
    block_m: float = 100.0
    test_share: float = 0.1
    test_dates: int = 1
    buffer_m: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.kind not in ("position", "date", "both", "none"):
            raise UsageError(f"split {self.kind!r} is unknown; choose position, date, both or none")
        if not self.block_m > 0 or not 0 <= self.test_share <= 1 or self.test_dates < 1 or not self.buffer_m >= 0:
            raise UsageError(
                "split: block_m must be above 0, test_share in 0..1, test_dates at least 1, buffer_m at least 0"
            )


def blocks(lat_deg: Float64, lon_deg: Float64, block_m: float) -> Int64:
    """Return a number (N,) for the block of each photo: rows of `block_m` in latitude, each cut into columns of at least
    `block_m` that divide the parallel evenly, so that no block ends at the antimeridian."""
    rows = np.floor((lat_deg + 90) * np.deg2rad(EARTH_RADIUS_M) / block_m).astype(np.int64)
    row_lat_deg = (rows + 0.5) * np.rad2deg(block_m / EARTH_RADIUS_M) - 90
    around_m = 2 * np.pi * EARTH_RADIUS_M * np.cos(np.deg2rad(row_lat_deg))
    columns = np.maximum(1, np.floor(around_m / block_m)).astype(np.int64)
    column = np.floor((lon_deg + 180) % 360 / 360 * columns).astype(np.int64) % columns
    return np.asarray(rows * (1 << 32) + column)


def by_position(lat_deg: Float64, lon_deg: Float64, *, block_m: float, share: float, seed: int) -> Bools:
    """Choose whole blocks that hold about `share` of the photos; (N,) bool, independent of the photos' order."""
    distinct, block = np.unique(blocks(lat_deg, lon_deg, block_m), return_inverse=True)
    order = np.random.default_rng([seed, 5]).permutation(len(distinct))
    photos = np.bincount(block, minlength=len(distinct))[order]
    # Blocks are taken until the next one would overshoot by more than it closes.
    taken = np.cumsum(photos) - photos / 2 < share * len(block)
    chosen = np.zeros(len(distinct), bool)
    chosen[order[taken]] = True
    return chosen[block]


def by_date(captured_at: Datetimes, *, dates: int = 1) -> Bools:
    """Choose the photos of the last `dates` capture days; (N,) bool, False for photos without a date.

    Raises:
        UsageError: there are not more capture days than that.
    """
    days = captured_at.astype("datetime64[D]")
    known = np.unique(days[~np.isnat(days)])
    if len(known) <= dates:
        raise UsageError(
            f"a split by date with {dates} test dates needs more capture days, the photos have {len(known)}"
        )
    return np.asarray(days >= known[-dates])


def assign(table: PhotoTable, rule: SplitRule) -> PhotoTable:
    """Return the table with its split set by the rule, which is noted in the manifest."""
    split = np.full(len(table), "train", dtype="<U5")
    if rule.kind != "none":
        tested = np.ones(len(table), bool)
        unused = np.zeros(len(table), bool)
        if rule.kind in ("position", "both"):
            tested = by_position(
                table.lat_deg, table.lon_deg, block_m=rule.block_m, share=rule.test_share, seed=rule.seed
            )
        if rule.kind in ("date", "both"):
            on_date = by_date(table.captured_at, dates=rule.test_dates)
            undated = np.isnat(table.captured_at)
            if undated.any():
                print(f"{undated.sum()} photos without a date are in neither split", file=sys.stderr)
            unused = undated | (tested != on_date if rule.kind == "both" else False)
            tested = tested & on_date
        split[tested], split[unused] = "test", "none"
    if rule.buffer_m:
        split[_near_test(table, split, rule.buffer_m)] = "none"
    notes = {**(table.notes or {}), "split_rule": asdict(rule)}
    return PhotoTable(table.with_column("split", split).rows, table.root, notes)


def _near_test(table: PhotoTable, split: Strings, buffer_m: float) -> Bools:
    """Training photos nearer than `buffer_m` to a test photo."""
    lat, lon = table.lat_deg, table.lon_deg
    test = np.flatnonzero(split == "test")
    near = np.zeros(len(table), bool)
    # Test photos near the antimeridian are there a second time, a full turn away, so that boxes may reach over it.
    turns = np.concatenate([lon[test], lon[test] - 360, lon[test] + 360])
    tree = shapely.STRtree(shapely.points(turns, np.tile(lat[test], 3)))
    train = np.flatnonzero(split == "train")
    for start in range(0, len(train), _TOGETHER):
        rows = train[start : start + _TOGETHER]
        found, others = tree.query(_boxes(lat[rows], lon[rows], buffer_m))
        rows, others = rows[found], test[others % len(test)] if len(test) else others
        near[rows[haversine_m(lat[rows], lon[rows], lat[others], lon[others]) < buffer_m]] = True
    return near


def _boxes(lat_deg: Float64, lon_deg: Float64, radius_m: float) -> npt.NDArray[np.object_]:
    """Boxes in longitude and latitude around the circles of a radius around points."""
    radius = min(radius_m / EARTH_RADIUS_M * 1.001, np.pi / 2)
    reach = np.sin(radius) / np.maximum(np.cos(np.deg2rad(lat_deg)), 1e-12)
    # The circle's widest longitude; one around a pole has all of them.
    half = np.where(reach < 1, np.rad2deg(np.arcsin(np.minimum(reach, 1))), 180.0)
    height = np.rad2deg(radius)
    return np.asarray(shapely.box(lon_deg - half, lat_deg - height, lon_deg + half, lat_deg + height))
