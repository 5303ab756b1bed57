"""Which column of a list is what, and checks of whole columns: what is usable becomes rows, the rest rejects."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellcode.errors import InputError, UsageError
from cellcode.geography.numbers import parse_number
from cellcode.photos.reading.capture_time import FIRST_PHOTO, parse_listed_time, tomorrow
from cellcode.photos.reading.facts import NULL_ISLAND
from cellcode.photos.reading.image import MIN_SIDE_PX
from cellcode.photos.sources.list_files import Lines
from cellcode.photos.table.item import Reject, keep
from cellcode.photos.table.photo_table import SCHEMA, SPLITS
from cellcode.types import Bools, Float64, Int64

logger = logging.getLogger(__name__)
REQUIRED = ("file", "lat", "lon")
# Only names that can hardly mean anything else. Not "x" and "y" (pixels? a projection?), not "yaw" (of what axis?), not
# "time" (of day?).
_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "file": ("filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "photo"),
    "lat": ("latitude", "lat_deg", "gps_latitude"),
    "lon": ("longitude", "lon_deg", "gps_longitude", "lng", "long"),
    "heading": ("heading_deg", "compass_angle", "bearing", "azimuth", "view:azimuth"),
    "fov": ("fov_deg", "hfov", "field_of_view"),
    "captured_at": ("datetime", "timestamp", "capture_time", "taken_at", "date"),
    "sequence": ("sequence_id",),
    "device": ("camera", "camera_model"),
    "split": (),
    "licence": ("license",),
    "attribution": ("author", "creator", "creator_username"),
    "source": (),
    "accuracy": ("accuracy_m", "gps_accuracy", "horizontal_accuracy", "quality:horizontal_accuracy"),
    "land_use": (),
    "width": ("width_px", "image_width"),
    "height": ("height_px", "image_height"),
}
NAMES = tuple(_OTHER_NAMES)


def resolve(present: list[str], asked: Mapping[str, str], path: Path, *, placed: bool) -> dict[str, str]:
    """Return which of a list's columns is what.

    A column that the user names comes first, then the format's own name, then a common other name in upper or lower case,
    if it is the only one there.

    Args:
        asked: our name to the list's, where the user names it; an empty column means none.
        placed: the list has a geometry: latitude and longitude come from it, unless the user names columns.

    Raises:
        UsageError: a name that the format does not have.
        InputError: a column is missing, is there twice, or several columns may be meant.
    """
    for name, column in asked.items():
        if name not in NAMES:
            raise UsageError(f"--column {name}={column}: there is no {name!r}{_nearest(name, NAMES)}")
        if column and column not in present:
            raise InputError(f"{path} has no column {column!r}{_nearest(column, present)}")
    found = {name: column for name, column in asked.items() if column}
    for name in NAMES:
        known = name in asked or (placed and name in ("lat", "lon"))
        if not known and (itself := _by_itself(name, present, path)) is not None:
            found[name] = itself
    if twice := [column for column in found.values() if present.count(column) > 1]:
        raise InputError(f"{path}: the column {twice[0]} occurs {present.count(twice[0])} times; keep one of them")
    if missing := [name for name in REQUIRED if name not in found and not (placed and name != "file")]:
        needed = "file" if placed else ", ".join(REQUIRED)
        raise InputError(
            f"{path}: the column {missing[0]} is missing; needed are {needed}. It has {_some(present)}; "
            f"name the right one with --column {missing[0]}=COLUMN"
        )
    return found


def _by_itself(name: str, present: list[str], path: Path) -> str | None:
    """The column that is meant without being named."""
    if name in present:
        return name
    common = {name, *_OTHER_NAMES[name]}
    candidates = list(dict.fromkeys(column for column in present if column.strip().lower() in common))
    if len(candidates) > 1:
        raise InputError(
            f"{path}: {name} may be the column {' or '.join(candidates)}; choose one with --column {name}={candidates[0]}, "
            f"or none with --column {name}="
        )
    return candidates[0] if candidates else None


def _nearest(name: str, known: Collection[str]) -> str:
    """The end of a sentence: the nearest known name, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {_some(known)}"


def _some(names: Collection[str]) -> str:
    listed = list(names)
    return (", ".join(listed[:30]) + (", ..." if len(listed) > 30 else "")) or "none"


_TEXTS = ("sequence", "device", "licence", "attribution", "land_use")
_RANGES = {  # lowest and highest value that can be meant; all but the first two may be missing
    "lat": (-90, 90),
    "lon": (-180, 180),
    "heading": (-360, 360),
    "fov": (1, 360),
    "accuracy": (0, 20_000_000),
    "width": (MIN_SIDE_PX, 1_000_000),
    "height": (MIN_SIDE_PX, 1_000_000),
}


@dataclass(frozen=True)
class Listed:
    """The usable photos of a list, before their files are looked at, and why others are left out.

    Attributes:
        rows: of the photo table's schema; width and height are 0 where the list does not state them.
        numbers: (N,) int64, the lines they are in.
    """

    rows: pa.Table
    numbers: Int64
    rejects: list[Reject]
    left_out: Counter[str] = field(default_factory=Counter)


def check(lines: Lines, source: str) -> Listed:
    """Check lines; the first fault counts. `source` is of photos that state none. InputError: a column of a wrong type."""
    read = _Reader(lines)
    file = read.text("file")
    read.faults.update({row: (reason, reason) for row, reason in lines.faults.items()})
    read.note(pc.is_null(file).to_numpy(zero_copy_only=False), lambda _: "no file", "no file")
    split = pc.fill_null(read.text("split"), "train")
    unknown = ~pc.is_in(split, pa.array(SPLITS)).to_numpy(zero_copy_only=False)
    words = ", ".join(SPLITS)
    read.note(unknown, lambda row: f"split is {split[row].as_py()!r}, not one of {words}", f"split not one of {words}")
    lat, lon = (read.numbers(name, optional=False) for name in ("lat", "lon"))
    read.note((lat == 0) & (lon == 0), lambda _: NULL_ISLAND, NULL_ISLAND)
    heading, fov, accuracy, width, height = (read.numbers(name, optional=True) for name in tuple(_RANGES)[2:])
    sizes = (np.clip(np.nan_to_num(side), 0, 1_000_000).astype(np.int32) for side in (width, height))
    columns = {
        "file": pc.fill_null(file, ""),
        "lat_deg": pa.array(lat),
        "lon_deg": pa.array(lon),
        "heading_deg": _float32(np.mod(heading, 360)),
        "fov_deg": _float32(fov),
        "captured_at": read.date("captured_at"),
        **{name: read.text(name) for name in _TEXTS},
        "split": split,
        "source": pc.fill_null(read.text("source"), source),
        **{f"{name}_px": pa.array(side) for name, side in zip(("width", "height"), sizes, strict=True)},
        "accuracy_m": _float32(accuracy),
    }
    rows = pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)
    usable = np.ones(len(rows), bool)
    usable[list(read.faults)] = False
    rejects = [
        Reject(columns["file"][row].as_py(), int(lines.numbers[row]), reason, kind=kind)
        for row, (reason, kind) in sorted(read.faults.items())
    ]
    return Listed(keep(rows, usable), lines.numbers[usable], rejects)


class _Reader:
    """Reads columns of some lines; `faults` has the first reason of a line, and the reason without its value."""

    def __init__(self, lines: Lines) -> None:
        self._columns, self._count, self._decimal = lines.columns, len(lines.numbers), lines.decimal
        self.faults: dict[int, tuple[str, str]] = {}

    def note(self, wrong: Bools, reason: Callable[[int], str], kind: str) -> None:
        for row in np.flatnonzero(wrong):
            self.faults.setdefault(int(row), (reason(int(row)), kind))

    def text(self, name: str) -> pa.Array:
        """Text without blanks around it, null where there is none."""
        return trimmed(_cast(name, self._column(name), pa.string()))

    def numbers(self, name: str, *, optional: bool) -> Float64:
        """Numbers within their range; NaN where there is none, which may be so if they are optional."""
        raw = self._column(name)
        values, number = _numbers(name, raw, self._decimal)
        missing = np.zeros(self._count, bool)
        if optional:
            missing = np.array(pc.fill_null(pc.equal(_cast(name, raw, pa.string()), ""), True))
            missing |= number & np.isnan(values)
        wrong = ~number & ~missing
        self.note(wrong, lambda row: f"{name} is {raw[row].as_py()!r}, not a number", f"{name} not a number")
        lowest, highest = _RANGES[name]
        inside = (values >= lowest) & (values <= highest)  # False for NaN
        reason = f"not in {lowest}..{highest}"
        self.note(number & ~missing & ~inside, lambda row: f"{name} is {values[row]}, {reason}", f"{name} {reason}")
        return values

    def date(self, name: str) -> pa.Array:
        """Times in milliseconds: UTC where a zone is stated, else as they are; null where there is none, and for 0."""
        raw = self._column(name)
        if pa.types.is_temporal(raw.type):  # a time with a zone is UTC inside
            times = np.array(_cast(name, raw, pa.timestamp("ms")).to_numpy(zero_copy_only=False), "datetime64[ms]")
            wrong = (times < np.datetime64(FIRST_PHOTO)) | (times > np.datetime64(tomorrow()))
        else:
            times, wrong = np.full(self._count, "NaT", "datetime64[ms]"), np.zeros(self._count, bool)
            for row, text in enumerate(self.text(name).to_pylist()):
                try:
                    times[row] = text and parse_listed_time(text)
                except ValueError:
                    wrong[row] = True
        reason = "not an ISO 8601 date up to today, nor seconds or milliseconds since 1970"
        self.note(wrong, lambda row: f"{name} is {raw[row].as_py()!r}, {reason}", f"{name} {reason}")
        zero = times.astype("datetime64[D]") == np.datetime64(0, "D")
        if zero.any():
            logger.info("%s lines have 0 or 1 January 1970 as %s, which is taken for no date", f"{zero.sum():,}", name)
        return pa.array(times, mask=zero | np.isnat(times))

    def _column(self, name: str) -> pa.Array:
        column = self._columns.get(name)
        return pa.nulls(self._count, pa.string()) if column is None else column


def _numbers(name: str, raw: pa.Array, decimal: str) -> tuple[Float64, Bools]:
    """Values as float64, NaN where there is none, and which of them are numbers (NaN may be one)."""
    kind = raw.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = _cast(name, raw, pa.float64())
        number = np.array(pc.is_valid(values))
        return np.array(values.to_numpy(zero_copy_only=False), np.float64), number
    parsed = [_float(text, decimal) for text in _cast(name, raw, pa.string()).to_pylist()]
    number = np.array([value is not None for value in parsed], bool)
    return np.array([np.nan if value is None else value for value in parsed], np.float64), number


def _float(text: str | None, decimal: str) -> float | None:
    if text is None:
        return None
    try:
        return parse_number(text.replace(decimal, "."))
    except ValueError:
        return np.nan if text.strip().lower() == "nan" else None


def trimmed(texts: pa.Array) -> pa.Array:
    """Return texts without blanks around them, null where there is none."""
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _float32(values: Float64) -> pa.Array:
    return pa.array(values, pa.float32(), from_pandas=True)  # NaN becomes null


def _cast(name: str, column: pa.Array, kind: Any) -> pa.Array:
    try:
        return pc.cast(column, kind, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(f"the list's column for {name} is of type {column.type}, which cannot be used") from None
