"""Databases of any size for benchmarks of search: codes with the statistics of trained ones, in the format of real databases.

python benchmarks/code_sets.py fit RUN DATABASE      fits data/code_statistics.npz to a trained run and its database
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from code_field import CodeField
from code_statistics import CodeStatistics, describe, fit

from cellcode import config as configuration
from cellcode.database import Calibration, Database
from cellcode.database.building.writer import Writer, count_kinds
from cellcode.database.store.layout import CELLS, CODES, IDS
from cellcode.database.store.rows import SCHEMA, Facts, RowWriter
from cellcode.files import atomic_folder
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.progress import Meter
from cellcode.runs import Run
from cellcode.types import Float16, Float32, Ids

STATISTICS = Path(__file__).parent / "data" / "code_statistics.npz"
LEVEL = 16
SEED = 0
CHECKED = "checked_queries.npy"  # beside a database, queries that nothing was tuned on


def make(cells: int, folder: Path, *, min_cells: int = 200_000) -> Database:
    """Return the generated database of this many cells in a folder; it is made where it is not there yet."""
    if (folder / "manifest.json").is_file():
        return Database.open(folder)
    statistics = CodeStatistics.load(STATISTICS)
    field = CodeField(statistics, SEED)
    config = configuration.parse(
        {
            "name": "generated",
            "levels": {"prototype": LEVEL - 1, "cell": LEVEL},
            "model": {"dim": statistics.dim},
            "build": {"first_stage_min_cells": min_cells, "keep_terms": False},
        }
    )
    with atomic_folder(folder) as temporary:
        ids, codes = _write_codes(field, cells, statistics.dim, temporary)
        writer = Writer(temporary, config)
        queries, _ = field.queries(ids, codes, 1024, seed=1)
        search = writer.first_stage(writer.codes(), queries, LEVEL, new=True)
        # An encoder with random weights: a database is not complete without one.
        writer.encoder(Encoder(config.model.ground, config.model.dim))
        checked, _ = field.queries(ids, codes, 512, seed=2)
        everywhere = np.broadcast_to(True, cells)
        writer.finish(
            count_kinds(everywhere, everywhere), Calibration(temperature=0.08), search, _values(statistics.dim)
        )
        np.save(temporary / CHECKED, checked)
    return Database.open(folder)


def checked_queries(database: Database) -> Float32:
    """Return queries that the settings of a generated database were not tuned on, (512, D)."""
    return np.asarray(np.load(database.folder / CHECKED), np.float32)


def _write_codes(field: CodeField, cells: int, dim: int, folder: Path) -> tuple[Ids, Float16]:
    made = []
    with RowWriter(folder / CODES, (dim,), np.float16) as file, Meter(f"generating {cells:,} codes", cells) as meter:
        for block, codes in field.blocks(cells, level=LEVEL):
            file.append(codes)
            made.append(block)
            meter.advance(len(block))
    ids = np.concatenate(made)
    np.save(folder / IDS, ids)
    with pq.ParquetWriter(folder / CELLS, SCHEMA) as table:
        for block in made:
            none = np.full(len(block), "NaT", "datetime64[D]")
            zeros, yes = np.zeros(len(block), np.int32), np.ones(len(block), bool)
            table.write_table(Facts(zeros, zeros, none, none, yes, yes, none).table(block))
    return ids, np.load(folder / CODES, mmap_mode="c")


def _values(dim: int) -> dict[str, Any]:
    return {
        "cellcode_version": None,
        "run": {"identity": "generated", "name": "generated"},
        "aerial_encoder": None,
        "levels": {"prototype": LEVEL - 1, "cell": LEVEL},
        "dim": dim,
        "codes": {"dtype": "float16", "largest_score_error": 0.0, "aerial_error": 0.0},
        "calibration_report": {},
        "imagery": None,
        "training_photos": 0,
        "licences": [],
        "attributions": ["generated codes, not of any place"],
    }


def main() -> None:
    """Fit the statistics that generated databases have, or compare a generated set with the trained one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["fit", "describe"])
    parser.add_argument("run", type=Path, help="a trained run, for its validation photos")
    parser.add_argument("database", type=Path, help="its database")
    arguments = parser.parse_args()
    known, database = Run.load(arguments.run).validation, Database.open(arguments.database)
    codes = np.asarray(database.codes)
    if arguments.command == "fit":
        fit(database.ids, codes, known.lat_deg, known.lon_deg, known.queries).save(STATISTICS)
        print(json.dumps({"cells": len(codes), "photos": len(known.queries), "file": str(STATISTICS)}))
        return
    own = s2.cell_ids(known.lat_deg, known.lon_deg, database.level)
    rows = np.minimum(np.searchsorted(database.ids, own), len(codes) - 1)
    inside = database.ids[rows] == own
    trained = describe(database.ids, codes, known.queries[inside], rows[inside])
    field = CodeField(CodeStatistics.load(STATISTICS), SEED)
    ids, made = (np.concatenate(parts) for parts in zip(*field.blocks(len(codes), level=LEVEL), strict=True))
    generated = describe(ids, made, *field.queries(ids, made, int(inside.sum()), seed=1))
    print(f"{'':<32} {'trained':>10} {'generated':>10}")
    for name, value in trained.items():
        print(f"{name:<32} {value:>10.4g} {generated[name]:>10.4g}")


if __name__ == "__main__":
    main()
