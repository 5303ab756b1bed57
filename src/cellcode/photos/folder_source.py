"""The first door: a folder of photos whose EXIF says where they were taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from cellcode.errors import InputError
from cellcode.photos.exif import TURNED, read_facts
from cellcode.photos.image import PhotoError, open_photo, read_image
from cellcode.photos.item import Item, Reject
from cellcode.progress import track

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif"}


def read_folder(folder: Path) -> Iterator[Item]:
    """Yield a row or a reject for every photo in the folder and below it, in the order of their names.

    Hidden files and folders and files of other kinds are passed over. Every photo is decoded once, so that a damaged one
    is found here and not in the middle of a training.

    Raises:
        InputError: the folder does not exist or holds no photos.
    """
    files = photo_files(folder)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        rows = threads.map(lambda path: _row(path, folder), files)
        yield from track(rows, "reading photos", len(files))


def photo_files(folder: Path) -> list[Path]:
    """Return the photos of a folder and below it by their suffix, in the order of their names, hidden ones left out.

    Raises:
        InputError: the folder does not exist or holds no photos.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if _is_photo(path.relative_to(folder)) and path.is_file())
    if not files:
        raise InputError(f"{folder} holds no photos ({', '.join(sorted(SUFFIXES))})")
    return files


def _is_photo(relative: Path) -> bool:
    return relative.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _row(path: Path, folder: Path) -> Item:
    file = path.relative_to(folder).as_posix()
    try:
        image = open_photo(path)
        facts = read_facts(image, file)
        width, height = image.size
        if image.getexif().get(0x0112) in TURNED:
            width, height = height, width
        read_image(path)
    except PhotoError as error:
        return Reject(file, None, str(error).removeprefix(f"{path}: ").removeprefix(f"{file}: "))
    return {**asdict(facts), "file": file, "split": "train", "source": "folder", "width_px": width, "height_px": height}
