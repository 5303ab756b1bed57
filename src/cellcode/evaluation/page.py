"""The report as a page that stands alone, and as text."""

from __future__ import annotations

import base64
import io
from importlib.resources import files
from typing import Any

import jinja2

from cellcode.database import Database
from cellcode.evaluation import figures
from cellcode.evaluation.metrics import Result
from cellcode.photos import PhotoTable

NAMES = {
    "hybrid": "hybrid (cell codes)",
    "prototypes": "prototypes only",
    "aerial": "aerial only",
    "image_retrieval": "image retrieval",
    "chance": "chance",
}
SLICE_NAMES = {"with_training_photos": "cells with training photos", "without_training_photos": "cells without"}


def text_table(values: dict[str, Any]) -> str:
    """Return recall@1 at every radius for all photos, with the middle radius also by slice; in percent."""
    radii = [f"{radius:g}" for radius in values["radii_m"]]
    middle = radii[middle_index(len(radii))]
    slices = {name: count for name, count in values["slices"].items() if count and count < values["photos"]}
    head = ["recall@1 within", *(f"{radius} m" for radius in radii), "median error", "database"]
    head += [f"{middle} m, {'with' if name.startswith('with_') else 'without'} photos" for name in slices]
    rows = [head]
    for name, system in values["systems"].items():
        recall = system["recall"]["1"]
        size = f"{system['database_bytes'] / 1e6:.2f} MB" if system["database_bytes"] else "-"
        row = [NAMES.get(name, name), *(f"{recall[radius]:.1%}" for radius in radii)]
        row += [f"{system['median_error_m']:.0f} m", size]
        row += [f"{system['slices'][part]['recall']['1'][middle]:.1%}" for part in slices]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def middle_index(count: int) -> int:
    """Index of the radius that slices and maps use: the second of three, the third of four."""
    return count // 2


def render(values: dict[str, Any], database: Database, table: PhotoTable, results: list[Result]) -> str:
    """Return report.html: tables, a map of hits and misses, error curves; no request to any other host."""
    radius_m = values["radii_m"][middle_index(len(values["radii_m"]))]
    hybrid = next(result for result in results if result.name == "hybrid")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    template = environment.from_string((files("cellcode.evaluation") / "report.html").read_text(encoding="utf-8"))
    return template.render(
        report=values,
        names=NAMES,
        slice_names=SLICE_NAMES,
        radii=[f"{radius:g}" for radius in values["radii_m"]],
        ranks=[str(rank) for rank in values["ranks"]],
        radius=f"{radius_m:g}",
        map=_embedded(figures.hit_map(database, table, hybrid, radius_m)),
        curves=_embedded(figures.error_curves([result for result in results if result.name != "chance"])),
    )


def _embedded(figure: Any) -> str:
    """A figure as a data address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
