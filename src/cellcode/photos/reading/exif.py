"""EXIF of an opened photo, tag by tag: a damaged one costs only itself.

Pillow gives up a directory at the first value that lies outside the file or has a wrong type, so that the position or the
orientation of a photo vanishes with a tag that nobody needs. Only the tags that are used here are read.
"""

import io
import re
import struct
from collections.abc import Container
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

from PIL import ExifTags, Image

Tags = dict[int, Any]
_Base = ExifTags.Base
_MAIN = {_Base.Make, _Base.Model, _Base.Orientation, _Base.DateTime, _Base.Artist, _Base.ExifOffset, _Base.GPSInfo}
_DETAIL = {_Base.DateTimeOriginal, _Base.SubsecTimeOriginal, _Base.OffsetTimeOriginal, _Base.DateTimeDigitized}
_DETAIL |= {_Base.SubsecTimeDigitized, _Base.OffsetTimeDigitized, _Base.DateTime, _Base.SubsecTime, _Base.OffsetTime}
_DETAIL |= {_Base.FocalLengthIn35mmFilm}
# Formats of struct by the type of a tag; a rational is two numbers, and text and bytes are taken as they are.
_NUMBERS = {3: "H", 4: "L", 5: "L", 6: "b", 8: "h", 9: "l", 10: "l", 11: "f", 12: "d", 13: "L", 16: "Q"}
_RATIONALS, _TEXTS, _BYTES = (5, 10), (2, 129), (1, 7)
_MAX_VALUE_BYTES = 65_536
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
    head = file.read(8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8 or head[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        raise ValueError("the EXIF has no header")
    big = b"+" in head[2:4]
    if start is None:
        (start,) = struct.unpack(f"{order}Q", file.read(8)) if big else struct.unpack(f"{order}L", head[4:])
    reader = _Reader(file, size, order, big)
    main = reader.directory(start, _MAIN)
    detail, gps = main.pop(_Base.ExifOffset, None), main.pop(_Base.GPSInfo, None)
    return Exif(main, reader.directory(detail, _DETAIL), reader.directory(gps, range(32)))


def orientation(image: Image.Image) -> int:
    """Return the orientation of an opened photo, 1..8, in EXIF or else in XMP; 1 where none can be read. Never raises.

    A TIFF has 1: Pillow turns it when it is decoded, and gives the upright size before.
    """
    if image.format == "TIFF":
        return 1
    with suppress(Exception):
        value = read_exif(image).main.get(_Base.Orientation)
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

    def directory(self, start: object, wanted: Container[int]) -> Tags:
        """The wanted tags that can be read; of several of one number the first counts."""
        tags: Tags = {}
        if not isinstance(start, int) or not 0 < start < self.size:
            return tags
        self.file.seek(start)
        form = struct.Struct(self.order + ("HHQ8s" if self.big else "HHL4s"))
        count = self.file.read(8 if self.big else 2)
        number = int.from_bytes(count, "little" if self.order == "<" else "big")
        entries = self.file.read(min(form.size * min(number, 65_536), self.size))
        for tag, kind, length, value in form.iter_unpack(entries[: len(entries) // form.size * form.size]):
            if tag in wanted and tag not in tags and (data := self._data(kind, length, value)) is not None:
                tags[tag] = data
        return tags

    def _data(self, kind: int, length: int, value: bytes) -> Any:
        """Value of a tag; None if it does not lie in the file, is empty or of an unknown type."""
        code = _NUMBERS.get(kind, "B")
        unit = struct.calcsize(f"={code}") * (2 if kind in _RATIONALS else 1)
        known = kind in _NUMBERS or kind in _TEXTS or kind in _BYTES
        if not known or not 0 < length * unit <= _MAX_VALUE_BYTES:
            return None
        if length * unit > len(value):
            (place,) = struct.unpack(self.order + ("Q" if self.big else "L"), value)
            if place + length * unit > self.size:
                return None
            self.file.seek(place)
            value = self.file.read(length * unit)
        data = value[: length * unit]
        if kind in _TEXTS:
            return _text(data)
        if kind in _BYTES:
            return data
        numbers = struct.unpack(f"{self.order}{len(data) // struct.calcsize(f'={code}')}{code}", data)
        if kind in _RATIONALS:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            numbers = tuple(above / below if below else float("nan") for above, below in pairs)
        return numbers[0] if len(numbers) == 1 else numbers


def _text(data: bytes) -> str:
    """Text up to its first zero: the standard knows ASCII only, today's devices write UTF-8, and older ones Latin-1."""
    data = data.partition(b"\0")[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
