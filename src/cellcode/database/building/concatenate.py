"""From the finished shards of a build to the files of a database, row after row."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cellcode.database.building.shards import read_part
from cellcode.database.store import facts as cell_facts
from cellcode.database.store.facts import Facts
from cellcode.database.store.layout import AERIAL, CELLS, DIGESTS, IDS, PROTOTYPES, TILES
from cellcode.database.store.npy_file import RowWriter
from cellcode.geography import distance, s2
from cellcode.progress import Meter
from cellcode.runs import CellFacts
from cellcode.types import Bools

SMOOTH_BLOCK = 4096


@dataclass(frozen=True)
class Written:
    """Which terms the cells of a database have, (N,) in the order of the ids."""

    has_aerial: Bools
    has_prototype: Bools


def join(parts: list[Path], known: CellFacts, dim: int, folder: Path) -> Written:
    """Write ids, terms, digests of tiles and cells.parquet from shards in the order of their cells.

    Memory does not depend on the number of cells, apart from two bytes for each.
    """
    (folder / "terms").mkdir(exist_ok=True)
    has_aerial, has_prototype = [], []
    with ExitStack() as files, Meter("joining shards", len(parts)) as meter:
        ids = files.enter_context(RowWriter(folder / IDS, (), np.uint64))
        aerial = files.enter_context(RowWriter(folder / AERIAL, (dim,), np.float16))
        prototypes = files.enter_context(RowWriter(folder / PROTOTYPES, (dim,), np.float16))
        digests = files.enter_context(RowWriter(folder / DIGESTS, (), np.uint64))
        table = files.enter_context(pq.ParquetWriter(folder / CELLS, cell_facts.SCHEMA))
        for path in parts:
            part = read_part(path)
            ids.append(part.ids)
            aerial.append(part.aerial)
            prototypes.append(part.prototypes)
            digests.append(part.digests)
            facts = Facts.of_cells(part.ids, known, part.has_prototype, part.has_aerial, part.imagery_date)
            if len(part.ids):
                table.write_table(facts.table(part.ids))
            has_aerial.append(np.asarray(part.has_aerial))
            has_prototype.append(np.asarray(part.has_prototype))
            meter.advance()
    return Written(np.concatenate(has_aerial), np.concatenate(has_prototype))


def smooth_aerial(folder: Path, has_aerial: Bools, sigma_cells: float) -> None:
    """Average the aerial embeddings of each cell and its eight neighbours (ours): a photo sees farther than one tile.

    Weights fall with the distance of the centres as a Gaussian of `sigma_cells` mean edges; the mean is brought back to
    unit length. Cells without imagery keep zeros. What the encoder gave is kept beside it, so that a later build can use it;
    memory does not depend on the number of cells.
    """
    os.replace(folder / AERIAL, folder / TILES)
    ids, before = np.load(folder / IDS, mmap_mode="r"), np.load(folder / TILES, mmap_mode="r")
    sigma_m = sigma_cells * s2.mean_edge_m(int(s2.levels(ids[:1])[0]))
    with RowWriter(folder / AERIAL, before.shape[1:], np.float16) as file, Meter("smoothing", len(ids)) as meter:
        for first in range(0, len(ids), SMOOTH_BLOCK):
            own = np.asarray(ids[first : first + SMOOTH_BLOCK])
            around = np.concatenate([own[:, None], s2.all_neighbors(own)], axis=1)  # B x 9
            rows = np.minimum(np.searchsorted(ids, around), len(ids) - 1)
            lat, lon = (values.reshape(around.shape) for values in s2.cell_centers(around))
            apart_m = distance.haversine_m(lat[:, :1], lon[:, :1], lat, lon)
            weight = np.exp(-((apart_m / sigma_m) ** 2) / 2) * (ids[rows] == around) * has_aerial[rows]
            total = np.einsum("bn,bnd->bd", weight.astype(np.float32), before[rows].astype(np.float32))
            total *= has_aerial[first : first + SMOOTH_BLOCK, None]
            file.append(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))
            meter.advance(len(own))
