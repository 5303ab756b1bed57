"""EXIF of an opened photo, tag by tag: a damaged one costs only itself.

Pillow gives up a directory at the first value that lies outside the file or has a wrong type, so that the position or the
orientation of a photo vanishes with a tag that nobody needs.
"""

import io
import math
import re
import struct
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

from PIL import ExifTags, Image

Tags = dict[int, Any]
# By the type of a tag: how many numbers a value has and their format for struct; of text and bytes, none.
_TYPES = {1: (1, "s"), 2: (1, "s"), 3: (1, "H"), 4: (1, "L"), 5: (2, "L"), 6: (1, "b"), 7: (1, "s"), 8: (1, "h")}
_TYPES |= {9: (1, "l"), 10: (2, "l"), 11: (1, "f"), 12: (1, "d"), 13: (1, "L"), 16: (1, "Q"), 129: (1, "s")}
_TEXTS = (2, 129)
_MAX_VALUE_BYTES, _MAX_TAGS = 4096, 1000  # of one value, and of one directory: what is used is smaller
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class Exif(NamedTuple):
    """The directories of an EXIF, by tag: text as str, bytes, numbers, and tuples of several numbers (NaN for x/0)."""

    main: Tags
    detail: Tags
    gps: Tags


def read_exif(image: Image.Image) -> Exif:
    """Read the EXIF of an opened photo; empty where it has none, without the tags that are damaged.

    Raises:
        ValueError: it has one that is damaged from the beginning.
    """
    file, start = _exif_of(image)
    if file is None:
        return Exif({}, {}, {})
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(16).ljust(16, b"\0")
    order, big = {b"II": "<", b"MM": ">"}.get(head[:2]), b"+" in head[2:4]
    if order is None or sorted(head[2:4]) not in ([0, ord("*")], [0, ord("+")]):
        raise ValueError("the EXIF has no header")
    if start is None:
        (start,) = struct.unpack(order + ("Q" if big else "L"), head[8:16] if big else head[4:8])
    reader = _Reader(file, size, order, big)
    main = reader.directory(start)
    return Exif(main, *(reader.directory(main.get(tag)) for tag in (ExifTags.Base.ExifOffset, ExifTags.Base.GPSInfo)))


def orientation(image: Image.Image) -> int:
    """Return the orientation of an opened photo, 1..8, in EXIF or else in XMP; 1 where none can be read. Never raises.

    A TIFF has 1: Pillow turns it when it is decoded, and gives the upright size before.
    """
    if image.format == "TIFF":
        return 1
    with suppress(Exception):
        value = read_exif(image).main.get(ExifTags.Base.Orientation)
        value = value[0] if isinstance(value, tuple | bytes) else value
        if value is not None and int(value) == float(value) and 1 <= int(value) <= 8:
            return int(value)
    with suppress(Exception):
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        found = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
        return int(found[1]) if found else 1
    return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened photo once its orientation is applied. Never raises."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def _exif_of(image: Image.Image) -> tuple[BinaryIO | None, int | None]:
    """The bytes of the EXIF as a file, and where its first directory is; None: its header says so."""
    if image.format == "PNG" and "exif" not in image.info:
        with suppress(Exception):  # it may come after the pixels; whether these are damaged is found elsewhere
            image.load()
    block, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if not block and isinstance(text, str):
        block = bytes.fromhex("".join(text.split("\n")[3:]))
    if isinstance(block, bytes) and block:
        return io.BytesIO(re.sub(rb"^(Exif\0\0){1,2}", b"", block)), None
    directory, file = getattr(image, "tag_v2", None), getattr(image, "fp", None)
    return (file, directory._offset) if directory is not None and file is not None else (None, None)


class _Reader(NamedTuple):
    """Reads directories of a TIFF structure; a `big` one has numbers of 8 bytes where the other has 4."""

    file: BinaryIO
    size: int
    order: str
    big: bool

    def directory(self, start: object) -> Tags:
        """The tags that can be read; of several of one number the first counts."""
        tags: Tags = {}
        if not isinstance(start, int) or not 0 < start < self.size:
            return tags
        self.file.seek(start)
        form = struct.Struct(self.order + ("HHQ8s" if self.big else "HHL4s"))
        count = int.from_bytes(self.file.read(8 if self.big else 2), "little" if self.order == "<" else "big")
        entries = self.file.read(form.size * min(count, _MAX_TAGS))
        for tag, kind, length, value in form.iter_unpack(entries[: len(entries) // form.size * form.size]):
            if tag not in tags and (data := self._data(kind, length, value)) is not None:
                tags[tag] = data
        return tags

    def _data(self, kind: int, length: int, value: bytes) -> Any:
        """Value of a tag; None if it does not lie in the file, is empty or of an unknown type."""
        each, code = _TYPES.get(kind, (0, "s"))
        size = length * each * struct.calcsize(f"={code}")
        if not 0 < size <= _MAX_VALUE_BYTES:
            return None
        if size > len(value):
            (place,) = struct.unpack(self.order + ("Q" if self.big else "L"), value)
            if place + size > self.size:
                return None
            self.file.seek(place)
            value = self.file.read(size)
        if code == "s":
            return _text(value[:size]) if kind in _TEXTS else value[:size]
        numbers = struct.unpack(f"{self.order}{length * each}{code}", value[:size])
        if each == 2:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            numbers = tuple(above / below if below else math.nan for above, below in pairs)
        return numbers[0] if len(numbers) == 1 else numbers


def _text(data: bytes) -> str:
    """Text up to its first zero: the standard knows ASCII only, today's devices write UTF-8, and older ones Latin-1."""
    data = data.partition(b"\0")[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
