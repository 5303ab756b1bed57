"""A database with some cells replaced or added; every other cell keeps its codes and terms, bit for bit."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellcode.database.building.finalize import (
    copy_common,
    count_kinds,
    inherited,
    recheck_first_stage,
    write_coarse,
    write_manifest,
)
from cellcode.database.building.fusion import fuse
from cellcode.database.building.shards import row_error
from cellcode.database.editing.reshape import copy_rows, file_rows, write_facts
from cellcode.database.store.database import Database
from cellcode.database.store.facts import Facts
from cellcode.database.store.layout import (
    AERIAL,
    COARSE,
    CODES,
    DIGESTS,
    IDS,
    PACKED,
    PROTOTYPES,
    QUERIES,
    TILES,
    refuse_to_overwrite,
)
from cellcode.errors import InputError
from cellcode.files import atomic_folder
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.index.codeset import CodeSet
from cellcode.types import Float16, Ids, Int64

HALF_ERROR = 2.0**-11  # relative rounding of float16, and so the largest distance of a unit row from its copy


@dataclass(frozen=True)
class Cells:
    """New contents of n cells, sorted by id.

    Attributes:
        ids: (n,) uint64.
        aerial, prototypes: (n, D) float16, zeros where a cell lacks the term.
        tiles: (n, D) float16, aerial embeddings before smoothing.
        digests: (n,) uint64, of the tiles; 0: none.
        facts: of the cells.
    """

    ids: Ids
    aerial: Float16
    prototypes: Float16
    tiles: Float16
    digests: Ids
    facts: Facts


def check(database: Database) -> None:
    """Raise InputError unless cells of the database can be replaced: its terms are there and it is not compressed."""
    if PACKED in database.manifest["files"]:
        raise InputError(f"{database.folder} is compressed; grow the database that it was made from, then compress")
    facts = database.facts
    for name, has in ((AERIAL, facts.has_aerial), (PROTOTYPES, facts.has_prototype)):
        if has.any() and name not in database.manifest["files"]:
            raise InputError(f"{database.folder} does not keep its terms; build it with build.keep_terms")


def current(database: Database, ids: Ids) -> Cells:
    """Return what cells hold now, any of which may not be in the database yet: those have nothing."""
    rows = rows_of_ids(database.ids, ids)
    known = rows >= 0
    taken = {}
    for name in (AERIAL, PROTOTYPES, TILES, DIGESTS):
        values = np.array(file_rows(database, name)[rows])
        values[~known] = 0
        taken[name] = values
    day = np.full(len(ids), "NaT", "datetime64[D]")
    zero, no = np.zeros(len(ids), np.int32), np.zeros(len(ids), bool)
    facts = Facts.joined([Facts(zero, zero, day, day, no, no, day), database.facts.select(rows)])
    facts = facts.select(np.where(known, len(ids), 0) + np.arange(len(ids)))
    return Cells(ids, taken[AERIAL], taken[PROTOTYPES], taken[TILES], taken[DIGESTS], facts)


def write(database: Database, cells: Cells, out: Path, values: dict[str, Any]) -> Database:
    """Write the database with some cells replaced or added, under the same calibration.

    Args:
        out: the folder to write; a database that is there already is replaced, but not the one it is made from.
        values: keys of the manifest that differ from the database's.

    Returns:
        The new database, open.
    """
    refuse_to_overwrite(out, [database.folder])
    spans = _spans(database.ids, cells.ids)
    codes = fuse(
        cells.aerial, cells.prototypes, cells.facts.has_aerial, cells.facts.has_prototype, database.calibration
    )
    new: dict[str, npt.NDArray[Any]] = {
        IDS: cells.ids,
        CODES: codes.astype(np.float16),
        AERIAL: cells.aerial,
        PROTOTYPES: cells.prototypes,
        TILES: cells.tiles,
        DIGESTS: cells.digests,
    }
    seen, visited = bool(cells.facts.has_aerial.any()), bool(cells.facts.has_prototype.any())
    smoothed = database.config.build.aerial_smoothing_cells > 0
    gained = {AERIAL: seen, DIGESTS: seen, TILES: seen and smoothed, PROTOTYPES: visited}
    _say_if_untold(database, cells)
    with atomic_folder(out) as folder:
        for name, rows in new.items():
            if name in database.manifest["files"] or gained.get(name):
                copy_rows([file_rows(database, name), rows], spans, folder / name)
        sources = (database.facts, cells.facts)
        facts = Facts.joined([sources[number].select(slice(a, b)) for number, a, b in spans.tolist()])
        ids = write_facts(facts, folder)
        copy_common(database.folder, folder)
        shutil.copyfile(database.folder / QUERIES, folder / QUERIES)
        written = np.load(folder / CODES, mmap_mode="c")
        coarse = write_coarse(written, folder)
        code_set = CodeSet(
            ids, written, np.load(folder / COARSE, mmap_mode="c"), coarse.step, coarse.error, coarse.longest
        )
        rule = database.config.build
        stage = recheck_first_stage(database.first_stage, code_set, database.queries, rule, folder, database.level)
        before = inherited(database.manifest)
        steps = {"int8_step": coarse.step, "int8_error": coarse.error, "longest": coarse.longest}
        rounding = row_error(codes, new[CODES])
        facts_of_codes = before["codes"] | steps | _errors(database, seen, visited, rounding)
        counted = count_kinds(facts.has_aerial, facts.has_prototype, 0)
        search = stage.to_json() if stage is not None else None
        made = before | {"cells": counted, "codes": facts_of_codes, "search": search} | values
        write_manifest(folder, ids, database.calibration, made)
    return Database.open(out)


def _say_if_untold(database: Database, cells: Cells) -> None:
    """Say on stderr that cells now have both terms, which no cell had when the database was calibrated."""
    before, after = (facts.has_aerial & facts.has_prototype for facts in (database.facts, cells.facts))
    if after.any() and not before.any():
        print(
            f"no cell of {database.folder} has both terms, so nothing told how they compare: the {int(after.sum())} cells that "
            "now have both are plain sums and will outscore the others; build again from the run where that matters",
            file=sys.stderr,
        )


def _errors(database: Database, seen: bool, visited: bool, rounding: float) -> dict[str, float]:
    """Bounds of the manifest: the larger of the old ones and those of new terms, whose float16 rows are of unit length."""
    before = database.manifest["codes"]
    new = database.calibration.score_error(HALF_ERROR * seen, HALF_ERROR * visited) + rounding
    return {
        "largest_score_error": max(before["largest_score_error"], new),
        "aerial_error": max(before["aerial_error"], HALF_ERROR * seen),
    }


def _spans(ids: Ids, new: Ids) -> Int64:
    """Return where each row comes from, in the order of the ids: 0 from the database, 1 from the new cells."""
    kept = np.flatnonzero(~np.isin(ids, new))
    owner = np.repeat([0, 1], [len(kept), len(new)])
    order = np.argsort(np.concatenate([ids[kept], new]), kind="stable")
    owner, row = owner[order], np.concatenate([kept, np.arange(len(new))])[order]
    starts = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | (np.diff(row, prepend=-2) != 1))
    lengths = np.diff(np.append(starts, len(owner)))
    return np.stack([owner[starts], row[starts], row[starts] + lengths], axis=1)
