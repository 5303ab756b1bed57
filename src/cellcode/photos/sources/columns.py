"""Which column of a list is what: the names of the format, common other names, and names that the user gives."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from cellcode.errors import InputError, UsageError

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
        present: the columns of the list.
        asked: our name to the list's, where the user names it; an empty column means none.
        placed: the list has a geometry: latitude and longitude come from it, unless the user names columns.

    Returns:
        Our name to the list's, for every column that is there.

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
        if name in asked or (placed and name in ("lat", "lon")):
            continue
        itself = _by_itself(name, present, path)
        if itself is not None:
            found[name] = itself
    twice = [column for column in found.values() if present.count(column) > 1]
    if twice:
        raise InputError(f"{path}: the column {twice[0]} occurs {present.count(twice[0])} times; keep one of them")
    missing = [name for name in REQUIRED if name not in found and not (placed and name != "file")]
    if missing:
        needed = ", ".join(REQUIRED if not placed else REQUIRED[:1])
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
