"""The second door: a CSV or Parquet list of photos with their positions."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellcode.errors import InputError
from cellcode.photos.image import PhotoError, read_image
from cellcode.photos.item import Item, Reject
from cellcode.photos.table import SPLITS
from cellcode.progress import track

REQUIRED = ("file", "lat", "lon")
_TEXTS = ("sequence", "device", "licence", "attribution", "land_use")


def read_list(path: Path) -> tuple[bool, Iterator[Item]]:
    """Open a list; tells whether it has a split column and gives a row or a reject for each of its lines.

    Raises:
        InputError: the list cannot be read, or lacks a required column.
    """
    columns, records = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(f"{path}: the column {missing[0]} is missing; needed are {', '.join(REQUIRED)}")
    return "split" in columns, _items(path, records)


def _items(path: Path, records: list[tuple[int, dict[str, Any]]]) -> Iterator[Item]:
    """Check records one by one; the photos themselves are decoded by several threads."""
    first_line: dict[str, int] = {}
    checked: list[tuple[int, Item]] = []
    for line, record in records:
        item = _row(line, record)
        if not isinstance(item, Reject):
            name = os.path.normpath(item["file"])
            if name in first_line:
                item = Reject(item["file"], line, f"duplicate of line {first_line[name]}")
            first_line.setdefault(name, line)
        checked.append((line, item))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        items = threads.map(lambda entry: _with_size(path.parent, *entry), checked)
        yield from track(items, "reading photos", len(checked))


def _row(line: int, record: dict[str, Any]) -> Item:
    file = str(record.get("file") or "").strip()
    if not file:
        return Reject("", line, "no file")
    try:
        split = str(record.get("split") or "train").strip()
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, not one of {', '.join(SPLITS)}")
        return {
            "file": file,
            "lat_deg": _coordinate(record, "lat", 90),
            "lon_deg": _coordinate(record, "lon", 180),
            "heading_deg": _optional(record, "heading", 360),
            "fov_deg": _optional(record, "fov", 360),
            "captured_at": _date(record.get("captured_at")),
            "split": split,
            "source": "list",
            **{name: str(record[name]) if record.get(name) not in (None, "") else None for name in _TEXTS},
        }
    except ValueError as error:
        return Reject(file, line, str(error))


def _with_size(root: Path, line: int, item: Item) -> Item:
    """Decode the photo once: its size, and that it can be read at all."""
    if isinstance(item, Reject):
        return item
    path = root / item["file"]
    try:
        with read_image(path) as image:
            width, height = image.size
    except PhotoError as error:
        return Reject(item["file"], line, str(error).removeprefix(f"{path}: "))
    return {**item, "width_px": width, "height_px": height}


def _coordinate(record: dict[str, Any], name: str, limit: float) -> float:
    text = record.get(name)
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {text!r}, not a number") from None
    if not math.isfinite(value) or abs(value) > limit:
        raise ValueError(f"{name} is {value}, not in -{limit:.0f}..{limit:.0f}")
    return value


def _optional(record: dict[str, Any], name: str, limit: float) -> float | None:
    text = record.get(name)
    if text is None or str(text).strip() == "" or (isinstance(text, float) and math.isnan(text)):
        return None
    value = _coordinate(record, name, limit)
    if name == "fov" and value <= 0:
        raise ValueError(f"fov is {value}, it must be above 0")
    return value % 360 if name == "heading" else value


def _date(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    try:
        date = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError(f"captured_at is {value!r}, not an ISO 8601 date") from None
    return date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            return columns, [(reader.line_num, record) for record in reader]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error})") from None


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    return table.column_names, list(enumerate(table.to_pylist(), start=1))
