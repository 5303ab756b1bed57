"""The part of a database that lies in a region; results inside it are unchanged."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellcode.database.building.writer import Writer, count_kinds, inherited
from cellcode.database.calibration.in_region import RANKS
from cellcode.database.store import layout
from cellcode.database.store.database import Database
from cellcode.errors import InputError
from cellcode.files import atomic_folder
from cellcode.geography import Region
from cellcode.geography.s2 import ranges

logger = logging.getLogger(__name__)


def clip(database: Database | Path | str, region: Region | Path | str, *, out: Path | str) -> Database:
    """Write the part of a database that lies in a region: cells with their centre inside, with the same codes.

    An exact search of the part returns what an exact search of the whole returns when it is restricted to the region.

    Args:
        out: the folder to write; a database that is there already is replaced.

    Raises:
        InputError: no cell of the database lies in the region.
    """
    whole, region, out = Database.of(database), Region.of(region), Path(out)
    layout.refuse_to_overwrite(out, [whole.folder])
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
        origin = {"how": "clip", "databases": [whole.identity]}
        cells = count_kinds(facts.has_aerial, facts.has_prototype)
        writer.finish(cells, calibration, search, inherited(whole) | {"made_from": origin})
    clipped = Database.open(out)
    logger.info("%d of %d cells; database %s in %s", len(clipped.ids), len(whole.ids), clipped.identity, out)
    return clipped
