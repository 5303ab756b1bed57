"""The evaluation step of the recipe: a database and photos in, a report out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import cellcode
from cellcode.config import EvaluationConfig
from cellcode.database import Database
from cellcode.errors import InputError
from cellcode.evaluation import page
from cellcode.evaluation.metrics import Result, interval_95
from cellcode.evaluation.systems import evaluate_systems
from cellcode.files import atomic_path, write_json
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.photos.pixels import load_pixels
from cellcode.search import Locator

Mask = npt.NDArray[np.bool_]


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


def run(
    database: Database | Path | str,
    photos: PhotoTable | Path | str,
    *,
    out: Path | str | None = None,
    split: str = "test",
) -> Report:
    """Measure a database on the photos of a split, beside baselines on the same photos.

    Args:
        out: folder for report.json, report.html and predictions.parquet; None writes nothing.
        split: of the photo table; image retrieval searches the photos of its split "train".

    Raises:
        InputError: the split is empty, none of its photos can be read, or the database is damaged.
    """
    opened = database if isinstance(database, Database) else Database.open(database)
    table = photos if isinstance(photos, PhotoTable) else PhotoTable.load(photos)
    tested = table.of_split(split)
    if not len(tested):
        raise InputError(
            f"the photo table has no photos in its split {split!r}; choose another --split or ingest again"
        )
    rule, locator = opened.config.evaluation, Locator(opened)
    pixels, failures = load_pixels(tested.files, opened.config.photo, description="reading tested photos")
    good = np.setdiff1d(np.arange(len(tested)), list(failures))
    if not len(good):
        raise InputError(f"none of the {len(tested)} photos can be read; the first: {next(iter(failures.values()))}")
    tested, queries = tested.select(good), locator.embed(pixels[good])
    gallery = table.of_split("train") if split != "train" else table.select(np.zeros(len(table), bool))
    results = list(evaluate_systems(locator, queries, tested, gallery, rule))
    density = _density(opened, tested)
    values = _values(opened, tested, split, results, density, rule)
    values["unreadable"] = [str(reason) for reason in failures.values()]
    folder = None
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        _write_predictions(tested, results, density, folder / "predictions.parquet")
        with atomic_path(folder / "report.html") as path:
            path.write_text(page.render(values, opened, tested, results), encoding="utf-8")
        write_json(folder / "report.json", values)
    print(
        f"{len(tested)} photos evaluated, {len(failures)} unreadable" + (f"; report in {folder}" if folder else ""),
        file=sys.stderr,
    )
    return Report(values, folder)


def _density(database: Database, table: PhotoTable) -> npt.NDArray[np.int64]:
    """Training photos in the prototype-level cell of each photo, (N,)."""
    level = database.config.levels.prototype
    cells, inverse = np.unique(s2.parents(database.ids, level), return_inverse=True)
    photos = np.bincount(inverse, database.facts.photos, minlength=len(cells)).astype(np.int64)
    own = s2.cell_ids(table.lat_deg, table.lon_deg, level)
    rows = np.minimum(np.searchsorted(cells, own), len(cells) - 1)
    return np.where(cells[rows] == own, photos[rows], 0)


def _values(
    database: Database,
    table: PhotoTable,
    split: str,
    results: list[Result],
    density: npt.NDArray[np.int64],
    rule: EvaluationConfig,
) -> dict[str, Any]:
    positions = s2.cell_ids(table.lat_deg, table.lon_deg, database.config.levels.cell).view(np.int64)
    slices = {"with_training_photos": density > 0, "without_training_photos": density == 0}
    everyone = np.ones(len(table), bool)
    systems = {}
    for result in results:
        summary = _summary(result, everyone, positions)
        summary["database_bytes"] = result.database_bytes
        summary["slices"] = {name: _summary(result, mask, positions) for name, mask in slices.items() if mask.any()}
        systems[result.name] = summary
    return {
        "photos": len(table),
        # Cross area: no photo was trained on in any of the tested photos' cells.
        "area": "same" if (density > 0).any() else "cross",
        "split": split,
        "slices": {name: int(mask.sum()) for name, mask in slices.items()},
        "systems": systems,
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


def _summary(result: Result, mask: Mask, positions: npt.NDArray[np.int64]) -> dict[str, Any]:
    recall: dict[str, dict[str, float]] = {}
    interval: dict[str, dict[str, list[float]]] = {}
    for k, by_radius in result.hits.items():
        recall[str(k)] = {f"{radius:g}": round(float(hits[mask].mean()), 6) for radius, hits in by_radius.items()}
        interval[str(k)] = {
            f"{radius:g}": [round(end, 4) for end in interval_95(hits[mask], positions[mask])]
            for radius, hits in by_radius.items()
        }
    return {
        "recall": recall,
        "interval_95": interval,
        "median_error_m": round(float(np.median(result.error_m[mask])), 2),
        "photos": int(mask.sum()),
    }


def _write_predictions(table: PhotoTable, results: list[Result], density: npt.NDArray[np.int64], path: Path) -> None:
    """One row a photo: its truth, its density and the error of each system."""
    columns = {"file": table.column("file"), "lat_deg": table.lat_deg, "lon_deg": table.lon_deg, "density": density}
    columns |= {f"{result.name}_error_m": result.error_m for result in results if result.name != "chance"}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
