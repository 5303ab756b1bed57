"""A database with some cells replaced or added; all other cells remain byte-identical."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellcode.database.building.fusion import fuse, row_error
from cellcode.database.building.writer import Writer, count_kinds, inherited, interleave
from cellcode.database.store import layout
from cellcode.database.store.database import Database
from cellcode.database.store.rows import Facts
from cellcode.errors import InputError
from cellcode.files import atomic_folder
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.types import Float16, Ids

logger = logging.getLogger(__name__)
HALF_ERROR = 2.0**-11  # relative rounding of float16, and so the largest distance of a unit row from its copy


@dataclass(frozen=True)
class Cells:
    """New contents of n cells, sorted by id."""

    ids: Ids
    aerial: Float16  # (n, D), as are the next two; zeros where a cell lacks the term
    prototypes: Float16
    tiles: Float16  # aerial embeddings before smoothing
    digests: Ids  # of the tiles; 0: none
    facts: Facts


def check_replaceable(database: Database) -> None:
    """Raise InputError unless cells of the database can be replaced: its terms are there and it is not compressed."""
    if layout.PACKED in database.manifest["files"]:
        raise InputError(f"{database.folder} is compressed; grow the database that it was made from, then compress")
    facts = database.facts
    for name, has in ((layout.AERIAL, facts.has_aerial), (layout.PROTOTYPES, facts.has_prototype)):
        if has.any() and name not in database.manifest["files"]:
            raise InputError(f"{database.folder} does not keep its terms; build it with build.keep_terms")


def current(database: Database, ids: Ids) -> Cells:
    """Return what cells hold now, any of which may not be in the database yet: those have nothing."""
    rows = rows_of_ids(database.ids, ids)
    known = rows >= 0

    def taken(name: str) -> Any:
        values = np.array(database.rows(name)[rows])
        values[~known] = 0
        return values

    day = np.full(len(ids), "NaT", "datetime64[D]")
    zero, no = np.zeros(len(ids), np.int32), np.zeros(len(ids), bool)
    facts = Facts.joined([Facts(zero, zero, day, day, no, no, day), database.facts.select(rows)])
    facts = facts.select(np.where(known, len(ids), 0) + np.arange(len(ids)))
    return Cells(ids, taken(layout.AERIAL), taken(layout.PROTOTYPES), taken(layout.TILES), taken(layout.DIGESTS), facts)


def replace_cells(database: Database, cells: Cells, out: Path, values: dict[str, Any]) -> Database:
    """Write the database with some cells replaced or added, under the same calibration; `values` go into its manifest."""
    layout.refuse_to_overwrite(out, [database.folder])
    _warn_if_uncalibrated(database, cells)
    has_aerial, has_prototype = cells.facts.has_aerial, cells.facts.has_prototype
    exact = fuse(cells.aerial, cells.prototypes, has_aerial, has_prototype, database.calibration)
    codes, smoothed = exact.astype(np.float16), database.config.build.aerial_smoothing_cells > 0
    # Rows of the new cells, and whether the file is written even if the database does not have it yet.
    new: dict[str, tuple[npt.NDArray[Any], bool]] = {
        layout.IDS: (cells.ids, True),
        layout.CODES: (codes, True),
        layout.AERIAL: (cells.aerial, bool(has_aerial.any())),
        layout.PROTOTYPES: (cells.prototypes, bool(has_prototype.any())),
        layout.TILES: (cells.tiles, bool(has_aerial.any()) and smoothed),
        layout.DIGESTS: (cells.digests, bool(has_aerial.any())),
    }
    kept = np.flatnonzero(~np.isin(database.ids, cells.ids))
    spans = interleave([database.ids, cells.ids], [kept, slice(None)])
    with atomic_folder(out) as folder:
        writer = Writer(folder, database.config)
        for name, (rows, gained) in new.items():
            if gained or name in database.manifest["files"]:
                writer.copy_rows(name, [database.rows(name), rows], spans)
        facts = writer.copy_facts([database.facts, cells.facts], spans)
        writer.copy(database.folder)
        search = writer.first_stage(writer.codes(), database.queries, database.level, database.first_stage)
        bounds = database.manifest["codes"] | _errors(database, cells.facts, row_error(exact, codes))
        counted = count_kinds(facts.has_aerial, facts.has_prototype)
        writer.finish(counted, database.calibration, search, inherited(database) | {"codes": bounds} | values)
    return Database.open(out)


def _warn_if_uncalibrated(database: Database, cells: Cells) -> None:
    """Warn if cells have both terms now, which no cell had when the database was calibrated."""
    before, after = (facts.has_aerial & facts.has_prototype for facts in (database.facts, cells.facts))
    if after.any() and not before.any():
        logger.warning(
            f"no cell of {database.folder} has both terms, so their weights are not calibrated: the {int(after.sum())} cells "
            "that have both now are plain sums and will outscore the others; build again from the run if that matters"
        )


def _errors(database: Database, new: Facts, rounding: float) -> dict[str, float]:
    """Bounds of the manifest: the larger of the old ones and those of new terms, whose float16 rows are of unit length."""
    before = database.manifest["codes"]
    aerial, prototype = (HALF_ERROR * bool(has.any()) for has in (new.has_aerial, new.has_prototype))
    score = database.calibration.score_error(aerial, prototype) + rounding
    return {
        "largest_score_error": max(before["largest_score_error"], score),
        "aerial_error": max(before["aerial_error"], aerial),
    }
