"""The second door: a list of photos with their positions, as CSV, Parquet, GeoParquet or GeoJSON."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellcode.errors import UsageError
from cellcode.photos.sources import geojson
from cellcode.photos.sources.checks import check
from cellcode.photos.sources.geojson import GeoJsonList
from cellcode.photos.sources.list_files import CsvList, ParquetList, PhotoList
from cellcode.photos.table.item import Reject
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.photos.table.selection import Selection, keep
from cellcode.types import Int64

SUFFIXES = (".csv", ".parquet", ".geoparquet", *geojson.SUFFIXES)
_UNTIDY = r"(^|/)\.{0,2}/|/\.{0,2}$"  # paths that can be written in another way


@dataclass(frozen=True)
class Listed:
    """The wanted photos of a list, before their files are looked at.

    Attributes:
        rows: of the photo table's schema; width and height are 0 where the list does not tell them.
        numbers: (N,) int64, the lines they are in.
    """

    rows: pa.Table
    numbers: Int64
    rejects: list[Reject]
    left_out: Counter[str]


def open_list(path: Path) -> PhotoList:
    """Open a list by the suffix of its name.

    Raises:
        InputError: it cannot be read.
        UsageError: the suffix is of no known kind.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return CsvList(path)
    if suffix in (".parquet", ".geoparquet"):
        return ParquetList(path)
    if suffix in geojson.SUFFIXES:
        return GeoJsonList(path)
    raise UsageError(f"{path} is neither a folder nor a list of photos ({', '.join(SUFFIXES)})")


def select(photos: PhotoList, wanted: Mapping[str, str], source: str, selection: Selection) -> Listed:
    """Check every line of a list and choose the wanted photos. Of several lines of one photo, the first counts.

    Args:
        wanted: our name to the list's column, as of `columns.resolve`.
        source: of the photos, where the list does not tell one.

    Raises:
        InputError: the list is damaged.
    """
    parts, numbers, rejects, left_out = [SCHEMA.empty_table()], [np.zeros(0, np.int64)], list[Reject](), Counter[str]()
    for lines in photos.read(wanted):
        checked = check(lines, source)
        inside, outside = selection.mask(checked.rows)
        parts.append(keep(checked.rows, inside))
        numbers.append(checked.numbers[inside])
        rejects += checked.rejects
        left_out += outside
    rows, lines_of = pa.concat_tables(parts), np.concatenate(numbers)
    first = _first_of_same(rows["file"])
    once = first == np.arange(len(rows))
    again = np.flatnonzero(~once)
    rejects += [
        Reject(file, int(line), f"duplicate of line {earlier}", kind="duplicate of another line")
        for file, line, earlier in zip(
            rows["file"].take(again).to_pylist(), lines_of[again], lines_of[first[again]], strict=True
        )
    ]
    rows, lines_of = keep(rows, once), lines_of[once]
    chosen, not_chosen = selection.choose(rows)
    return Listed(keep(rows, chosen), lines_of[chosen], rejects, left_out + not_chosen)


def _first_of_same(files: pa.ChunkedArray) -> Int64:
    """The first row that names the same file as each row, (N,)."""
    files = files.combine_chunks()
    untidy = pc.match_substring_regex(files, _UNTIDY)
    tidied = pa.array([os.path.normpath(file) for file in files.filter(untidy).to_pylist()], pa.string())
    same = pc.replace_with_mask(files, untidy, tidied).dictionary_encode()
    codes = same.indices.to_numpy(zero_copy_only=False)
    first = np.zeros(len(same.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # the last write of each counts: that of the first row
    return np.asarray(first[codes])
