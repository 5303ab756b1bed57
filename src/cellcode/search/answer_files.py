"""Answers as files that other tools open: GeoJSON and CSV row by row, Parquet a few thousand rows at a time."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellcode.errors import UsageError
from cellcode.files import atomic_path

Row = dict[str, Any]  # what `to_json` of an `Answer` or a `Failure` returns
GROUP_ROWS = 4096  # rows of a Parquet file that are in memory at once

_CANDIDATE = [("lat", pa.float64()), ("lon", pa.float64()), ("cell", pa.string())]
_CANDIDATE += [("score", pa.float64()), ("probability", pa.float64())]
_SEARCH = [("method", pa.string()), ("cells", pa.int64()), ("exact", pa.bool_()), ("scored_again", pa.int64())]
_FACTS = [
    *_CANDIDATE,
    ("radius_50_m", pa.float64()),
    ("radius_90_m", pa.float64()),
    ("in_region", pa.bool_()),
    ("inside_probability", pa.float64()),
    ("mean_lat", pa.float64()),
    ("mean_lon", pa.float64()),
]
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("files", pa.list_(pa.string())),
        ("error", pa.string()),
        *_FACTS,
        ("candidates", pa.list_(pa.struct(_CANDIDATE))),
        ("search", pa.struct([*_SEARCH, ("missing", pa.list_(pa.string()))])),
    ]
)


def check(out: Path) -> None:
    """Check before any work that a file of this name can be written.

    Raises:
        UsageError: its ending is unknown, or it is a folder.
    """
    if out.suffix.lower() not in _WRITERS:
        raise UsageError(f"--out {out}: the name must end in .geojson, .csv or .parquet")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the name of a file")


def write(out: Path, rows: Iterable[Row], top: int) -> None:
    """Write answers and failures to a file whose ending says how; it appears when it is complete.

    Args:
        out: ends in .geojson, .csv or .parquet; see docs/formats.md for what each holds.
        rows: in the order in which they are written; only a few are in memory at a time.
        top: candidates of an answer; a CSV has columns for so many.

    Raises:
        UsageError: as `check`.
    """
    check(out)
    with atomic_path(out) as temporary:
        _WRITERS[out.suffix.lower()](temporary, (_readable(row) for row in rows), top)


def csv_columns(top: int) -> list[str]:
    """Return the columns of a CSV: those of the answer, then `lat_2` to `probability_2` for the second candidate and so on."""
    answer = ["file", "error", *(name for name, _ in _FACTS)]
    search = [f"search_{name}" for name in ("method", "cells", "exact", "scored_again", "missing")]
    others = [f"{name}_{rank}" for rank in range(2, top + 1) for name, _ in _CANDIDATE]
    return [*answer, *search, *others]


def _geojson(path: Path, rows: Iterable[Row], top: int) -> None:
    """A FeatureCollection (RFC 7946); a feature a line, so that it can be read without all of it in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, row in enumerate(rows):
            point = {"type": "Point", "coordinates": [row["lon"], row["lat"]]} if "lat" in row else None
            feature = {"type": "Feature", "geometry": point, "properties": row}
            file.write((",\n" if number else "\n") + json.dumps(feature, allow_nan=False, ensure_ascii=False))
        file.write("\n]}\n")


def _csv(path: Path, rows: Iterable[Row], top: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, csv_columns(top), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(_flat(row) for row in rows)


def _flat(row: Row) -> Row:
    flat = {**row, "file": "; ".join(row["files"]) if "files" in row else row["file"]}
    for rank, candidate in enumerate(row.get("candidates", ())[1:], 2):
        flat |= {f"{name}_{rank}": value for name, value in candidate.items()}
    flat |= {f"search_{name}": value for name, value in row.get("search", {}).items()}
    flat["search_missing"] = "; ".join(flat.get("search_missing", ()))
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in flat.items()}


def _parquet(path: Path, rows: Iterable[Row], top: int) -> None:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for some in _groups(rows):
            named = [{**row, "file": row["files"][0]} if "files" in row else row for row in some]
            writer.write_table(pa.Table.from_pylist(named, SCHEMA))


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while some := list(islice(left, GROUP_ROWS)):
        yield some


def _readable(row: Row) -> Row:
    """Spell the bytes of a file's name that are no UTF-8 as \\udcff; no file of text could hold them."""
    if "files" in row:
        return {**row, "files": [_utf8(name) for name in row["files"]]}
    spelt = {**row, "file": _utf8(row["file"])}
    return {**spelt, "error": _utf8(row["error"])} if "error" in row else spelt


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


_WRITERS: dict[str, Callable[[Path, Iterable[Row], int], None]] = {
    ".geojson": _geojson,
    ".csv": _csv,
    ".parquet": _parquet,
}
