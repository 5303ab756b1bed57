"""Parts of a database: what lies in a region, or shards to be searched on several machines or merged again."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellcode.database.building.writer import Writer, count_kinds, inherited
from cellcode.database.calibration.regressions import RANKS
from cellcode.database.store import layout
from cellcode.database.store.database import Database
from cellcode.database.store.shards import SHARDS, write_shards
from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder
from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges

logger = logging.getLogger(__name__)
SHARD_DEPTH = 5  # shards are made of S2 cells of 4 ** 5 cells


def clip(database: Database | Path | str, region: Region | Path | str, *, out: Path | str) -> Database:
    """Write the part of a database that lies in a region: cells with their centre inside, with the same codes.

    An exact search of the part returns what an exact search of the whole returns when it is restricted to the region. A
    database that is at `out` already is replaced. InputError: no cell of the database lies in the region.
    """
    whole, region, out = Database.of(database), Region.of(region), Path(out)
    layout.refuse_to_overwrite(out, [whole.folder])
    whole.verify()
    clipped = _clipped(whole, region, out)
    logger.info("%d of %d cells; database %s in %s", len(clipped.ids), len(whole.ids), clipped.identity, out)
    return clipped


def _clipped(whole: Database, region: Region, out: Path) -> Database:
    slices = ranges.rows_of_ranges(whole.ids, region.ranges(whole.level))
    if not len(slices):
        raise InputError(f"no cell of {whole.folder} lies in the region {region.describe()}; check its coordinates")
    spans = np.concatenate([np.zeros((len(slices), 1), np.int64), slices], axis=1)
    with atomic_folder(out) as folder:
        writer = Writer(folder, whole.config)
        for name in layout.ROW_FILES:
            if name in whole.manifest["files"]:
                writer.copy_rows(name, [whole.rows(name)], spans)
        facts = writer.copy_facts([whole.facts], spans)
        writer.copy(whole.folder, *(name for name in (layout.CODEBOOK,) if name in whole.manifest["files"]))
        codes = writer.codes(whole.manifest["codes"])
        search = writer.first_stage(codes, whole.queries, whole.level, whole.first_stage)
        calibration = whole.calibration
        if len(codes) < RANKS:
            calibration = replace(calibration, inside=None)  # it needs the RANKS best scores
        values = inherited(whole) | {"made_from": {"how": "clip", "databases": [whole.identity]}}
        writer.finish(count_kinds(facts.has_aerial, facts.has_prototype), calibration, search, values)
    return Database.open(out)


def split(database: Database | Path | str, shards: int, *, out: Path | str) -> list[Database]:
    """Cut a database into shards of about as many cells.

    A shard is made of whole S2 cells, so that a region touches few of them; a small database may give fewer. They are named
    000.cells, 001.cells and so on. Shards that are in the folder already are replaced.

    Raises:
        InputError: the folder holds anything else, or the database itself.
    """
    if shards < 1:
        raise UsageError(f"the number of shards must be at least 1, not {shards}")
    whole, out = Database.of(database), Path(out)
    whole.verify()
    if whole.folder.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out} is, or holds, what the shards are made from; choose another --out")
    if out.exists() and not (out.is_dir() and all(_is_of_shards(path) for path in out.iterdir())):
        raise InputError(f"{out} holds other files than shards, so it is not overwritten; choose another --out")
    coarse, counts = np.unique(s2.parents(whole.ids, max(whole.level - SHARD_DEPTH, 0)), return_counts=True)
    # The shard in which the middle of a coarse cell falls.
    shard = ((np.cumsum(counts) - counts / 2) * shards // len(whole.ids)).astype(np.int64)
    numbers = np.unique(shard)
    names = [f"{number:03d}.cells" for number in range(len(numbers))]
    made = list[Database]()
    with atomic_folder(out) as folder:
        for name, number in zip(names, numbers, strict=True):
            made.append(_clipped(whole, Region.of_cells(coarse[shard == number]), folder / name))
        write_shards(folder, whole, made)
    for name, each in zip(names, made, strict=True):
        logger.info("%d of %d cells; database %s in %s", len(each.ids), len(whole.ids), each.identity, out / name)
    if len(names) < shards:
        logger.info("%d shards instead of %d: more would have no cells", len(names), shards)
    return [Database.open(out / name) for name in names]


def _is_of_shards(path: Path) -> bool:
    return path.name == SHARDS or (path.suffix == ".cells" and path.is_dir())
