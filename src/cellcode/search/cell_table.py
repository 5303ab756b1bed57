"""The cells of a database as one Parquet file, which vector stores and analysis tools read."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import cellcode
from cellcode.database import Database
from cellcode.files import atomic_path, locked
from cellcode.geography import s2
from cellcode.progress import Meter

BATCH_BYTES = 64 << 20  # of codes that are in memory at once
METADATA = b"cellcode"  # key of the schema's metadata; its value is JSON


def export_parquet(database: Database, out: Path) -> Path:
    """Write one row per cell, in the order of the ids; only some rows are in memory at a time.

    Columns: `cell` (uint64, the S2 id), `token`, `lat` and `lon` (float64, degrees WGS84, the cell's centre), `code` (a list of
    D float32, of fixed size). The inner product of a code and the embedding of a photo is the score of the cell. The schema's
    metadata has the database's identity, level, dim, licences and attributions, as JSON under `cellcode`. Returns `out`.
    """
    dim, count = database.code_set.dim, len(database.ids)
    facts = {"database": database.identity, "level": database.level, "dim": dim}
    facts |= {name: database.manifest[name] for name in ("licences", "attributions")}
    facts |= {"cellcode_version": cellcode.__version__}
    columns = {"cell": pa.uint64(), "token": pa.string(), "lat": pa.float64(), "lon": pa.float64()}
    schema = pa.schema(columns | {"code": pa.list_(pa.float32(), dim)}, {METADATA: json.dumps(facts)})
    rows = max(1, BATCH_BYTES // (4 * dim))
    database.verify()
    with (
        locked(out),
        atomic_path(out) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        Meter("exporting cells", count) as meter,
    ):
        for first in range(0, count, rows):
            ids = np.array(database.ids[first : first + rows])
            codes = np.asarray(database.codes[first : first + rows], np.float32)
            code = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), dim)
            writer.write_table(pa.table([pa.array(ids), s2.tokens(ids), *s2.cell_centers(ids), code], schema=schema))
            meter.advance(len(ids))
    return out
