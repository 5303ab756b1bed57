"""The first door: a folder of photos that say themselves where they were taken, or a track does."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellcode.errors import InputError, MissingExtraError
from cellcode.photos.reading.capture_time import Clock
from cellcode.photos.reading.exif import TURNED, Facts, read_facts
from cellcode.photos.reading.gpx import Track
from cellcode.photos.reading.image import PhotoError, open_photo, read_image
from cellcode.photos.reading.magnetic import declination_deg
from cellcode.photos.reading.panorama import PanoramaRule
from cellcode.photos.reading.panorama_views import Cutter
from cellcode.photos.table.item import Item, Reject
from cellcode.progress import track as show_progress

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".hif"}
_VIDEOS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".3gp", ".insv", ".360"}
PANORAMA_REASON = "a 360 degree panorama, in which nothing is straight; have it cut into views with --panoramas 4,90,0"


def read_folder(
    folder: Path,
    *,
    track: Track | None = None,
    track_heading: bool = False,
    clock: Clock | None = None,
    panoramas: PanoramaRule | None = None,
    out: Path | None = None,
) -> Iterator[Item]:
    """Yield a row or a reject for every photo in the folder and below it, in the order of their names.

    Hidden files and folders and files of other kinds are passed over. Every photo is decoded once, so that a damaged one
    is found here and not in the middle of a training. What was left out of rows is said on stderr at the end.

    Args:
        track: places photos that have a time but no position; their source is "folder+gpx".
        track_heading: photos without a heading of their own look along the track.
        clock: what is known of the camera's clock.
        panoramas: how panoramas are cut into views, with a row each; None: they are rejected.
        out: the views go to OUT/cuts, which may lie in `folder`: it is passed over. Needed with `panoramas`.

    Raises:
        InputError: the folder does not exist or holds no photos.
    """
    cutter = Cutter(panoramas, out / "cuts", folder) if panoramas is not None and out is not None else None
    reader = _Reader(folder, clock or Clock(), track, track_heading, cutter)
    files = [path for path in photo_files(folder) if out is None or not _is_below(path, folder, out / "cuts")]
    remarks = Counter[str]()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for items, remark in show_progress(threads.map(reader.items, files), "reading photos", len(files)):
            remarks.update([remark] if remark else [])
            yield from items
    videos = sum(path.suffix.lower() in _VIDEOS for path in _visible(folder))
    if videos:
        remarks["videos passed over"] = videos
    if remarks:
        print(f"{folder}: " + "; ".join(f"{count} {what}" for what, count in remarks.most_common()), file=sys.stderr)


def _is_below(path: Path, folder: Path, other: Path) -> bool:
    """Tell whether a path in `folder` lies in `other`, however the two folders are spelled."""
    root = folder.resolve()
    return (root / path.relative_to(folder)).is_relative_to(other.resolve())


def photo_files(folder: Path) -> list[Path]:
    """Return the photos of a folder and below it by their suffix, in the order of their names, hidden ones left out.

    Raises:
        InputError: the folder does not exist or holds no photos.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    files = sorted(path for path in _visible(folder) if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{folder} holds no photos ({', '.join(sorted(SUFFIXES))})")
    return files


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


@dataclass(frozen=True)
class _Reader:
    """Reads one photo at a time; used by several threads."""

    folder: Path
    clock: Clock
    track: Track | None
    track_heading: bool
    cutter: Cutter | None

    def items(self, path: Path) -> tuple[list[Item], str | None]:
        """The rows of a photo, or its reject, and a remark on what its row lacks."""
        file = path.relative_to(self.folder).as_posix()
        try:
            with open_photo(path) as image:
                facts = read_facts(image, file, self.clock, need_position=False)
                turned = image.getexif().get(0x0112) in TURNED
                width, height = image.size[::-1] if turned else image.size
            lat, lon, source = self._place(facts)
            heading, remark = self._heading(facts, lat, lon)
            row = {
                "file": file,
                "lat_deg": lat,
                "lon_deg": lon,
                "heading_deg": heading,
                "fov_deg": facts.fov_deg,
                "captured_at": facts.captured_at,
                "device": facts.device,
                "split": "train",
                "licence": facts.licence,
                "attribution": facts.attribution,
                "source": source,
                "width_px": width,
                "height_px": height,
                "accuracy_m": facts.accuracy_m,
            }
            return self._rows(path, row, facts), remark
        except PhotoError as error:
            return [Reject(file, None, str(error).removeprefix(f"{path}: ").removeprefix(f"{file}: "))], None

    def _rows(self, path: Path, row: dict[str, Any], facts: Facts) -> list[Item]:
        if facts.panorama is None:
            read_image(path)
            return [row]
        if self.cutter is None:
            raise PhotoError(PANORAMA_REASON)
        stated_deg = facts.panorama.heading_deg
        row["heading_deg"] = row["heading_deg"] if stated_deg is None else stated_deg
        return [*self.cutter.rows(row, facts.panorama)]

    def _place(self, facts: Facts) -> tuple[float, float, str]:
        """Position and source: the photo's own position, or the track's."""
        if facts.position_fault is None:
            return facts.lat_deg, facts.lon_deg, "folder"
        if self.track is None:
            raise PhotoError(facts.position_fault)
        if facts.captured_at is None:
            raise PhotoError(f"{facts.position_fault}, and no time to look up in the track")
        if not facts.in_utc:
            raise PhotoError(f"{facts.position_fault}, and no time zone to look up in the track; give --camera-zone")
        placed = self.track.place(np.array([facts.captured_at], "datetime64[ms]"))
        lat, lon = float(placed.lat_deg[0]), float(placed.lon_deg[0])
        if math.isnan(lat):
            raise PhotoError(f"{facts.position_fault}, and the track does not tell where the camera was then")
        return lat, lon, "folder+gpx"

    def _heading(self, facts: Facts, lat_deg: float, lon_deg: float) -> tuple[float | None, str | None]:
        """True heading, and a remark where there is one that cannot be used."""
        if facts.heading_deg is not None:
            return facts.heading_deg, None
        if facts.magnetic_heading_deg is not None:
            return _true_heading(facts.magnetic_heading_deg, facts, lat_deg, lon_deg)
        if self.track is not None and self.track_heading and facts.in_utc:
            along = float(self.track.heading_deg(np.array([facts.captured_at], "datetime64[ms]"))[0])
            return (None if math.isnan(along) else along), None
        return None, None


def _true_heading(magnetic_deg: float, facts: Facts, lat_deg: float, lon_deg: float) -> tuple[float | None, str | None]:
    if facts.captured_at is None:
        return None, "magnetic headings left out, of photos without a date"
    try:
        declination = declination_deg(lat_deg, lon_deg, facts.captured_at)
    except MissingExtraError as error:
        return None, f"magnetic headings left out ({error})"
    if declination is None:
        return None, "magnetic headings left out, of a date or place without a magnetic model"
    return (magnetic_deg + declination) % 360, None
