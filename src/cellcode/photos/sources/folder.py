"""A folder of photos that state their position in EXIF or XMP, or get it from a track by their time."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellcode.errors import InputError, MissingExtraError
from cellcode.photos.reading.capture_time import Clock
from cellcode.photos.reading.exif import upright_size
from cellcode.photos.reading.facts import Facts, read_facts
from cellcode.photos.reading.gpx import Track
from cellcode.photos.reading.image import PhotoError, open_photo, photo_size
from cellcode.photos.reading.magnetic import declination_deg
from cellcode.photos.reading.panorama import Cutter
from cellcode.photos.sources.protocol import Photo, PhotoSource, utf8_fault
from cellcode.photos.table.item import Reject
from cellcode.progress import track as show_progress

logger = logging.getLogger(__name__)
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".insp", ".png", ".webp", ".tif", ".tiff", ".gif"}
SUFFIXES |= {".heic", ".heif", ".hif", ".avif"}
_STATED = ("fov_deg", "captured_at", "device", "licence", "attribution", "accuracy_m")
PANORAMA_REASON = "a 360 degree panorama, in which nothing is straight; have it cut into views with --panoramas 4,90,0"


class FolderSource(PhotoSource):
    """A folder of photos and the folders below it, read in the order of their names.

    Hidden files and files of other kinds are passed over and counted. Every photo is decoded once, so that a damaged one is
    found here and not in the middle of a training. Facts that were left out of rows are counted and logged at the end. Views
    of panoramas go to OUT/cuts, which may lie in the folder: it is skipped.
    """

    uses = ("gpx", "track_heading", "camera_zone", "clock_offset_s", "panoramas")

    def items(self) -> Iterator[Photo | Reject]:
        """See `PhotoSource`; InputError also where a track is damaged."""
        options, self.root, cuts = self.options, Path(self.argument), self.out / "cuts"
        clock = Clock.parse(options.camera_zone, options.clock_offset_s)
        track = Track.read(options.gpx) if options.gpx else None
        cutter = Cutter(options.panoramas, cuts, self.root) if options.panoramas is not None else None
        reader = _Reader(self.root, clock, track, options.track_heading, cutter)
        files = photo_files(self.root, cuts)
        remarks = Counter[str]()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for items, remark in show_progress(threads.map(reader.items, files), "reading photos", len(files)):
                remarks.update([remark] if remark else [])
                yield from items
        if remarks:
            logger.info("%s: %s", self.root, "; ".join(f"{count} {what}" for what, count in remarks.most_common()))


def photo_files(folder: Path, skip: Path | None = None) -> list[Path]:
    """Return the photos of a folder and below it, by name; what is passed over is logged, by kind.

    Args:
        skip: a folder whose files are neither taken nor counted.

    Raises:
        InputError: there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    root, cut = folder.resolve(), skip and skip.resolve()  # however the two are spelled
    photos, others = list[Path](), Counter[str]()
    for path in files_below(folder):
        within = path.relative_to(folder)
        if cut is not None and (root / within).is_relative_to(cut):
            continue
        hidden = any(part.startswith(".") for part in within.parts)
        kind = "hidden" if hidden else path.suffix.lower() or "without a suffix"
        if kind in SUFFIXES and (path.is_file() or not path.exists()):  # a link that leads nowhere is a photo to reject
            photos.append(path)
        else:
            others[kind] += 1
    counted = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common())
    passed_over = f"{others.total():,} files passed over: {counted}" if others else "no files at all"
    if not photos:
        raise InputError(f"{folder} holds no photos ({', '.join(sorted(SUFFIXES))}); {passed_over}")
    if others:
        logger.info("%s: %s", folder, passed_over)
    return photos


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and below it, by name. Links to folders are followed, and each folder is read once."""
    root, found, seen, starts = folder.resolve(), list[Path](), set[tuple[int, int]](), [folder]
    for start in starts:  # it grows: links come after all folders that are not behind one
        for name, folders, files in os.walk(start, onerror=_warn):
            here, status = Path(name), os.stat(name)
            if (place := (status.st_dev, status.st_ino)) in seen:
                folders.clear()
                continue
            seen.add(place)
            found += (here / file for file in files)
            links = (here / each for each in sorted(folders) if (here / each).is_symlink())
            starts += (link for link in links if not root.is_relative_to(link.resolve()))
    return sorted(found)


def _warn(error: OSError) -> None:
    logger.warning("%s cannot be read (%s): its files are left out", error.filename, error.strerror)


@dataclass(frozen=True)
class _Reader:
    """Reads one photo at a time; used by several threads."""

    folder: Path
    clock: Clock
    track: Track | None
    track_heading: bool
    cutter: Cutter | None

    def items(self, path: Path) -> tuple[list[Photo | Reject], str | None]:
        """The rows of a photo, or its reject, and a remark on what its row lacks."""
        file = path.relative_to(self.folder).as_posix()
        try:
            if fault := utf8_fault(file):
                raise PhotoError(fault)
            with open_photo(path) as image:
                facts = read_facts(image, file, self.clock, need_position=False)
                width, height = upright_size(image)
            lat, lon, source = self._place(facts)
            heading, remark = self._heading(facts, lat, lon)
            columns = {name: getattr(facts, name) for name in _STATED}
            columns |= {"heading_deg": heading, "source": source, "width_px": width, "height_px": height}
            return [Photo(view, (lat, lon), each) for view, each in self._views(path, columns, facts)], remark
        except PhotoError as error:
            return [Reject(file, None, str(error).removeprefix(f"{path}: ").removeprefix(f"{file}: "))], None

    def _views(self, path: Path, columns: dict[str, Any], facts: Facts) -> list[tuple[Path, dict[str, Any]]]:
        if facts.panorama is None:
            photo_size(path, "decode")  # a damaged one is found now
            return [(path, columns)]
        if self.cutter is None:
            raise PhotoError(PANORAMA_REASON)
        stated_deg = facts.panorama.heading_deg
        middle_deg = columns["heading_deg"] if stated_deg is None else stated_deg
        return [(view, columns | own) for view, own in self.cutter.views(path, middle_deg, facts.panorama)]

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
            raise PhotoError(f"{facts.position_fault}, and the track has no position at its time")
        return lat, lon, "folder+gpx"

    def _heading(self, facts: Facts, lat_deg: float, lon_deg: float) -> tuple[float | None, str | None]:
        if facts.heading_deg is not None:
            return facts.heading_deg, None
        if facts.magnetic_heading_deg is not None:
            if facts.captured_at is None:
                return None, "magnetic headings left out, of photos without a date"
            try:
                declination = declination_deg(lat_deg, lon_deg, facts.captured_at)
            except MissingExtraError as error:
                return None, f"magnetic headings left out ({error})"
            if declination is None:
                return None, "magnetic headings left out, of a date or place without a magnetic model"
            return (facts.magnetic_heading_deg + declination) % 360, None
        if self.track is not None and self.track_heading and facts.in_utc:
            along = float(self.track.heading_deg(np.array([facts.captured_at], "datetime64[ms]"))[0])
            return (None if math.isnan(along) else along), None
        return None, None
