"""The size of every photo of a list, and whether it can be read: decoded whole, by its header, or taken on trust."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from PIL import ExifTags

from cellcode.errors import InputError
from cellcode.photos.reading.exif import TURNED
from cellcode.photos.reading.image import PhotoError, open_photo, read_image
from cellcode.photos.table.item import Batch, Reject
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.progress import Meter
from cellcode.types import Int64

Check = Literal["decode", "header", "none"]
_PHOTOS = 10_000  # a pool keeps all its tasks in memory


def measure(rows: pa.Table, lines: Int64, root: Path, how: Check, name: str) -> Iterator[Batch]:
    """Yield the photos with their width and height, upright; those that cannot be read are rejects.

    Args:
        rows: of the photo table's schema; width and height are those of the list, or 0.
        lines: (N,) int64 numbers in the list.
        root: what `file` is relative to.
        how: "decode" reads every photo whole, so that a damaged one is found here and not in the middle of a training;
            "header" only opens it; "none" does not touch the files.
        name: of the list, for messages.

    Raises:
        InputError: "none", and a photo's size is not in the list.
    """
    if how == "none":
        unknown = (rows["width_px"].to_numpy() == 0) | (rows["height_px"].to_numpy() == 0)
        if unknown.any():
            raise InputError(
                f"{name}: --check none needs the columns width and height, which line {lines[unknown][0]} lacks; "
                "--check header reads sizes from the photos' headers"
            )
        yield Batch(rows)
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads, Meter("reading photos", len(rows)) as meter:
        for first in range(0, len(rows), _PHOTOS):
            some, numbers = rows.slice(first, _PHOTOS), lines[first : first + _PHOTOS]
            files = some["file"].to_pylist()
            sizes: list[tuple[int, int] | str] = []
            for size in threads.map(lambda file: _size(root / file, how), files):
                sizes.append(size)
                meter.advance()
            rejects = [
                Reject(file, int(number), size)
                for file, number, size in zip(files, numbers, sizes, strict=True)
                if isinstance(size, str)
            ]
            yield Batch(_with_sizes(some, sizes), rejects)


def _size(path: Path, how: Check) -> tuple[int, int] | str:
    """Width and height of the upright picture, or why it cannot be read."""
    try:
        if how == "decode":
            with read_image(path) as image:
                return image.size
        with open_photo(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
            return image.size[::-1] if turned else image.size
    except PhotoError as error:
        return str(error).removeprefix(f"{path}: ")
    except Exception:  # Pillow raises anything on damaged tags
        return "its EXIF is damaged"


def _with_sizes(rows: pa.Table, sizes: list[tuple[int, int] | str]) -> pa.Table:
    known = [size for size in sizes if isinstance(size, tuple)]
    usable = pa.array(np.array([isinstance(size, tuple) for size in sizes], bool))
    rows = rows.filter(usable)
    for name, values in (("width_px", [w for w, _ in known]), ("height_px", [h for _, h in known])):
        index = SCHEMA.get_field_index(name)
        rows = rows.set_column(index, SCHEMA.field(index), pa.array(values, pa.int32()))
    return rows
