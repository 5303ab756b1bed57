"""The one writer of photo tables: collects what a source yields, splits it, saves it, and says what is there and what not."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from cellcode.errors import InputError
from cellcode.files import atomic_path
from cellcode.photos.table.item import Batch, Reject
from cellcode.photos.table.photo_table import SCHEMA, PhotoTable
from cellcode.photos.table.selection import Selection, keep
from cellcode.photos.table.splits import SplitRule, assign

_SHOWN_REASONS = 8
_KEPT_REASONS = 50


class IncompleteError(InputError):
    """A table is written, but photos are missing that a further run may get."""


def fill(
    batches: Iterable[Batch],
    *,
    root: Path,
    source: str,
    out: Path,
    rule: SplitRule | None,
    selection: Selection | None = None,
    allow_missing: float = 0.0,
) -> PhotoTable:
    """Write the table of a source's photos and the list of those that were left out, and say how many there are of each.

    Args:
        root: what `file` is relative to.
        source: for messages.
        selection: what is wanted, where the source has not chosen itself.
        allow_missing: share of the photos that may be missing by passing faults.

    Raises:
        InputError: no photo can be used; nothing is written.
        IncompleteError: the table is written, but more photos are missing than allowed.
    """
    rows, rejects, left_out = _collect(batches, selection or Selection())
    missing = [reject for reject in rejects if reject.transient]
    refused = [reject for reject in rejects if not reject.transient]
    if not len(rows):
        found = left_out.total() + len(rejects)
        said = f"; {_counts(left_out)}" if left_out else ""
        said += f" ({_summary(rejects)})" if rejects else ""
        raise InputError(f"{source}: none of {found:,} photos can be used{said}")
    table = PhotoTable(rows, root)
    table = assign(table, rule) if rule is not None else table
    notes = {**(table.notes or {}), "rejected": _reasons(refused), "missing": _reasons(missing)}
    _write_rejects(out / "rejects.csv", rejects)
    table = PhotoTable(table.rows, root, notes).save(out)
    line = f"{len(table):,} photos in {out} ({_counts(Counter(table.split.tolist()))})"
    line += f"; {_counts(left_out)}" if left_out else ""
    line += f"; {len(refused):,} rejected: {_summary(refused)}" if refused else ""
    line += f"; {len(missing):,} missing: {_summary(missing)}" if missing else ""
    print(line + (f"; see {out / 'rejects.csv'}" if rejects else ""), file=sys.stderr)
    if len(missing) > allow_missing * (len(table) + len(missing)):
        raise IncompleteError(
            f"{out} is written but not complete: {len(missing):,} missing ({_summary(missing)}); run the same command again, "
            "it fetches only these, or accept a share of them with --allow-missing"
        )
    return table


def _collect(batches: Iterable[Batch], selection: Selection) -> tuple[pa.Table, list[Reject], Counter[str]]:
    """Put batches together and take what is wanted of them; rejects of a list are put into the order of its lines."""
    parts, rejects, left_out = [SCHEMA.empty_table()], list[Reject](), Counter[str]()
    for batch in batches:
        wanted, others = selection.mask(batch.rows)
        parts.append(keep(batch.rows, wanted))
        rejects += batch.rejects
        left_out += batch.left_out + others
    rows = pa.concat_tables(parts)
    chosen, others = selection.choose(rows)
    rejects.sort(key=lambda reject: reject.line or 0)  # stable: others stay in their order
    return keep(rows, chosen), rejects, left_out + others


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


def _write_rejects(path: Path, rejects: list[Reject]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "line", "reason", "missing"])
        writer.writerows((each.file, each.line, each.reason, "yes" if each.transient else "") for each in rejects)
