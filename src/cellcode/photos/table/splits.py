"""Splits by position and by date, so that a test never asks for what training has seen."""

import logging
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import shapely
from pydantic import Field

from cellcode.errors import UsageError
from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m
from cellcode.photos.table.photo_table import PhotoTable
from cellcode.photos.table.settings import Settings
from cellcode.types import Bools, Datetimes, Float64, Int64, Strings

logger = logging.getLogger(__name__)
_TOGETHER = 20_000  # photos whose neighbours are looked for at once


class SplitRule(Settings):
    """How photos become "train" and "test"; "none" is in neither.

    No rule makes "validation": training draws its own out of "train", unless a list of photos names them. With "position"
    whole blocks are tested, with "date" the last capture days. With "both" photos of test blocks on test days are tested,
    photos of neither are trained on, the others are in neither. With "none" all are trained on.

    Raises:
        UsageError: a value is out of range.
    """

    prefix: ClassVar[str] = "split: "
    kind: Literal["position", "date", "both", "none"] = Field(
        "position", description="position, date, both or none; without it, a list's own split is kept."
    )
    block_m: float = Field(100.0, gt=0, description="Edge of the blocks of a split by position, in metres.")
    test_share: float = Field(0.1, ge=0, le=1, description="Approximate fraction of photos in test blocks.")
    test_dates: int = Field(1, ge=1, description="Number of last capture days that are tested.")
    buffer_m: float = Field(
        0.0, ge=0, description="Training photos nearer than this to a test photo are left out, in metres."
    )
    seed: int = Field(0, description="Seed of the choice of blocks.")


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
    """Choose the photos of the last capture days; (N,) bool, False without a date. UsageError: no more days than that."""
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
        tested, unused = np.ones(len(table), bool), np.zeros(len(table), bool)
        if rule.kind in ("position", "both"):
            where = table.lat_deg, table.lon_deg
            tested = by_position(*where, block_m=rule.block_m, share=rule.test_share, seed=rule.seed)
        if rule.kind in ("date", "both"):
            on_date = by_date(table.captured_at, dates=rule.test_dates)
            undated = np.isnat(table.captured_at)
            if undated.any():
                logger.info("%d photos without a date are in neither split", undated.sum())
            unused = undated | (tested != on_date if rule.kind == "both" else False)
            tested = tested & on_date
        split[tested], split[unused] = "test", "none"
    if rule.buffer_m:
        split[_near_test(table, split, rule.buffer_m)] = "none"
    notes = {**(table.notes or {}), "split_rule": rule.model_dump()}
    return PhotoTable(table.with_column("split", split).rows, table.root, notes)


def _near_test(table: PhotoTable, split: Strings, buffer_m: float) -> Bools:
    lat, lon, near = table.lat_deg, table.lon_deg, np.zeros(len(table), bool)
    test, train = (np.flatnonzero(split == name) for name in ("test", "train"))
    # Test photos near the antimeridian are there a second time, a full turn away, so that boxes may reach over it.
    turns = np.concatenate([lon[test], lon[test] - 360, lon[test] + 360])
    tree = shapely.STRtree(shapely.points(turns, np.tile(lat[test], 3)))
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
