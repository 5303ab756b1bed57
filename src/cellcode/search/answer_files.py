"""Answers as files that other tools open, and the location of many photos that ends in one and may be interrupted.

GeoJSON and CSV are written row by row, Parquet a few thousand rows at a time.
"""

import csv
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from cellcode.client.answers import FACTS, Answer, Failure
from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_path, locked, sha256
from cellcode.geography import Region
from cellcode.progress import Meter
from cellcode.search.locator import Locator

Row = dict[str, Any]  # what `to_json` of an `Answer` or a `Failure` returns
GROUP_ROWS = 4096  # rows of a Parquet file that are in memory at once
TEXT, TEXTS, REAL = pa.string(), pa.list_(pa.string()), pa.float64()
_CANDIDATE = {"lat": REAL, "lon": REAL, "cell": TEXT, "score": REAL, "probability": REAL}
_FACTS = _CANDIDATE | {name: pa.bool_() if name == "in_region" else REAL for name in FACTS}
_SEARCH = {"method": TEXT, "cells": pa.int64(), "exact": pa.bool_(), "scored_again": pa.int64(), "missing": TEXTS}
_NESTED = {"candidates": pa.list_(pa.struct(_CANDIDATE)), "search": pa.struct(_SEARCH)}
SCHEMA = pa.schema({"file": TEXT, "files": TEXTS, "error": TEXT} | _FACTS | _NESTED)


def check(out: Path) -> None:
    """Check before any work that a file of this name can be written; UsageError: its ending is unknown, or it is a folder."""
    if out.suffix.lower() not in _WRITERS:
        raise UsageError(f"--out {out}: the name must end in .geojson, .csv or .parquet")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the name of a file")


def write(out: Path, rows: Iterable[Row], top: int) -> None:
    """Write answers and failures to a file; it appears when it is complete. UsageError: as `check`.

    Args:
        out: ends in .geojson, .csv or .parquet; see docs/formats.md for what each holds.
        rows: in the order in which they are written; only a few are in memory at a time.
        top: candidates of an answer; a CSV has columns for so many.
    """
    check(out)
    with atomic_path(out) as temporary:
        _WRITERS[out.suffix.lower()](temporary, (_readable(row) for row in rows), top)


def csv_columns(top: int) -> list[str]:
    """Return the columns of a CSV: those of the answer, then `lat_2` to `probability_2` for the second candidate and so on."""
    others = [f"{name}_{rank}" for rank in range(2, top + 1) for name in _CANDIDATE]
    return ["file", "error", *_FACTS, *(f"search_{name}" for name in _SEARCH), *others]


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
    named = ({**row, "file": row["files"][0]} if "files" in row else row for row in rows)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while some := list(islice(named, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(some, SCHEMA))


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


class Unfinished:
    """Answers of a call that has not ended, one a line in OUT.partial.jsonl: CRC-32 in hex, a space, a JSON object.

    The first line says of which call; every other holds a photo's size and time of change beside its answer, so that a
    photo that has changed since is located again. So is one whose line is damaged. Use as a context manager.

    Args:
        out: the file that the call makes.
        call: what the answers depend on besides the photos.

    Raises:
        InputError: the file is of a call that would give other answers.
    """

    def __init__(self, out: Path, call: dict[str, Any]) -> None:
        self.path = partial_path(out)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, tuple[int, int, int]] = {}  # of each photo: size, time of change, place of its line
        self._header = _line(call)
        self._file = self.path.open("a+b")
        try:
            self._take_up(call)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if not self.path.stat().st_size:
            self.path.unlink()

    def answered(self, photo: Path) -> bool:
        """Return True if the photo, as it is on disk now, has an answer here. One that could not be read has none."""
        place = self._places.get(str(photo))
        return place is not None and place[:2] == _state(photo)

    def add(self, photo: Path, result: Answer | Failure) -> None:
        """Keep what a photo was answered with."""
        size, changed = _state(photo)
        end = self._file.seek(0, os.SEEK_END) or self._file.write(self._header)
        self._places[str(photo)] = size, changed, end
        self._file.write(_line({"bytes": size, "changed_ns": changed, "result": result.to_json()}))
        self._file.flush()  # it outlives the process

    def result(self, photo: Path) -> Row:
        """Return what a photo was answered with, as JSON."""
        self._file.seek(self._places[str(photo)][2])
        value = _parsed(self._file.readline())
        if value is None:
            raise InputError(f"{self.path} was changed while it was in use; run the same command again")
        row: Row = value["result"]
        return row

    def discard(self) -> None:
        """Forget every answer: they are where they belong now."""
        self._places.clear()
        self._file.truncate(0)

    def _take_up(self, call: dict[str, Any]) -> None:
        self._file.seek(0)
        while line := self._file.readline():
            start = self._file.tell() - len(line)
            value = _parsed(line)
            if value is None:
                if not start or not line.endswith(b"\n"):  # of what call is lost, or the last line was cut off
                    self._file.truncate(start)
                    break
            elif start and "error" not in value["result"]:
                self._places[value["result"]["file"]] = value["bytes"], value["changed_ns"], start
            elif not start and value != call:
                raise InputError(
                    f"{self.path} holds the answers of an interrupted call with another database, --top or --region; "
                    "repeat that call, or delete the file"
                )


def partial_path(out: Path) -> Path:
    """Return where the answers are kept until `out` is complete."""
    return out.with_name(f"{out.name}.partial.jsonl")


def locate_to(
    out: Path, locator: Locator, photos: Sequence[Path], *, top: int = 5, region: str | None = None
) -> tuple[int, int]:
    """Locate photos and write their answers to a file; see `write`.

    The answers are kept in OUT.partial.jsonl until the file is complete. The same call resumes an interrupted one; photos that
    have changed or could not be read are tried again.

    Returns:
        How many photos were located, and how many could not be read.

    Raises:
        UsageError: the ending of the name is unknown, `top` is below 1, or the region cannot be understood.
        InputError: no cell lies in the region; another call's answers are kept beside `out`; another process writes it.
    """
    check(out)
    searched = Region.of(region)
    call = {"database": locator.database.identity, "top": top, "region": _region_key(region)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out), Unfinished(out, call) as kept:
        todo = [photo for photo in photos if not kept.answered(photo)]
        failed = 0
        with Meter("locating", len(todo)) as meter:
            if len(todo) < len(photos):
                meter.note(f"{len(photos) - len(todo)} more kept from an interrupted call")
            results = locator.locate_many(todo, top=top, region=searched)
            for photo, result in zip(todo, results, strict=True):
                kept.add(photo, result)
                failed += isinstance(result, Failure)
                meter.advance()
        write(out, (kept.result(photo) for photo in photos), top)
        kept.discard()
    return len(photos) - failed, failed


def _state(photo: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; -1 for both where there is no such file."""
    try:
        found = photo.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _line(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, allow_nan=False).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line, None of one that was cut off or changed."""
    digest, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or digest != b"%08x" % zlib.crc32(text):
        return None
    value: dict[str, Any] = json.loads(text)
    return value


def _region_key(region: str | None) -> str | None:
    """The region as it was given; a file's content goes with its name."""
    if region is None:
        return None
    path = Path(region.strip().removeprefix("not:").strip().removeprefix("cells:").strip())
    return f"{region} {sha256(path)}" if path.is_file() else region
