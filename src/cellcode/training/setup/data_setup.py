"""What a training is given: photos to learn from and to validate with, whether they suffice, and what is said of them later."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from cellcode.aerial import AerialSource
from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.photos.packed.shards import PackedPhotos, is_packed
from cellcode.photos.reading.pixels import load_pixels
from cellcode.photos.table.splits import by_position
from cellcode.runs import CellFacts
from cellcode.training.data.packed import PackedTraining, unpack
from cellcode.types import Bools, Float64, UInt8


def photos_of(
    photos: PhotoTable | Path | str, config: Config, cache: Path
) -> tuple[PhotoTable | PackedTraining, PhotoTable]:
    """Return the photos to train on, from a table or packed, and those to validate with, whose files are at hand."""
    if isinstance(photos, PhotoTable):
        return split_validation(photos, config)
    if not is_packed(photos):
        return split_validation(PhotoTable.load(Path(photos)), config)
    packed = PackedPhotos.open(photos)
    return PackedTraining.of(packed, config), unpack(packed, "validation", cache / "validation")


def split_validation(table: PhotoTable, config: Config) -> tuple[PhotoTable, PhotoTable]:
    """Return the photos to train on and those to validate with.

    The latter are the table's split "validation". Without one they are carved out of the training split, by position, and
    some prototype cells lose all their photos to it, so that calibration sees photos of places that no photo taught.
    """
    validation, table = table.of_split("validation"), table.of_split("train")
    if not len(table):
        raise InputError("the photo table has no photos in its split 'train'; ingest with a split, or a larger folder")
    if len(validation):
        print(
            f"{len(validation)} photos of the split 'validation' are used; the configuration's is ignored",
            file=sys.stderr,
        )
        return table, validation
    chosen = set_apart(table.lat_deg, table.lon_deg, config)
    return table.select(~chosen), table.select(chosen)


def set_apart(lat_deg: Float64, lon_deg: Float64, config: Config) -> Bools:
    """Choose the photos that training does not see from those at these positions, (N,) bool.

    Raises:
        InputError: it would be all of them.
    """
    rule, seed = config.validation, config.training.seed
    cells = s2.cell_ids(lat_deg, lon_deg, config.levels.prototype)
    distinct = np.unique(cells)
    count = round(rule.withheld_share * len(distinct))
    withheld = np.isin(cells, np.random.default_rng([seed, 3]).permutation(distinct)[:count])
    blocks = by_position(lat_deg, lon_deg, block_m=rule.block_m, share=rule.share, seed=seed)
    chosen = withheld | blocks
    if chosen.all():
        raise InputError("validation takes every training photo; lower validation.share or validation.block_m")
    return chosen


def require_supervision(config: Config, training: PhotoTable | PackedTraining, source: AerialSource | None) -> None:
    """Refuse, before any work, a training that has nothing to learn from."""
    loss = config.loss
    if source is None:
        if not (loss.query_prototype or loss.query_query):
            raise InputError("training without aerial imagery needs prototypes: loss.query_prototype is 0")
        if config.training.hard_group_size > 1 and not loss.query_query:
            raise InputError(
                "training.hard_group_size has no effect without aerial imagery: photos of a batch are compared with its tiles, "
                "or with each other if loss.query_query is above 0"
            )
        return
    if not (loss.query_prototype or loss.query_query or loss.query_aerial):
        raise InputError(
            "there is nothing to learn: loss.query_prototype, loss.query_aerial and loss.query_query are 0"
        )
    covered = source.covers(training.lat_deg, training.lon_deg)
    if not covered.any():
        raise InputError("no training photo lies in the aerial imagery; check the photos' region and the raster's CRS")
    if not covered.all():
        what = "training photos" if isinstance(training, PhotoTable) else "cells with training photos"
        print(f"{(~covered).sum()} of {len(covered)} {what} lie outside the imagery", file=sys.stderr)


def decode(table: PhotoTable, config: Config, description: str) -> tuple[UInt8, PhotoTable]:
    """Read photos; those that cannot be read any more are left out and counted."""
    pixels, failures = load_pixels(table.files, config.photo, description=description)
    if failures:
        first = next(iter(failures.values()))
        print(f"{len(failures)} of {len(table)} photos left out; the first: {first}", file=sys.stderr)
        good = np.setdiff1d(np.arange(len(table)), list(failures))
        if not len(good):
            raise InputError(f"none of the {len(table)} photos can be read; the first: {first}")
        pixels, table = pixels[good], table.select(good)
    return pixels, table


def facts(training: PhotoTable | PackedTraining, level: int) -> CellFacts:
    """Count what each cell of a level has of training photos."""
    if isinstance(training, PackedTraining):
        return training.facts
    return CellFacts.of_photos(training.lat_deg, training.lon_deg, training.captured_at, level)


def digest(training: PhotoTable | PackedTraining) -> str:
    """Digest of which photos are trained on and where they are."""
    if isinstance(training, PackedTraining):
        return training.packed.identity
    files = "\n".join(str(name) for name in training.column("file")).encode()
    return hashlib.sha256(files + training.lat_deg.tobytes() + training.lon_deg.tobytes()).hexdigest()[:16]


def manifest(training: PhotoTable | PackedTraining, source: AerialSource | None) -> dict[str, object]:
    """Give what a run says of its ingredients: where they are from, and under which licences."""
    licences, attributions = _distinct(training, "licence"), _distinct(training, "attribution")
    if source is not None:
        licences, attributions = sorted({*licences, source.licence}), sorted({*attributions, source.attribution})
    lat_deg, lon_deg = training.lat_deg, training.lon_deg
    return {
        "training_photos": len(training),
        "bounds": [float(lon_deg.min()), float(lat_deg.min()), float(lon_deg.max()), float(lat_deg.max())],
        "licences": [text for text in licences if text],
        "attributions": [text for text in attributions if text],
        "imagery": source.identity if source is not None else None,
    }


def _distinct(training: PhotoTable | PackedTraining, name: str) -> list[str]:
    if isinstance(training, PackedTraining):
        return list(training.packed.manifest[f"{name}s"])
    return sorted({str(value) for value in training.column(name) if value is not None})
