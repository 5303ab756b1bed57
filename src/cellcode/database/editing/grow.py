"""Growing a database without training: prototypes from photos of new places.

Both encoders and the calibration stay; the codes of all other cells remain byte-identical.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cellcode import config as configuration
from cellcode.config import MachineConfig
from cellcode.database.building.embedding import embed
from cellcode.database.building.fusion import upsample
from cellcode.database.editing import new_prototypes
from cellcode.database.editing.replace_cells import Cells, check_replaceable, current, replace_cells
from cellcode.database.store.database import Database
from cellcode.database.store.layout import refuse_to_overwrite
from cellcode.database.store.rows import Facts
from cellcode.errors import InputError
from cellcode.geography import Region, s2
from cellcode.model.prototypes.whole import Prototypes
from cellcode.photos import PhotoTable
from cellcode.runs import CellFacts
from cellcode.types import Bools, Float32, Ids, Int64

logger = logging.getLogger(__name__)
NAMED = 3  # photos left out that are named


def grow(
    database: Database | Path | str,
    photos: PhotoTable | Path | str,
    region: Region | Path | str | None = None,
    *,
    out: Path | str,
    machine: MachineConfig | None = None,
) -> Database:
    """Give cells prototypes from photos that training never saw.

    Taken are the photos of the split "train" in cells of the database. Cells without a prototype get the one that is fitted to
    their photos; a cell that has one gets the mean of both, weighted by the numbers of photos in its prototype cell (ours).
    Photos that the database was made from already, or that are given twice, count twice.

    Args:
        region: only photos inside are used, and cells inside that the database lacks are added, with a prototype alone; None:
            no cell is added.
        out: the folder to write; a database that is there already is replaced, but not the one it is made from.
        machine: device and precision; None: chosen by what the machine has.

    InputError: no photo lies in the database or can be read, or the database is compressed or does not keep its terms. It is
    raised before any work, except for photos that cannot be read.
    """
    started, whole, region, out = time.monotonic(), Database.of(database), Region.of(region), Path(out)
    whole = replace(whole, config=configuration.resolve(whole.config, machine=machine))
    table = PhotoTable.of(photos)
    whole.verify()
    table.verify()
    check_replaceable(whole)
    refuse_to_overwrite(out, [whole.folder])
    used, queries, skipped = _embedded(whole, _inside(whole, table, region))
    cells, gained, merged = _grown(whole, used, queries, region)
    values = {
        "training_photos": whole.manifest["training_photos"] + len(used),
        "made_from": {"how": "grow", "databases": [whole.identity], "photos": len(used), "cells": gained + merged},
        "licences": sorted({*whole.manifest["licences"], *filter(None, used.column("licence"))}),
        "attributions": sorted({*whole.manifest["attributions"], *filter(None, used.column("attribution"))}),
    }
    grown = replace_cells(whole, cells, out, values)
    seconds = time.monotonic() - started
    logger.info(
        f"{gained} cells gained a prototype, {merged} had one and were averaged, from {len(used)} photos ({skipped} could "
        f"not be read); {seconds:.1f} s, {seconds / max(gained + merged, 1):.2f} s per cell; database {grown.identity} in {out}"
    )
    return grown


def _inside(database: Database, table: PhotoTable, region: Region | None) -> PhotoTable:
    """Return the training photos in cells of the database; the others are counted and named in the log."""
    training = table.of_split("train")
    if not len(training):
        raise InputError(
            f"none of {len(table)} photos is of the split train, which alone is used; ingest them with --split none"
        )
    if len(training) < len(table):
        logger.info("%d photos are of other splits than train and not used", len(table) - len(training))
    own = s2.cell_ids(training.lat_deg, training.lon_deg, database.level)
    inside = region.contains(*s2.cell_centers(own)) if region is not None else np.isin(own, database.ids)
    if not inside.any():
        where = f"a cell of {database.folder}" if region is None else f"the region {region.describe()}"
        raise InputError(f"none of {len(training)} training photos lies in {where}; check their positions")
    if outside := training.select(~inside).column("file"):
        named = ", ".join(outside[:NAMED]) + (", ..." if len(outside) > NAMED else "")
        logger.info("%d photos lie in no cell of the database or the region: %s", len(outside), named)
    return training.select(inside)


def _embedded(database: Database, table: PhotoTable) -> tuple[PhotoTable, Float32, int]:
    """Return the photos that can be read, their embeddings (n, D), and how many cannot."""
    made, readable, failures = embed(database.encoder(), database.config, table.files, database.config.machine.device)
    for row, reason in list(failures.items())[:NAMED]:
        logger.warning("left out: %s: %s", table.files[row].name, reason)
    if not len(readable):
        raise InputError(f"none of {len(table)} photos can be read: {failures[0]}")
    return table.select(readable), made, len(failures)


def _grown(database: Database, photos: PhotoTable, queries: Float32, region: Region | None) -> tuple[Cells, int, int]:
    """Return the new contents of the cells concerned, how many gained a prototype, and how many had one."""
    level = int(database.manifest["levels"]["prototype"])
    known = CellFacts.of_photos(photos.lat_deg, photos.lon_deg, photos.captured_at, database.level)
    touched = np.unique(s2.parents(known.ids, level))
    ids = database.ids[np.isin(s2.parents(database.ids, level), touched)]
    if region is not None:
        possible = s2.descendants(touched, database.level).ravel()
        ids = np.union1d(ids, possible[region.contains(*s2.cell_centers(possible))])
    now = current(database, ids)
    table, new = _table(database, touched, level)
    config, trained = database.config, int(database.manifest["training_photos"])
    place = photos.lat_deg, photos.lon_deg
    new_prototypes.fit(table, new, queries, *place, database.queries, trained, config.loss.scale)
    fitted, had = upsample(table, ids, config.build.upsampling), now.facts.has_prototype
    parent = np.searchsorted(touched, s2.parents(ids, level))
    before = np.bincount(parent, now.facts.photos, len(touched))[parent, None]
    own = np.searchsorted(touched, s2.parents(known.ids, level))
    added = np.bincount(own, known.photos, len(touched))[parent, None]
    old = _with_siblings(now.prototypes.astype(np.float32), had, parent, len(touched))
    mean = np.maximum(before, 1) * old + added * fitted
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    made = np.where(old.any(axis=1, keepdims=True), mean, fitted)
    facts = _counted(now.facts, Facts.of_cells(ids, known, had, had, now.facts.imagery_date))
    cells = replace(now, prototypes=made.astype(np.float16), facts=facts)
    return cells, int((~had).sum()), int(had.sum())


def _with_siblings(prototypes: Float32, had: Bools, parent: Int64, parents: int) -> Float32:
    """Return prototypes, (n, D), where cells without one have the mean of those under the same parent; 0 where none has one."""
    total = np.zeros((parents, prototypes.shape[1]), np.float32)
    np.add.at(total, parent[had], prototypes[had])
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return np.where(had[:, None], prototypes, total[parent])


def _table(database: Database, touched: Ids, level: int) -> tuple[Prototypes, Bools]:
    """Return a table of prototypes with rows for the cells to fit, and which rows these are.

    The database keeps what was upsampled: a prototype is taken to be the mean of that of its cells.
    """
    rows = np.flatnonzero(database.facts.has_prototype)
    of_rows = s2.parents(database.ids[rows], level)
    rows, of_rows = rows[~np.isin(of_rows, touched)], of_rows[~np.isin(of_rows, touched)]
    parents = np.unique(of_rows)
    ids = np.sort(np.concatenate([parents, touched]))
    table = Prototypes(ids, database.code_set.dim, database.config.model.interpolation_radius_cells)
    new = np.isin(ids, touched)
    kept = database.terms()[1]
    if kept is not None and len(rows):
        total = np.zeros((len(ids), kept.shape[1]), np.float32)
        at = np.searchsorted(ids, of_rows)
        for first in range(0, len(rows), 65536):
            part = slice(first, first + 65536)
            np.add.at(total, at[part], kept[rows[part]].astype(np.float32))
        with torch.no_grad():
            table.weight[torch.from_numpy(~new)] = torch.nn.functional.normalize(torch.from_numpy(total[~new]), dim=1)
    return table, new


def _counted(before: Facts, added: Facts) -> Facts:
    """Return the facts of cells that all have a prototype now.

    Days add up where the periods do not overlap; otherwise the larger number is kept, which may be too few.
    """
    first, last = np.fmin(before.first_date, added.first_date), np.fmax(before.last_date, added.last_date)
    apart = (before.last_date < added.first_date) | (added.last_date < before.first_date)
    dates = np.where(apart | (before.dates == 0) | (added.dates == 0), before.dates + added.dates, 0)
    dates = np.where(dates == 0, np.maximum(before.dates, added.dates), dates)
    return replace(
        before,
        photos=(before.photos + added.photos).astype(np.int32),
        dates=dates.astype(np.int32),
        first_date=first,
        last_date=last,
        has_prototype=np.ones(len(before.photos), bool),
    )
