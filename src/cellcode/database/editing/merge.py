"""One database out of several of one run that share no cell."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellcode.database.building.writer import Writer, count_kinds, inherited, interleave
from cellcode.database.store import layout
from cellcode.database.store.database import Database
from cellcode.errors import InputError
from cellcode.files import atomic_folder
from cellcode.geography import s2
from cellcode.types import Float32

logger = logging.getLogger(__name__)


def merge(databases: Sequence[Database | Path | str], *, out: Path | str) -> Database:
    """Join databases of one run that share no cell.

    Codes are kept where all calibrations weight terms alike. Otherwise they are computed again from the terms, with the
    calibration of the first database, which is logged. The figures of confidence are those of the first database (the first
    that has `inside`, where codes are kept). InputError: they are of different runs, share a cell, are compressed, or have
    different calibrations and do not keep their terms.
    """
    opened, out = [Database.of(database) for database in databases], Path(out)
    layout.refuse_to_overwrite(out, [each.folder for each in opened])
    _check_mergeable(opened)
    _check_disjoint(opened)
    for each in opened:
        each.verify()
    spans, first = interleave([each.ids for each in opened]), opened[0]
    with atomic_folder(out) as folder:
        writer = Writer(folder, first.config)
        for name in layout.ROW_FILES:
            if _is_mergeable(opened, name):
                writer.copy_rows(name, [each.rows(name) for each in opened], spans)
        facts = writer.copy_facts([each.facts for each in opened], spans)
        # A part cut to few cells has no `inside`, which the others keep.
        calibration = max(opened, key=lambda each: each.calibration.inside is not None).calibration
        if _calibrations_differ(opened):
            calibration = first.calibration
            logger.info("calibrations differ: codes are computed again with that of %s", first.folder)
            writer.fuse(writer.terms(facts.has_aerial, facts.has_prototype), calibration)
        writer.copy(first.folder)
        search = writer.first_stage(writer.codes(), _queries(opened), first.level, new=True)
        cells = count_kinds(facts.has_aerial, facts.has_prototype)
        writer.finish(cells, calibration, search, inherited(first) | _origins(opened))
    merged = Database.open(out)
    logger.info("%d cells of %d databases; database %s in %s", len(merged.ids), len(opened), merged.identity, out)
    return merged


def _check_mergeable(opened: list[Database]) -> None:
    if len(opened) < 2:
        raise InputError("merging needs at least two databases")
    first, differ = opened[0], _calibrations_differ(opened)
    for each in opened:
        if each.manifest["run"]["identity"] != first.manifest["run"]["identity"]:
            raise InputError(f"{each.folder} is of another run than {first.folder}: their codes cannot be compared")
        if layout.PACKED in each.manifest["files"]:
            raise InputError(f"{each.folder} is compressed; merge the databases that it was made from, then compress")
        ways = [(other.config.build.upsampling, other.config.build.aerial_smoothing_cells) for other in (first, each)]
        if ways[0] != ways[1]:
            raise InputError(
                f"{each.folder} was built with other upsampling or smoothing than {first.folder}; build one of them again"
            )
        terms = ((layout.AERIAL, each.facts.has_aerial), (layout.PROTOTYPES, each.facts.has_prototype))
        if differ and any(has.any() and name not in each.manifest["files"] for name, has in terms):
            raise InputError(
                f"{each.folder} has another calibration and does not keep its terms; build it with build.keep_terms"
            )


def _check_disjoint(opened: list[Database]) -> None:
    ids = np.concatenate([each.ids for each in opened])
    owner = np.repeat(np.arange(len(opened)), [len(each.ids) for each in opened])
    order = np.argsort(ids, kind="stable")
    ids, owner = ids[order], owner[order]
    if len(same := np.flatnonzero(ids[1:] == ids[:-1])):
        token = s2.tokens(ids[same[:1]])[0]
        one, other = opened[owner[same[0]]].folder, opened[owner[same[0] + 1]].folder
        raise InputError(f"{one} and {other} share {len(same)} cells, the first is {token}; clip one of them")


def _calibrations_differ(opened: list[Database]) -> bool:
    return any(each.calibration.comparable != opened[0].calibration.comparable for each in opened)


def _is_mergeable(opened: list[Database], name: str) -> bool:
    """Return True if a file of rows can be written: some database has it, none dropped what belongs in it."""
    if name in (layout.IDS, layout.CODES):
        return True
    if name in (layout.COARSE, layout.PACKED):
        return False
    needed, has = (name, "has_prototype") if name == layout.PROTOTYPES else (layout.AERIAL, "has_aerial")
    return any(name in each.manifest["files"] for each in opened) and all(
        needed in each.manifest["files"] or not getattr(each.facts, has).any() for each in opened
    )


def _queries(opened: list[Database]) -> Float32:
    """Return the validation photos of all, each once, in their order (which is random)."""
    queries = np.concatenate([each.queries for each in opened])
    return queries[np.sort(np.unique(queries, axis=0, return_index=True)[1])]


def _origins(opened: list[Database]) -> dict[str, Any]:
    """Return the keys of the manifest that follow from all databases; of errors the largest."""
    manifests = [each.manifest for each in opened]
    errors = ("largest_score_error", "aerial_error")
    encoders = {manifest["aerial_encoder"] for manifest in manifests}
    imagery = [manifest["imagery"] for manifest in manifests if manifest["imagery"] is not None]
    dates = [each["date"] for each in imagery if each["date"] is not None]
    identities = "+".join(sorted({each["identity"] for each in imagery}))
    return {
        "codes": manifests[0]["codes"] | {name: max(each["codes"][name] for each in manifests) for name in errors},
        "made_from": {"how": "merge", "databases": [each.identity for each in opened]},
        "imagery": {"identity": identities, "date": max(dates, default=None)} if imagery else None,
        "aerial_encoder": encoders.pop() if len(encoders) == 1 else None,
        "licences": sorted({text for each in manifests for text in each["licences"]}),
        "attributions": sorted({text for each in manifests for text in each["attributions"]}),
    }
