"""The one writer of photo tables: collects what a source yields, splits it, saves it, and reports what was left out."""

import csv
import logging
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pyarrow as pa

from cellcode.errors import InputError
from cellcode.photos.table.item import Batch, Reject, Selection, keep
from cellcode.photos.table.photo_table import REJECTS, SCHEMA, PhotoTable
from cellcode.photos.table.splits import SplitRule, assign

logger = logging.getLogger(__name__)
_SHOWN_REASONS = 8
_KEPT_REASONS = 50


class IncompleteError(InputError):
    """A table is written, but photos are missing that a further run may get."""


def collect(batches: Iterable[Batch], max_photos: int | None = None) -> Batch:
    """Concatenate batches and choose `max_photos` of their photos; rejects of a list are put into the order of its lines."""
    parts, rejects, left_out = [SCHEMA.empty_table()], list[Reject](), Counter[str]()
    for batch in batches:
        parts.append(batch.rows)
        rejects += batch.rejects
        left_out += batch.left_out
    rows = pa.concat_tables(parts)
    chosen, others = Selection(max_photos=max_photos).choose(rows)
    rejects.sort(key=lambda reject: reject.line or 0)  # stable: others stay in their order
    return Batch(keep(rows, chosen), rejects, left_out + others)


def write(
    photos: Batch, *, root: Path, source: str, out: Path, rule: SplitRule | None, allow_missing: float = 0.0
) -> PhotoTable:
    """Write the table of a source's photos and the list of those that were left out, and log how many there are of each.

    Args:
        rule: sets the split; None keeps that of the rows.
        allow_missing: fraction of the photos that may be missing because of temporary errors.

    Raises:
        InputError: no photo can be used; nothing is written.
        IncompleteError: the table is written, but more photos are missing than allowed.
    """
    rejects, left_out = photos.rejects, photos.left_out
    missing = [reject for reject in rejects if reject.transient]
    refused = [reject for reject in rejects if not reject.transient]
    if not len(photos.rows):
        reasons = f"; {_counts(left_out)}" if left_out else ""
        reasons += f" ({_summary(rejects)})" if rejects else ""
        raise InputError(f"{source}: none of {left_out.total() + len(rejects):,} photos can be used{reasons}")
    table = PhotoTable(photos.rows, root)
    table = assign(table, rule) if rule is not None else table
    notes = {**(table.notes or {}), "rejected": _reasons(refused), "missing": _reasons(missing)}
    table = PhotoTable(table.rows, root, notes).save(out, partial(_write_rejects, rejects))
    line = f"{len(table):,} photos in {out} ({_counts(Counter(table.split.tolist()))})"
    line += f"; {_counts(left_out)}" if left_out else ""
    line += f"; {len(refused):,} rejected: {_summary(refused)}" if refused else ""
    line += f"; {len(missing):,} missing: {_summary(missing)}" if missing else ""
    logger.info(line + (f"; see {out / REJECTS}" if rejects else ""))
    if len(missing) > allow_missing * (len(table) + len(missing)):
        raise IncompleteError(
            f"{out} is written but not complete: {len(missing):,} missing ({_summary(missing)}); run the same command again, "
            "it fetches only these, or accept a fraction of them with --allow-missing"
        )
    return table


def _write_rejects(rejects: list[Reject], path: Path) -> None:
    # Names of files that are not UTF-8 are spelled with backslashes.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "line", "reason", "missing"])
        writer.writerows((each.file, each.line, each.reason, "yes" if each.transient else "") for each in rejects)


def _reasons(rejects: list[Reject]) -> dict[str, int]:
    """Numbers of photos by reason, most first; the rarest together."""
    counted = Counter(reject.kind or reject.reason for reject in rejects).most_common()
    kept, rest = counted[:_KEPT_REASONS], counted[_KEPT_REASONS:]
    return dict(kept) | ({"other reasons": sum(count for _, count in rest)} if rest else {})


def _summary(rejects: list[Reject]) -> str:
    """The most frequent reasons; one that is there once in its own words."""
    reasons = list(_reasons(rejects).items())
    own_words = {reject.kind: reject.reason for reject in rejects if reject.kind is not None}
    shown = [f"{count:,} {own_words.get(why, why) if count == 1 else why}" for why, count in reasons[:_SHOWN_REASONS]]
    rest = sum(count for _, count in reasons[_SHOWN_REASONS:])
    return "; ".join([*shown, *([f"{rest:,} for other reasons"] if rest else [])])


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counted.items()))
