"""The report as a page that stands alone, and as text."""

import base64
from importlib.resources import files
from typing import Any

import jinja2

from cellcode.evaluation.figures.style import NAMES
from cellcode.evaluation.metrics import middle_radius_m

SLICE_NAMES = {"with_training_photos": "cells with training photos", "without_training_photos": "cells without"}
BY_NAMES = {
    "spatial_density": "training photos in the cell",
    "temporal_density": "training dates in the cell",
    "land_use": "land use",
    "heading": "heading of the camera",
    "field_of_view": "field of view",
    "days_from_training": "days to the nearest training date",
}
BY_SYSTEMS = ("hybrid", "prototypes", "aerial", "image_retrieval")  # of the tables of slices


def text_table(values: dict[str, Any]) -> str:
    """Return recall@1 at every radius for all photos, with the middle radius also by slice; in percent."""
    radii = [f"{radius:g}" for radius in values["radii_m"]]
    middle = f"{middle_radius_m(values['radii_m']):g}"
    slices = {name: count for name, count in values["slices"].items() if count and count < values["photos"]}
    head = ["recall@1 within", *(f"{radius} m" for radius in radii), "median error", "database", "a query"]
    head += [f"{middle} m, {'with' if name.startswith('with_') else 'without'} photos" for name in slices]
    rows = [head]
    for name, system in values["systems"].items():
        recall = system["recall"]["1"]
        size = f"{system['database_bytes'] / 1e6:.2f} MB" if system["database_bytes"] else "-"
        row = [NAMES.get(name, name), *(f"{recall[radius]:.1%}" for radius in radii)]
        row += [f"{system['median_error_m']:.0f} m", size]
        row += [f"{system['ms_per_query']:.2f} ms" if system["ms_per_query"] is not None else "-"]
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


def render(values: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """Return report.html: tables and figures; no request to any other host.

    Args:
        values: report.json.
        pictures: figures by name, as PNG.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    template = environment.from_string((files("cellcode.evaluation") / "report.html").read_text(encoding="utf-8"))
    return template.render(
        report=values,
        names=NAMES,
        slice_names=SLICE_NAMES,
        by_names=BY_NAMES,
        by_systems=[name for name in BY_SYSTEMS if name in values["systems"]],
        radii=[f"{radius:g}" for radius in values["radii_m"]],
        ranks=[str(rank) for rank in values["ranks"]],
        radius=f"{middle_radius_m(values['radii_m']):g}",
        figures={
            name: "data:image/png;base64," + base64.b64encode(picture).decode() for name, picture in pictures.items()
        },
    )
