"""What one photo may cost: reads of its file, scans of a JPEG, and memory, which all threads share."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import BinaryIO

from cellcode.errors import InputError

MAX_MEMORY_BYTES = 1_500_000_000  # to decode one photo, and all that are decoded at the same time
END = b"\xff\xd9"  # of a JPEG
_MAX_READS = 200_000  # half a second; a PNG of a hundred million pixels needs half of them
_SPARE_BYTES = 16_000_000
_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")  # in coded data: neither a stuffed byte nor a restart
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS, _USUAL_SCANS, _MAX_SCANNED_PIXELS = 100, 12, 1e9  # a progressive JPEG has about ten


class PhotoError(InputError):
    """A file that cannot be used as a photo; the sentence gives the reason."""


class Metered(io.BufferedReader):
    """A photo's file whose reads are counted.

    Pillow reads pages, chunks, segments and padding one by one, in Python; a file of 20 MB may have millions of each, and
    directories whose entries all name the same megabytes.
    """

    def __init__(self, source: Path | str | bytes | BinaryIO) -> None:
        if isinstance(source, Path | str):
            super().__init__(io.FileIO(source))
        else:
            if not isinstance(source, bytes):
                source.seek(0)
                source = source.read()
            super().__init__(io.BytesIO(source))  # a reader of bytes is enough
        self.bytes = self.seek(0, io.SEEK_END)
        self.seek(0)
        self._reads, self._bytes_left = 0, 8 * self.bytes + _SPARE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does; PhotoError: so often, or so much, that it is no ordinary photo."""
        data = super().read(size)
        self._reads += 1
        self._bytes_left -= len(data)
        if self._reads > _MAX_READS or self._bytes_left < 0:
            raise PhotoError("built of far more parts than a photo has; save it again with an image editor")
        return data


def check_scans(data: bytes, pixels: int) -> None:
    """Raise PhotoError if a JPEG has many more scans than a photo: each goes over the whole picture, however short it is."""
    most = min(_MAX_SCANS, max(_USUAL_SCANS, int(_MAX_SCANNED_PIXELS / pixels)))
    # Counted twice: markers may lie in the thumbnail or by chance in the camera's own data.
    if data.count(_START_OF_SCAN) > most and sum(1 for _ in _scans(data)) > most:
        raise PhotoError(f"more than {most} scans of {pixels:,} pixels; save it again as an ordinary JPEG")


def has_all_scans(data: bytes, components: set[int], progressive: bool) -> bool:
    """Return True if every coefficient of a JPEG's components is coded to its last bit, in scans that have at least begun."""
    coded = set[tuple[int, int]]()
    for header in _scans(data):
        first, last, bits = header[-3:] if progressive else (0, 63, 0)
        if not bits & 15:
            coded |= {(each, number) for each in header[1:-3:2] for number in range(first, last + 1)}
    return coded >= {(each, number) for each in components for number in range(64)}


def _scans(data: bytes) -> Iterator[bytes]:
    """The headers of a JPEG's scans: number of components, number and tables of each, first and last coefficient, bits."""
    place = 0
    while (marker := _MARKER.search(data, place)) is not None and marker[1] != END[1:]:
        length = int.from_bytes(data[marker.end() : marker.end() + 2])
        place = marker.end() + max(length, 2)
        if marker[1] == _START_OF_SCAN[1:] and length >= 6:
            yield data[marker.end() + 2 : place]


class Memory:
    """A number of bytes that threads share; a request for more than is left waits, and lets smaller ones pass."""

    def __init__(self, size: int) -> None:
        self._left, self._changed = size, Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Take bytes for a block, at most as many as there are."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


MEMORY = Memory(MAX_MEMORY_BYTES)
