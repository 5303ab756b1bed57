"""Databases out of databases: cut to a region, or joined where they are disjoint and of one run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from cellcode.database.building.finalize import (
    Coarse,
    copy_common,
    count_kinds,
    inherited,
    recheck_first_stage,
    write_coarse,
    write_first_stage,
    write_manifest,
)
from cellcode.database.building.fusion import fuse
from cellcode.database.calibration.in_region import RANKS
from cellcode.database.store.database import Database
from cellcode.database.store.facts import Facts
from cellcode.database.store.layout import (
    AERIAL,
    CELLS,
    COARSE,
    CODEBOOK,
    CODES,
    DIGESTS,
    IDS,
    PACKED,
    PROTOTYPES,
    QUERIES,
    ROW_FILES,
    TILES,
    refuse_to_overwrite,
)
from cellcode.database.store.npy_file import RowWriter
from cellcode.database.store.shards import write_shards
from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder
from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges
from cellcode.index.codeset import CodeSet, rows_of
from cellcode.types import Float16, Ids, Int64

# Rows of several databases in the order of their ids: (S, 3) int64, number of the database, first and past-the-last row.
BLOCK = 65536
SHARD_DEPTH = 5  # shards are made of S2 cells of 4 ** 5 cells


def clip(database: Database | Path | str, region: Region, *, out: Path | str) -> Database:
    """Write the part of a database that lies in a region: cells with their centre inside, with the same codes.

    Exact searches of the part give what exact searches of the whole give when they are restricted to the region.

    Args:
        out: the folder to write; a database that is there already is replaced.

    Raises:
        InputError: no cell of the database lies in the region.
    """
    whole, out = opened_database(database), Path(out)
    refuse_to_overwrite(out, [whole.folder])
    slices = ranges.rows_of_ranges(whole.ids, region.ranges(whole.level))
    if not len(slices):
        raise InputError(f"no cell of {whole.folder} lies in the region {region.describe()}; check its coordinates")
    spans = np.concatenate([np.zeros((len(slices), 1), np.int64), slices], axis=1)
    with atomic_folder(out) as folder:
        for name in ROW_FILES:
            if name in whole.manifest["files"]:
                copy_rows([np.load(whole.folder / name, mmap_mode="r")], spans, folder / name)
        facts = _facts([whole], spans)
        ids = write_facts(facts, folder)
        copy_common(whole.folder, folder)
        shutil.copyfile(whole.folder / QUERIES, folder / QUERIES)
        if PACKED in whole.manifest["files"]:
            shutil.copyfile(whole.folder / CODEBOOK, folder / CODEBOOK)
        part = _cut(whole, ids, slices)
        settings = recheck_first_stage(whole.first_stage, part, whole.queries, whole.config.build, folder, whole.level)
        values = inherited(whole.manifest) | {
            "cells": count_kinds(facts.has_aerial, facts.has_prototype, 0),
            "search": settings.to_json() if settings is not None else None,
            "made_from": {"how": "clip", "databases": [whole.identity]},
        }
        calibration = whole.calibration
        if len(ids) < RANKS:
            calibration = replace(calibration, inside=None)  # it needs the RANKS best scores
        write_manifest(folder, ids, calibration, values)
    made = Database.open(out)
    print(f"{len(made.ids)} of {len(whole.ids)} cells; database {made.identity} in {out}", file=sys.stderr)
    return made


def split(database: Database | Path | str, shards: int, *, out: Path | str) -> list[Database]:
    """Cut a database into shards of about as many cells, to be searched on several machines or joined again.

    A shard is made of whole S2 cells, so that a region touches few of them; a small database may give fewer.

    Args:
        out: the folder for the shards, named 000.cells, 001.cells and so on.

    Raises:
        UsageError: fewer than one shard.
        InputError: `out` is not empty.
    """
    if shards < 1:
        raise UsageError(f"a database is cut into at least one shard, not {shards}")
    whole, out = opened_database(database), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; choose another --out for the shards")
    coarse, counts = np.unique(s2.parents(whole.ids, max(whole.level - SHARD_DEPTH, 0)), return_counts=True)
    # The shard in which the middle of a coarse cell falls.
    shard = ((np.cumsum(counts) - counts / 2) * shards // len(whole.ids)).astype(np.int64)
    names = [f"{number:03d}.cells" for number in range(len(np.unique(shard)))]
    with atomic_folder(out) as folder:
        for name, number in zip(names, np.unique(shard), strict=True):
            clip(whole, Region.of_cells(coarse[shard == number]), out=folder / name)
        write_shards(folder, whole, [Database.open(folder / name) for name in names])
    if len(names) < shards:
        print(f"{len(names)} shards instead of {shards}: more would have no cells", file=sys.stderr)
    return [Database.open(out / name) for name in names]


def merge(databases: Sequence[Database | Path | str], *, out: Path | str) -> Database:
    """Join databases of one run that share no cell.

    Codes are kept where all calibrations weigh terms alike. Otherwise they are made anew from the terms, with the calibration
    of the first database, which is said. The figures of confidence are those of the first database (that has `inside`).

    Raises:
        InputError: they are of different runs, share a cell, are compressed, or have different calibrations and do not keep
            their terms.
    """
    opened, out = [opened_database(database) for database in databases], Path(out)
    refuse_to_overwrite(out, [each.folder for each in opened])
    _check_alike(opened)
    spans, first = _order(opened), opened[0]
    with atomic_folder(out) as folder:
        for name in ROW_FILES:
            if name not in (COARSE, PACKED) and _joinable(opened, name):
                copy_rows([file_rows(each, name) for each in opened], spans, folder / name)
        facts = _facts(opened, spans)
        ids = write_facts(facts, folder)
        alike = all(each.calibration.comparable == first.calibration.comparable for each in opened)
        if not alike:
            print(f"calibrations differ: codes are made anew with that of {first.folder}", file=sys.stderr)
            _fuse_again(first, facts, folder)
        codes = np.load(folder / CODES, mmap_mode="c")
        coarse = write_coarse(codes, folder)
        copy_common(first.folder, folder)
        queries = np.concatenate([each.queries for each in opened])
        queries = queries[
            np.sort(np.unique(queries, axis=0, return_index=True)[1])
        ]  # each once, in random order as they are
        np.save(folder / QUERIES, queries)
        joined = CodeSet(ids, codes, np.load(folder / COARSE, mmap_mode="c"), coarse.step, coarse.error, coarse.longest)
        rule, seed = first.config.build, first.config.training.seed
        settings = write_first_stage(joined, queries, rule, folder, first.level, seed)
        values = inherited(first.manifest) | {
            "cells": count_kinds(facts.has_aerial, facts.has_prototype, 0),
            "codes": _codes_of(opened, coarse),
            "search": settings.to_json() if settings is not None else None,
            "made_from": {"how": "merge", "databases": [each.identity for each in opened]},
            "imagery": _imagery(opened),
            "aerial_encoder": _same([each.manifest["aerial_encoder"] for each in opened]),
            "licences": sorted({text for each in opened for text in each.manifest["licences"]}),
            "attributions": sorted({text for each in opened for text in each.manifest["attributions"]}),
        }
        # A part cut to few cells has no `inside`, which the others keep.
        sure = max(opened, key=lambda each: each.calibration.inside is not None) if alike else first
        write_manifest(folder, ids, sure.calibration, values)
    made = Database.open(out)
    print(f"{len(made.ids)} cells of {len(opened)} databases; database {made.identity} in {out}", file=sys.stderr)
    return made


def opened_database(database: Database | Path | str) -> Database:
    """Return the database, opened if it is a folder."""
    return database if isinstance(database, Database) else Database.open(database)


def _check_alike(opened: list[Database]) -> None:
    """Raise InputError unless the databases can be joined."""
    if len(opened) < 2:
        raise InputError("merging needs at least two databases")
    first = opened[0]
    differ = any(each.calibration.comparable != first.calibration.comparable for each in opened)
    for each in opened:
        if each.manifest["run"]["identity"] != first.manifest["run"]["identity"]:
            raise InputError(f"{each.folder} is of another run than {first.folder}: their codes cannot be compared")
        if PACKED in each.manifest["files"]:
            raise InputError(f"{each.folder} is compressed; merge the databases that it was made from, then compress")
        ways = [(other.config.build.upsampling, other.config.build.aerial_smoothing_cells) for other in (first, each)]
        if ways[0] != ways[1]:
            raise InputError(
                f"{each.folder} was built with other upsampling or smoothing than {first.folder}; build one of them again"
            )
        terms = ((AERIAL, each.facts.has_aerial), (PROTOTYPES, each.facts.has_prototype))
        if differ and any(has.any() and name not in each.manifest["files"] for name, has in terms):
            raise InputError(
                f"{each.folder} has another calibration and does not keep its terms; build it with build.keep_terms"
            )


def _order(opened: list[Database]) -> Int64:
    """Return the rows of all databases in the order of their ids; InputError if two share a cell."""
    ids = np.concatenate([each.ids for each in opened])
    sizes = [len(each.ids) for each in opened]
    owner = np.repeat(np.arange(len(opened)), sizes)
    order = np.argsort(ids, kind="stable")
    ids, owner = ids[order], owner[order]
    if len(same := np.flatnonzero(ids[1:] == ids[:-1])):
        token = s2.tokens(ids[same[:1]])[0]
        one, other = opened[owner[same[0]]].folder, opened[owner[same[0] + 1]].folder
        raise InputError(f"{one} and {other} share {len(same)} cells, the first is {token}; clip one of them")
    row = order - np.concatenate([[0], np.cumsum(sizes)])[owner]
    starts = np.concatenate([[0], np.flatnonzero(owner[1:] != owner[:-1]) + 1])
    lengths = np.diff(np.append(starts, len(ids)))
    return np.stack([owner[starts], row[starts], row[starts] + lengths], axis=1)


def _joinable(opened: list[Database], name: str) -> bool:
    """Tell whether a file of rows can be written: some database has it, none threw away what would belong in it."""
    if name in (IDS, CODES):
        return True
    needed, has = (PROTOTYPES, "has_prototype") if name == PROTOTYPES else (AERIAL, "has_aerial")
    return any(name in each.manifest["files"] for each in opened) and all(
        needed in each.manifest["files"] or not getattr(each.facts, has).any() for each in opened
    )


def file_rows(database: Database, name: str) -> npt.NDArray[Any]:
    """Map a file of rows; zeros where the database does not have it, because no cell has what it holds."""
    if name in database.manifest["files"]:
        return np.asarray(np.load(database.folder / name, mmap_mode="r"))
    # Without smoothing the raw embeddings are the terms themselves.
    if name == TILES and AERIAL in database.manifest["files"]:
        return file_rows(database, AERIAL)
    rows = len(database.ids)
    return np.zeros(rows, np.uint64) if name == DIGESTS else np.broadcast_to(np.float16(0), database.codes.shape)


def copy_rows(sources: list[npt.NDArray[Any]], spans: Int64, path: Path) -> None:
    """Write rows of several arrays one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with RowWriter(path, sources[0].shape[1:], sources[0].dtype) as file:
        for number, start, stop in spans.tolist():
            for first in range(start, stop, BLOCK):
                file.append(sources[number][first : min(first + BLOCK, stop)])


def _facts(opened: list[Database], spans: Int64) -> Facts:
    """Return the facts of the rows of several databases."""
    return Facts.joined([opened[number].facts.select(slice(start, stop)) for number, start, stop in spans.tolist()])


def write_facts(facts: Facts, folder: Path) -> Ids:
    """Write cells.parquet beside the ids that are there, and return them."""
    ids: Ids = np.load(folder / IDS)
    pq.write_table(facts.table(ids), folder / CELLS, row_group_size=BLOCK)
    return ids


def _cut(database: Database, ids: Ids, slices: Int64) -> CodeSet:
    """Return the codes of some rows, in memory only where they are taken."""
    whole = database.code_set
    return CodeSet(ids, _Chosen(whole.exact, rows_of(slices)), None, whole.scale, whole.coarse_error, whole.longest)


class _Chosen:
    """Some rows of a table of codes, as a table."""

    def __init__(self, codes: Any, rows: Int64) -> None:
        self.codes, self.rows, self.shape = codes, rows, (len(rows), codes.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Int64) -> Float16:
        return np.asarray(self.codes[self.rows[rows]])


def _fuse_again(first: Database, facts: Facts, folder: Path) -> None:
    """Write codes from the terms in the folder, with the calibration of a database."""
    aerial, prototypes = (
        np.load(folder / name, mmap_mode="r") if (folder / name).is_file() else None for name in (AERIAL, PROTOTYPES)
    )
    with RowWriter(folder / CODES, (first.code_set.dim,), np.float16) as file:
        for start in range(0, len(facts.photos), BLOCK):
            rows = slice(start, start + BLOCK)
            file.append(
                fuse(
                    aerial[rows] if aerial is not None else None,
                    prototypes[rows] if prototypes is not None else None,
                    facts.has_aerial[rows],
                    facts.has_prototype[rows],
                    first.calibration,
                )
            )


def _same(values: list[Any]) -> Any:
    """The value that all have; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _imagery(opened: list[Database]) -> dict[str, Any] | None:
    """What a manifest says of the imagery of several databases: the latest date."""
    known = [each.manifest["imagery"] for each in opened if each.manifest["imagery"] is not None]
    if not known:
        return None
    dates = [each["date"] for each in known if each["date"] is not None]
    return {"identity": "+".join(sorted({each["identity"] for each in known})), "date": max(dates, default=None)}


def _codes_of(opened: list[Database], coarse: Coarse) -> dict[str, Any]:
    """Facts of joined codes: the largest errors of any."""
    worst = {
        name: max(each.manifest["codes"][name] for each in opened) for name in ("largest_score_error", "aerial_error")
    }
    steps = {"int8_step": coarse.step, "int8_error": coarse.error, "longest": coarse.longest}
    return {**opened[0].manifest["codes"], **worst, **steps}
