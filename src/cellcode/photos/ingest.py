"""The ingest step of the recipe: a folder of photos, or a table that lists them, becomes a photo table."""

from __future__ import annotations

import csv as csv_module
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_path
from cellcode.geography import Region
from cellcode.photos.folder_source import read_folder
from cellcode.photos.item import Item, Reject
from cellcode.photos.list_source import read_list
from cellcode.photos.splits import SplitRule, assign
from cellcode.photos.table import SCHEMA, PhotoTable

_LATER = ("panoramax:", "mapillary:", "osv5m:")


def run(
    source: Path | str, *, out: Path | str, region: Region | None = None, split: SplitRule | None = None
) -> PhotoTable:
    """Fill a photo table from a folder, a .csv or a .parquet file.

    Args:
        region: photos outside it are left out.
        split: None keeps the list's own split column, and splits by position where there is none.

    Raises:
        InputError: the source cannot be read, or none of its photos can be used.
        UsageError: the source is of no known kind.
    """
    text = str(source)
    if text.startswith(_LATER):
        raise UsageError(f"{text}: this source is not supported yet; download the photos and give a folder or a .csv")
    path = Path(source)
    if path.is_dir():
        return folder(path, out=out, region=region, split=split)
    if path.suffix.lower() in (".csv", ".parquet"):
        return csv(path, out=out, region=region, split=split)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of photos, a .csv or a .parquet file")
    raise UsageError(f"{path} is neither a folder, a .csv nor a .parquet file")


def folder(
    source: Path | str, *, out: Path | str, region: Region | None = None, split: SplitRule | None = None
) -> PhotoTable:
    """Fill a photo table from the photos with EXIF positions in a folder and the folders below it; see `run`."""
    return _fill(read_folder(Path(source)), Path(source), Path(source), out, region, split or SplitRule())


def csv(
    source: Path | str, *, out: Path | str, region: Region | None = None, split: SplitRule | None = None
) -> PhotoTable:
    """Fill a photo table from a CSV or Parquet list with file, lat, lon (and more, see docs/formats.md); see `run`."""
    source = Path(source)
    has_split, items = read_list(source)
    rule = split if split is not None or has_split else SplitRule()
    return _fill(items, source.parent, source, out, region, rule)


def _fill(
    items: Iterator[Item],
    root: Path,
    source: Path,
    out: Path | str,
    region: Region | None,
    rule: SplitRule | None,
) -> PhotoTable:
    """Collect accepted and rejected photos, split, save, and say what was done."""
    rows, rejects = [], []
    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
        else:
            rows.append(item)
    found = len(rows) + len(rejects)
    if region is not None and rows:
        inside = region.contains(np.array([r["lat_deg"] for r in rows]), np.array([r["lon_deg"] for r in rows]))
        rows = [row for row, keep in zip(rows, inside, strict=True) if keep]
    outside = found - len(rows) - len(rejects)
    reasons = Counter(reject.reason for reject in rejects)
    summary = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(8))
    if not rows:
        where = f", {outside} outside the region" if outside else ""
        raise InputError(f"{source}: none of {found} photos can be used{where}" + (f" ({summary})" if summary else ""))
    names = {"file", "lat_deg", "lon_deg", "split", "source", "width_px", "height_px"}
    table = PhotoTable(
        pa.Table.from_pylist([{field.name: row.get(field.name) for field in SCHEMA} for row in rows], SCHEMA), root
    )
    assert not any(table.rows.column(name).null_count for name in names)
    if rule is not None:
        table = assign(table, rule)
    notes = {**(table.notes or {}), "rejected": dict(reasons)}
    table = PhotoTable(table.rows, root, notes).save(out)
    _write_rejects(Path(out) / "rejects.csv", rejects)
    splits = ", ".join(f"{count} {name}" for name, count in sorted(Counter(table.split.tolist()).items()))
    line = f"{len(table)} photos in {out} ({splits})"
    line += f"; {outside} outside the region" if outside else ""
    line += f"; {len(rejects)} rejected: {summary}; see {Path(out) / 'rejects.csv'}" if rejects else ""
    print(line, file=sys.stderr)
    return table


def _write_rejects(path: Path, rejects: list[Reject]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv_module.writer(file)
        writer.writerow(["file", "line", "reason"])
        writer.writerows((reject.file, reject.line, reject.reason) for reject in rejects)
