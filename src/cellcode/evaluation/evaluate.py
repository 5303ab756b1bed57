"""The evaluation step of the recipe: a database and photos in, a report out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cellcode
from cellcode.aerial import AerialSource, open_source
from cellcode.database import Database
from cellcode.errors import InputError
from cellcode.evaluation import confidence, figures, metrics, page, predictions, queries, slices
from cellcode.evaluation.confidence import Told
from cellcode.evaluation.metrics import Bootstrap, Result
from cellcode.evaluation.systems import evaluate_systems, to_nearest_cell
from cellcode.files import atomic_path, write_json
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.search import Locator
from cellcode.types import Bools, Int64


@dataclass(frozen=True)
class Report:
    """What `evaluate` found.

    Attributes:
        values: report.json; docs/formats.md has its keys.
        folder: where the files are; None if none were written.
    """

    values: dict[str, Any]
    folder: Path | None

    @property
    def systems(self) -> dict[str, Any]:
        """The systems by name."""
        return dict(self.values["systems"])

    def table(self) -> str:
        """Return the recall table as text."""
        return page.text_table(self.values)


def evaluate(
    database: Database | Path | str,
    photos: PhotoTable | Path | str,
    *,
    out: Path | str | None = None,
    split: str = "test",
    aerial: AerialSource | Path | str | None = None,
    elsewhere: PhotoTable | Path | str | None = None,
) -> Report:
    """Measure a database on the photos of a split, beside baselines on the same photos. Nothing is taken from earlier runs.

    Args:
        out: folder for report.json, report.html, predictions.parquet and figures/*.png; None writes nothing.
        split: of the photo table; image retrieval searches the photos of its split "train".
        aerial: imagery that the gallery of figures shows; None: photos only.
        elsewhere: photos, of any split, that were taken outside the region and should be refused; None: not tested.

    Raises:
        InputError: the split is empty, none of its photos can be read, or the database is damaged.
    """
    opened = database if isinstance(database, Database) else Database.open(database)
    table = photos if isinstance(photos, PhotoTable) else PhotoTable.load(photos)
    outside = PhotoTable.load(elsewhere) if isinstance(elsewhere, Path | str) else elsewhere
    source = open_source(aerial) if aerial is not None else None
    tested = table.of_split(split)
    if not len(tested):
        raise InputError(
            f"the photo table has no photos in its split {split!r}; choose another --split or ingest again"
        )
    rule, locator = opened.config.evaluation, Locator(opened)
    asked, good, unreadable, encoder_ms = queries.embed(locator, tested.files, "reading tested photos")
    if not len(good):
        raise InputError(f"none of the {len(tested)} photos can be read; the first: {unreadable[0]}")
    tested = tested.select(good)
    gallery = table.of_split("train") if split != "train" else table.select(np.zeros(len(table), bool))
    results = list(evaluate_systems(locator, asked, tested, gallery, rule))
    middle_m = metrics.middle_radius_m(rule.radii_m)
    checked = confidence.check(confidence.ask(locator, asked, middle_m), tested, opened.level)
    told_elsewhere, notes = _ask_elsewhere(locator, outside, middle_m)
    notes = _overlap(opened, tested, max(rule.radii_m)) + notes
    made, missing = slices.cut(opened, tested, gallery)
    density = slices.density(opened, tested)
    groups = _groups(density)
    values = _values(opened, tested, split, results, made, groups, middle_m)
    values["confidence"] = confidence.summary(checked, groups, middle_m, told_elsewhere)
    values["ms_per_query"] = {"encoder": round(encoder_ms, 4)} | {
        result.name: result.ms_per_query for result in results if result.ms_per_query is not None
    }
    values["unreadable"] = unreadable
    values["notes"] = notes + missing
    folder = None
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        material = figures.Material(
            opened, tested, asked, results, checked, groups["with_training_photos"], values, source, told_elsewhere
        )
        drawn, undrawn = figures.all_figures(material)
        values["notes"] += undrawn
        pictures = figures.encode(drawn)
        figures.save(pictures, folder / "figures")
        predictions.write(opened, tested, density, results, checked, folder / "predictions.parquet")
        with atomic_path(folder / "report.html") as path:
            path.write_text(page.render(values, pictures), encoding="utf-8")
        write_json(folder / "report.json", values)
    for note in values["notes"]:
        print(note, file=sys.stderr)
    print(
        f"{len(tested)} photos evaluated, {len(unreadable)} unreadable" + (f"; report in {folder}" if folder else ""),
        file=sys.stderr,
    )
    return Report(values, folder)


def summary(result: Result, mask: Bools, positions: Int64) -> dict[str, Any]:
    """Return what report.json says of a system on the photos of a mask; see `metrics.summary`.

    Args:
        mask: (N,), photos that count.
        positions: (N,), number of the place of each photo, for the intervals.
    """
    return metrics.summary(result, mask, Bootstrap(positions))


def _groups(density: Int64) -> dict[str, Bools]:
    """Masks of the photos whose prototype-level cell holds training photos, and of the others."""
    return {"with_training_photos": density > 0, "without_training_photos": density == 0}


def _overlap(database: Database, table: PhotoTable, radius_m: float) -> list[str]:
    """Say how many photos no answer can be right for."""
    apart_m = to_nearest_cell((table.lat_deg, table.lon_deg), database.ids)
    lost = int((apart_m > radius_m).sum())
    if lost == len(table):
        return [
            f"the photos and the database do not overlap: none of the {lost} photos lies within {radius_m:g} m of a cell's "
            f"centre (the nearest is {apart_m.min() / 1000:.1f} km off), so every answer counts as a miss"
        ]
    if lost:
        return [f"{lost} of {len(table)} photos lie farther than {radius_m:g} m from every cell and count as misses"]
    return []


def _ask_elsewhere(locator: Locator, table: PhotoTable | None, radius_m: float) -> tuple[Told | None, list[str]]:
    if table is None:
        return None, []
    asked, good, unreadable, _ = queries.embed(locator, table.files, "reading photos from elsewhere")
    if not len(good):
        return None, ["no photo from elsewhere can be read, so nothing is said of photos from outside the region"]
    notes = (
        [f"{len(unreadable)} photos from elsewhere cannot be read, the first: {unreadable[0]}"] if unreadable else []
    )
    return confidence.ask(locator, asked, radius_m), notes


def _values(
    database: Database,
    table: PhotoTable,
    split: str,
    results: list[Result],
    made: list[slices.Slice],
    groups: dict[str, Bools],
    middle_m: float,
) -> dict[str, Any]:
    rule = database.config.evaluation
    places = Bootstrap(s2.cell_ids(table.lat_deg, table.lon_deg, database.config.levels.cell).view(np.int64))
    everyone = np.ones(len(table), bool)
    systems = {}
    for result in results:
        found = metrics.summary(result, everyone, places)
        found["database_bytes"] = result.database_bytes
        found["times_ours"] = round(result.database_bytes / database.bytes, 3)
        found["ms_per_query"] = result.ms_per_query
        found["slices"] = {name: metrics.summary(result, mask, places) for name, mask in groups.items() if mask.any()}
        systems[result.name] = found
    return {
        "photos": len(table),
        # Cross area: no photo was trained on in any of the tested photos' cells.
        "area": "same" if groups["with_training_photos"].any() else "cross",
        "split": split,
        "slices": {name: int(mask.sum()) for name, mask in groups.items()},
        "systems": systems,
        "by": slices.recalls(made, results, middle_m, places),
        "radii_m": list(rule.radii_m),
        "ranks": list(rule.ranks),
        "levels": database.manifest["levels"],
        "cells": database.manifest["cells"],
        "calibration": database.manifest["calibration"],
        "database": {"identity": database.identity, "run": database.manifest["run"]},
        "licences": database.manifest["licences"],
        "attributions": database.manifest["attributions"],
        "cellcode_version": cellcode.__version__,
    }
