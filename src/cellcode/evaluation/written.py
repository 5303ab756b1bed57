"""What a report is written as: a page that stands alone, text, and what was answered for each photo."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

import cellcode
from cellcode import config as configuration
from cellcode.evaluation import slices
from cellcode.evaluation.figures.canvas import NAMES, Material
from cellcode.evaluation.metrics import middle_radius_m
from cellcode.files import atomic_path
from cellcode.photos import PhotoTable

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
    rows = [["recall@1 within", *(f"{radius} m" for radius in radii), "median error", "database", "a query"]]
    rows[0] += [f"{middle} m, {'with' if name.startswith('with_') else 'without'} photos" for name in slices]
    for name, system in values["systems"].items():
        recall = system["recall"]["1"]
        size = f"{system['database_bytes'] / 1e6:.2f} MB" if system["database_bytes"] else "-"
        row = [NAMES.get(name, name), *(f"{recall[radius]:.1%}" for radius in radii)]
        row += [f"{system['median_error_m']:.0f} m", size]
        row += [f"{system['ms_per_query']:.2f} ms" if system["ms_per_query"] is not None else "-"]
        row += [f"{system['slices'][part]['recall']['1'][middle]:.1%}" for part in slices]
        rows.append(row)
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def render(values: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """Return report.html of report.json and PNGs by name: tables and figures; no request to any other host."""
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


def write_predictions(material: Material, path: Path) -> None:
    """Write one row per photo: its truth, its density, the error of each system, and what the answer says of itself.

    The metadata names the database, configuration and photo table that the predictions are of.
    """
    database, table, stated = material.database, material.table, material.checked.stated
    columns: dict[str, Any] = {
        "file": table.column("file"),
        "lat_deg": table.lat_deg,
        "lon_deg": table.lon_deg,
        "density": slices.density(database, table),
        **{f"{result.name}_error_m": result.error_m for result in material.results if result.name != "chance"},
        "cell": stated.cell,
        "probability": stated.probability,
        "probability_near": stated.near,
        "radius_50_m": pa.array(stated.radius_50_m, from_pandas=True),  # null: not known
        "radius_90_m": pa.array(stated.radius_90_m, from_pandas=True),
        "mean_error_m": material.checked.mean_error_m,
        "in_region": stated.in_region,
    }
    of = {
        "database": database.identity,
        "config": hashlib.sha256(configuration.dump(database.config).encode()).hexdigest()[:16],
        "photos": _digest(table),
        "cellcode_version": cellcode.__version__,
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata({"cellcode": json.dumps(of)}), temporary)


def _digest(table: PhotoTable) -> str:
    sink, rows = pa.BufferOutputStream(), table.rows.combine_chunks()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]
