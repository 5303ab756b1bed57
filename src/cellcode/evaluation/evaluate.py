"""The evaluation step of the recipe: a database and photos in, a report out."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cellcode
from cellcode.aerial import AerialSource, open_source
from cellcode.config import MachineConfig
from cellcode.database import Database
from cellcode.errors import InputError
from cellcode.evaluation import confidence, figures, metrics, slices, written
from cellcode.evaluation.confidence import Stated
from cellcode.evaluation.metrics import Bootstrap, Result
from cellcode.evaluation.systems import embed, evaluate_systems, to_nearest_cell
from cellcode.files import atomic_path, locked_folder, write_json
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.search import Locator
from cellcode.types import Bools, Int64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What `evaluate` found: report.json (docs/formats.md has its keys), and where the files are, if any were written."""

    values: dict[str, Any]
    folder: Path | None

    @property
    def systems(self) -> dict[str, Any]:
        """The systems by name."""
        return dict(self.values["systems"])

    def table(self) -> str:
        """Return the recall table as text."""
        return written.text_table(self.values)


def evaluate(
    cells: Database | Path | str,
    photos: PhotoTable | Path | str,
    *,
    out: Path | str | None = None,
    split: str = "test",
    aerial: AerialSource | Path | str | None = None,
    out_of_region: PhotoTable | Path | str | None = None,
    cluster: str | None = None,
    machine: MachineConfig | None = None,
    draw: bool = True,
) -> Report:
    """Measure a database on the photos of a split, beside baselines on the same photos. Nothing is taken from earlier runs.

    Args:
        cells: an open database, its folder, or a folder of its shards.
        out: folder for report.json, report.html, predictions.parquet and figures/*.png; None writes nothing.
        split: of the photo table; image retrieval searches the photos of its split "train".
        aerial: imagery that the gallery of figures shows; None: photos only.
        out_of_region: photos, of any split, that were taken outside the region and should be refused; None: not tested.
        cluster: address of a Ray cluster that searches the shards; see `search.sharded.open_searcher`.
        machine: device and precision of the encoder; see `Locator`.
        draw: figures too, which take longer to draw than a small region takes to measure.

    Raises:
        InputError: the split is empty, none of its photos can be read, or the database is damaged.
    """
    table = PhotoTable.of(photos)
    outside = PhotoTable.of(out_of_region) if out_of_region is not None else None
    for each in (table, outside):
        if each is not None:
            each.verify()
    source = open_source(aerial) if aerial is not None else None
    if not len(tested := table.of_split(split)):
        raise InputError(
            f"the photo table has no photos in its split {split!r}; choose another --split or ingest again"
        )
    gallery = table.of_split("train") if split != "train" else table.select(np.zeros(len(table), bool))
    with Locator.open(cells, cluster=cluster, machine=machine) as locator:
        locator.database.verify()
        values, material = _measured(locator, tested, gallery, split, outside, source)
    if (folder := Path(out) if out is not None else None) is not None:
        _write(folder, values, material, draw)
    for note in values["notes"]:
        logger.warning("%s", note)
    written = f"; report in {folder}" if folder else ""
    logger.info("%d photos evaluated, %d unreadable%s", values["photos"], len(values["unreadable"]), written)
    return Report(values, folder)


def _measured(
    locator: Locator, tested: PhotoTable, gallery: PhotoTable, split: str, outside: PhotoTable | None,
    source: AerialSource | None,
) -> tuple[dict[str, Any], figures.Material]:  # fmt: skip
    """Return report.json, and what figures are drawn from."""
    database, rule = locator.database, locator.database.config.evaluation
    asked, good, unreadable, encoder_ms = embed(locator, tested.files, "reading tested photos")
    if not len(good):
        raise InputError(f"none of the {len(tested)} photos can be read; the first: {unreadable[0]}")
    tested = tested.select(good)
    results = list(evaluate_systems(locator, asked, tested, gallery, rule))
    middle_m = metrics.middle_radius_m(rule.radii_m)
    checked = confidence.check(confidence.ask(locator, asked, middle_m), tested, database.level)
    others, notes = _ask_out_of_region(locator, outside, middle_m)
    made, missing = slices.cut(database, tested, gallery)
    groups = _groups(slices.density(database, tested))
    values = _values(database, tested, split, results, made, groups, middle_m)
    values["confidence"] = confidence.summary(checked, groups, middle_m, others)
    values["ms_per_query"] = {"encoder": round(encoder_ms, 4)} | {
        result.name: result.ms_per_query for result in results if result.ms_per_query is not None
    }
    values["unreadable"] = unreadable
    values["notes"] = _overlap(database, tested, max(rule.radii_m)) + notes + missing
    seen = groups["with_training_photos"]
    return values, figures.Material(database, tested, asked, results, checked, seen, values, source, others)


def _write(folder: Path, values: dict[str, Any], material: figures.Material, draw: bool) -> None:
    """Write the files of a report; figures that cannot be drawn are added to its notes."""
    drawn, undrawn = figures.all_figures(material) if draw else ({}, [])
    values["notes"] += undrawn
    pictures = figures.encode(drawn)
    with locked_folder(folder):
        (folder / "report.json").unlink(missing_ok=True)  # written last: without it the report is not finished
        figures.save(pictures, folder / "figures")
        written.write_predictions(material, folder / "predictions.parquet")
        with atomic_path(folder / "report.html") as path:
            path.write_text(written.render(values, pictures), encoding="utf-8")
        write_json(folder / "report.json", values)


def summary(result: Result, mask: Bools, positions: Int64) -> dict[str, Any]:
    """Return what report.json says of a system on the photos of a mask, (N,); `positions`, (N,), are their places' numbers."""
    return metrics.summary(result, mask, Bootstrap(positions))


def _groups(density: Int64) -> dict[str, Bools]:
    return {"with_training_photos": density > 0, "without_training_photos": density == 0}


def _overlap(database: Database, table: PhotoTable, radius_m: float) -> list[str]:
    """Report how many photos no answer can be right for."""
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


def _ask_out_of_region(locator: Locator, table: PhotoTable | None, radius_m: float) -> tuple[Stated | None, list[str]]:
    if table is None:
        return None, []
    asked, good, unreadable, _ = embed(locator, table.files, "reading out-of-region photos")
    if not len(good):
        return None, ["no out-of-region photo can be read, so their refusal is not measured"]
    notes = [f"{len(unreadable)} out-of-region photos cannot be read, the first: {unreadable[0]}"] if unreadable else []
    return confidence.ask(locator, asked, radius_m), notes


def _values(
    database: Database, table: PhotoTable, split: str, results: list[Result], made: list[slices.Slice],
    groups: dict[str, Bools], middle_m: float,
) -> dict[str, Any]:  # fmt: skip
    rule = database.config.evaluation
    places = Bootstrap(s2.cell_ids(table.lat_deg, table.lon_deg, database.config.levels.cell).view(np.int64))
    everyone = np.ones(len(table), bool)
    systems = {
        result.name: {
            **metrics.summary(result, everyone, places),
            "database_bytes": result.database_bytes,
            "times_ours": round(result.database_bytes / database.bytes, 3),
            "ms_per_query": result.ms_per_query,
            "slices": {name: metrics.summary(result, mask, places) for name, mask in groups.items() if mask.any()},
        }
        for result in results
    }
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
        **{key: database.manifest[key] for key in ("levels", "cells", "calibration")},
        "database": {"identity": database.identity, "run": database.manifest["run"]},
        **{key: database.manifest[key] for key in ("licences", "attributions")},
        "cellcode_version": cellcode.__version__,
    }
