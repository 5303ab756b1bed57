"""What was answered for each photo: predictions.parquet."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import cellcode
from cellcode import config as configuration
from cellcode.evaluation import slices
from cellcode.evaluation.figures.material import Material
from cellcode.files import atomic_path
from cellcode.photos import PhotoTable


def write(material: Material, path: Path) -> None:
    """Write one row per photo: its truth, its density, the error of each system, and what the answer says of itself.

    The metadata names the database, configuration and photo table that the predictions are of.
    """
    database, table, stated = material.database, material.table, material.checked.stated
    columns: dict[str, Any] = {"file": table.column("file"), "lat_deg": table.lat_deg, "lon_deg": table.lon_deg}
    columns["density"] = slices.density(database, table)
    columns |= {f"{result.name}_error_m": result.error_m for result in material.results if result.name != "chance"}
    columns |= {
        "cell": stated.cell,
        "probability": stated.probability,
        "probability_near": stated.near,
        "radius_50_m": stated.radius_50_m,
        "radius_90_m": stated.radius_90_m,
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
    """Digest of everything the table says of the photos."""
    sink = pa.BufferOutputStream()
    rows = table.rows.combine_chunks()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]
