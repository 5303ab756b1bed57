"""New imagery in a database: aerial embeddings of some cells are replaced, all other cells remain byte-identical."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.aerial.missing import refuse_transient, summary
from cellcode.config import MachineConfig
from cellcode.database.building import plan, shards
from cellcode.database.building.shards import Reuse, Shard
from cellcode.database.building.write import smooth_aerial
from cellcode.database.editing.replace_cells import Cells, check_replaceable, current, replace_cells
from cellcode.database.store import layout
from cellcode.database.store.database import Database
from cellcode.errors import InputError
from cellcode.files import temporary_folder
from cellcode.geography import Region, s2
from cellcode.progress import Meter
from cellcode.runs import Run
from cellcode.types import Float16, Ids

logger = logging.getLogger(__name__)


def reimage(
    database: Database | Path | str,
    run: Run | Path | str,
    aerial: AerialSource | Path | str,
    region: Region | Path | str | None = None,
    *,
    out: Path | str,
    machine: MachineConfig | None = None,
) -> Database:
    """Replace the aerial embeddings of some cells by those of new imagery.

    It is built as the database was. Tiles whose pixels have not changed are not encoded again. Where the build smooths aerial
    embeddings, the cells beside those of the region change with them. Cells of the region that the database does not have and
    the imagery shows are added.

    Args:
        run: the run of the database: the aerial encoder is not in the database.
        region: cells with their centre inside; None: the imagery's footprint.
        out: the folder to write; a database that is there already is replaced, but not the one it is made from.
        machine: device and precision; None: chosen by what the machine has.

    InputError: the run has another aerial encoder or level, the imagery covers no cell of the region, or the database is
    compressed or does not keep its terms, all raised before any work; or no tile has enough imagery.
    """
    whole, out = Database.of(database), Path(out)
    run = Run.of(run)
    run = replace(run, config=configuration.resolve(run.config, machine=machine))
    same_encoder = whole.manifest["aerial_encoder"] == shards.encoder_digest(run)
    if run.aerial is None or not (same_encoder or whole.manifest["run"]["identity"] == run.identity):
        raise InputError(
            f"the aerial encoder of {run.folder} is not that of {whole.folder}; give the run it was built from"
        )
    if run.config.levels.cell != whole.level:
        raise InputError(
            f"the cells of {run.folder} are of level {run.config.levels.cell}, those of {whole.folder} of level {whole.level}; "
            "give the run it was built from"
        )
    run = replace(run, config=run.config.model_copy(update={"build": whole.config.build}))
    check_replaceable(whole)
    whole.verify()
    layout.refuse_to_overwrite(out, [whole.folder])
    source, reuse = open_source(aerial), Reuse(whole) if same_encoder else None
    with temporary_folder(out) as folder:
        made = _encoded(run, source, plan.choose(run, source, Region.of(region)), folder, reuse)
        cells = _with_imagery(whole, made, folder)
    manifest, before = whole.manifest, whole.manifest["imagery"]
    dates = [date for date in (before and before["date"], source.date) if date is not None]
    identities = [each for each in (before and before["identity"], source.identity) if each is not None]
    values = {
        "imagery": {"identity": "+".join(dict.fromkeys(identities)), "date": max(dates, default=None)},
        "made_from": {"how": "new imagery", "databases": [whole.identity], "cells": len(made.ids)},
        "licences": sorted({*manifest["licences"], *filter(None, [source.licence])}),
        "attributions": sorted({*manifest["attributions"], *filter(None, [source.attribution])}),
    }
    grown = replace_cells(whole, cells, out, values)
    if source.missing:
        logger.warning("masked in the imagery: %s", summary(source.missing))
    logger.info("%d cells have the new imagery; database %s in %s", len(made.ids), grown.identity, out)
    return grown


def _encoded(run: Run, source: AerialSource, wanted: plan.Plan, folder: Path, reuse: Reuse | None) -> Shard:
    """Return the cells of a plan that the imagery shows."""
    made = []
    with Meter("encoding cells", wanted.total) as meter:
        for number, shard in enumerate(wanted.shards):
            ids = wanted.cells(shard)
            shards.write_shard(run, source, ids, folder / str(number), reuse)
            encoded = shards.read_shard(folder / str(number))
            made.append([np.array(values[encoded.has_aerial]) for values in encoded])
            meter.advance(len(ids))
    refuse_transient(source.missing, "nothing is changed; run this again, what was fetched is kept")
    if not any(len(values[0]) for values in made):
        share = run.config.build.min_imagery_share
        raise InputError(f"no tile of the region has at least {share:.0%} imagery; check --aerial and --region")
    return Shard(*(np.concatenate(values) for values in zip(*made, strict=True)))


def _with_imagery(database: Database, made: Shard, folder: Path) -> Cells:
    """Return the new contents of the cells with new imagery, and of those beside them where embeddings are smoothed."""
    sigma_cells = database.config.build.aerial_smoothing_cells
    ids = _with_neighbours(database, made.ids) if sigma_cells else made.ids
    now, at = current(database, ids), np.searchsorted(ids, made.ids)
    tiles, digests = now.tiles.copy(), now.digests.copy()
    tiles[at], digests[at] = made.aerial, made.digests
    facts = replace(now.facts, has_aerial=now.facts.has_aerial.copy(), imagery_date=now.facts.imagery_date.copy())
    facts.has_aerial[at], facts.imagery_date[at] = True, made.imagery_date
    cells = replace(now, aerial=tiles, tiles=tiles, digests=digests, facts=facts)
    return replace(cells, aerial=_smoothed(database, cells, folder, sigma_cells)) if sigma_cells else cells


def _with_neighbours(database: Database, ids: Ids) -> Ids:
    around = np.unique(s2.all_neighbors(ids))
    return np.union1d(ids, around[np.isin(around, database.ids)])


def _smoothed(database: Database, cells: Cells, folder: Path, sigma_cells: float) -> Float16:
    """Smooth the aerial embeddings of some cells as the build does: with those of the cells around them."""
    ids = _with_neighbours(database, cells.ids)
    wide, at = current(database, ids), np.searchsorted(ids, cells.ids)
    tiles, has_aerial = wide.tiles.copy(), wide.facts.has_aerial.copy()
    tiles[at], has_aerial[at] = cells.tiles, cells.facts.has_aerial
    (folder / layout.AERIAL).parent.mkdir()
    np.save(folder / layout.IDS, ids)
    np.save(folder / layout.AERIAL, tiles)
    smooth_aerial(folder, has_aerial, sigma_cells)
    return np.asarray(np.load(folder / layout.AERIAL)[at])
