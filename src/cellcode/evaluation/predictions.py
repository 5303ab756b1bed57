"""What was answered for each photo: predictions.parquet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import cellcode
from cellcode import config as configuration
from cellcode.database import Database
from cellcode.evaluation.confidence import Checked
from cellcode.evaluation.metrics import Result
from cellcode.files import atomic_path
from cellcode.photos import PhotoTable
from cellcode.types import Int64


def write(
    database: Database, table: PhotoTable, density: Int64, results: list[Result], checked: Checked, path: Path
) -> None:
    """Write one row a photo: its truth, its density, the error of each system, and what the answer says of itself.

    The metadata names what they are predictions of, so that nobody takes them for another database's.

    Args:
        density: (N,), see `slices.density`.
    """
    told = checked.told
    columns: dict[str, Any] = {"file": table.column("file"), "lat_deg": table.lat_deg, "lon_deg": table.lon_deg}
    columns["density"] = density
    columns |= {f"{result.name}_error_m": result.error_m for result in results if result.name != "chance"}
    columns |= {
        "cell": told.cell,
        "probability": told.probability,
        "probability_near": told.near,
        "radius_50_m": told.radius_50_m,
        "radius_90_m": told.radius_90_m,
        "mean_error_m": checked.mean_error_m,
        "in_region": told.in_region,
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
