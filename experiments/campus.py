"""The real campus: the same tables without aerial rows, across devices and from day to night.

The photos are not ours to ship; `make results CAMPUS=FOLDER` takes a folder with photos.csv (file, lat, lon, captured_at,
device, split).
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cellcode import config as configuration
from cellcode.database import build
from cellcode.errors import InputError
from cellcode.evaluation import evaluate
from cellcode.geography import distance
from cellcode.photos import PhotoTable, ingest
from cellcode.training import train
from cellcode.types import Bools

DAY_FROM_H, NIGHT_FROM_H = 6, 17  # local hours of captured_at between which a photo counts as taken by day
CONDITIONS = ("split as given", "device a to b", "day to night")


def measure(folder: Path, needs: dict[str, Path], *, source: str, condition: str, digest: str) -> dict[str, Any]:
    """Train on a part of the campus and test on another; the work of a stage.

    Args:
        source: folder of photos.csv.
        condition: one of CONDITIONS; photos of the test split only are tested, of the train split only trained on.
        digest: of what the stage depends on besides.
    """
    table = ingest(Path(source) / "photos.csv", out=folder / "table")
    learning, tested = _sides(table, condition)
    table = table.with_column("split", np.select([learning, tested], ["train", "test"], "none"))
    if not learning.any() or not tested.any():
        raise InputError(
            f"{source}: no photos to train on or to test for {condition!r}; "
            "devices must be called a and b, and captured_at be given"
        )
    run = train("campus", table, out=folder / "run", resume=(folder / "run" / "checkpoint").is_dir())
    cells = build(run, out=folder / "cells")
    report = evaluate(cells, table)
    return {
        "condition": condition,
        "training_photos": int(learning.sum()),
        "extent_m": _extent_m(table),
        "days": len(np.unique(table.captured_at.astype("datetime64[D]"))),
        "photos": int(tested.sum()),
        "radii": [f"{radius:g}" for radius in cells.config.evaluation.radii_m],
        "systems": report.values["systems"],
    }


def _extent_m(table: PhotoTable) -> list[int]:
    """Size of the campus from west to east and from south to north."""
    east, north = distance.local_m(table.lat_deg.min(), table.lon_deg.min(), table.lat_deg.max(), table.lon_deg.max())
    return [round(float(east)), round(float(north))]


def digest(photos: Path) -> str:
    """Return a digest of the list of photos and of the configuration.

    Raises:
        InputError: there is no list.
    """
    path = photos / "photos.csv"
    if not path.is_file():
        raise InputError(f"{path} does not exist; --campus takes a folder with photos.csv")
    resolved = configuration.dump(configuration.load("campus"))
    return hashlib.sha256(path.read_bytes() + resolved.encode()).hexdigest()[:16]


def _sides(table: PhotoTable, condition: str) -> tuple[Bools, Bools]:
    """Masks of the photos to train on and to test."""
    training, testing = table.split == "train", table.split == "test"
    device = np.array([str(name) for name in table.column("device")])
    known = ~np.isnat(table.captured_at)
    hour = (table.captured_at - table.captured_at.astype("datetime64[D]")) / np.timedelta64(1, "h")
    night, day = (
        known & ((hour >= NIGHT_FROM_H) | (hour < DAY_FROM_H)),
        known & (hour >= DAY_FROM_H) & (hour < NIGHT_FROM_H),
    )
    return {
        "split as given": (training, testing),
        "device a to b": (training & (device == "a"), testing & (device == "b")),
        "day to night": (training & day, testing & night),
    }[condition]
