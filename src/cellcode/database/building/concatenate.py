"""From the finished shards of a build to the files of a database, row after row."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cellcode.database.building.shards import read_shard
from cellcode.database.store import facts as cell_facts
from cellcode.database.store import layout
from cellcode.database.store.facts import Facts
from cellcode.database.store.npy_file import RowWriter
from cellcode.geography import distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.progress import Meter
from cellcode.runs import CellFacts
from cellcode.types import Bools

SMOOTH_BLOCK = 4096


def concatenate(folders: list[Path], known: CellFacts, dim: int, folder: Path) -> tuple[Bools, Bools]:
    """Write ids, terms, digests of tiles and cells.parquet from shards in the order of their cells.

    Memory does not depend on the number of cells, apart from two bytes for each.

    Returns:
        Which cells have an aerial embedding, and which a prototype, two (N,).
    """
    (folder / "terms").mkdir(exist_ok=True)
    has_aerial, has_prototype = [], []
    with ExitStack() as stack, Meter("concatenating shards", len(folders)) as meter:
        files = {
            field: stack.enter_context(RowWriter(folder / name, row, dtype))
            for field, name, row, dtype in (
                ("ids", layout.IDS, (), np.uint64),
                ("aerial", layout.AERIAL, (dim,), np.float16),
                ("prototypes", layout.PROTOTYPES, (dim,), np.float16),
                ("digests", layout.DIGESTS, (), np.uint64),
            )
        }
        table = stack.enter_context(pq.ParquetWriter(folder / layout.CELLS, cell_facts.SCHEMA))
        for path in folders:
            shard = read_shard(path)
            for field, file in files.items():
                file.append(getattr(shard, field))
            facts = Facts.of_cells(shard.ids, known, shard.has_prototype, shard.has_aerial, shard.imagery_date)
            if len(shard.ids):
                table.write_table(facts.table(shard.ids))
            has_aerial.append(np.asarray(shard.has_aerial))
            has_prototype.append(np.asarray(shard.has_prototype))
            meter.advance()
    return np.concatenate(has_aerial), np.concatenate(has_prototype)


def smooth_aerial(folder: Path, has_aerial: Bools, sigma_cells: float) -> None:
    """Average the aerial embeddings of each cell and its eight neighbours (ours): a photo sees farther than one tile.

    Weights fall with the distance of the centres as a Gaussian of `sigma_cells` mean edges; the mean is brought back to
    unit length. Cells without imagery keep zeros. The encoder's own output is kept beside it, for a later build to reuse;
    memory does not depend on the number of cells.
    """
    os.replace(folder / layout.AERIAL, folder / layout.TILES)
    ids, before = np.load(folder / layout.IDS, mmap_mode="r"), np.load(folder / layout.TILES, mmap_mode="r")
    sigma_m = sigma_cells * s2.mean_edge_m(int(s2.levels(ids[:1])[0]))
    with RowWriter(folder / layout.AERIAL, before.shape[1:], np.float16) as file, Meter("smoothing", len(ids)) as meter:
        for first in range(0, len(ids), SMOOTH_BLOCK):
            own = np.asarray(ids[first : first + SMOOTH_BLOCK])
            around = np.concatenate([own[:, None], s2.all_neighbors(own)], axis=1)  # B x 9
            rows = rows_of_ids(ids, around)
            lat, lon = (values.reshape(around.shape) for values in s2.cell_centers(around))
            apart_m = distance.haversine_m(lat[:, :1], lon[:, :1], lat, lon)
            weight = np.exp(-((apart_m / sigma_m) ** 2) / 2) * (rows >= 0) * has_aerial[rows]
            total = np.einsum("bn,bnd->bd", weight.astype(np.float32), before[rows].astype(np.float32))
            total *= has_aerial[first : first + SMOOTH_BLOCK, None]
            file.append(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))
            meter.advance(len(own))
