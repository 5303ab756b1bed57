"""A process that decodes photos for the service: unlike a thread, it can be ended. `decoding` starts it and talks to it.

It reads a line of JSON and the bytes of a photo from its standard input, requests the memory that it needs, and writes a
line of JSON and the pixels to its standard output, until its input ends.
"""

import json
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_SPARE_BYTES = 1_500_000_000  # addresses of Python and the libraries


class RefusedError(Exception):
    """The memory that a photo needs is not to be had here."""


@dataclass(frozen=True)
class _Asked:
    """Memory that the service counts for all of its workers, with the methods of `limits.Memory`."""

    requests: BinaryIO
    answers: BinaryIO

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Take bytes; they are given back with the answer. RefusedError: the service does not grant them."""
        _write(self.answers, {"memory": size})
        if self.requests.readline() != b"granted\n":
            raise RefusedError
        yield


def main() -> None:
    """Answer until the input ends."""
    # The package's own __init__ loads all of photos, which takes a second; decoding needs `reading` alone.
    package = types.ModuleType("cellcode.photos")
    package.__path__ = [str(Path(__file__).parents[1] / "photos")]
    sys.modules["cellcode.photos"] = package
    from cellcode.photos.reading import facts, limits  # noqa: F401  # facts: loaded before the first photo comes

    _limit_memory(limits.MAX_MEMORY_BYTES + _SPARE_BYTES)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not get among the answers
    limits.MEMORY = _Asked(requests, answers)  # type: ignore[assignment]
    _write(answers, {"ready": True})
    while line := requests.readline():
        asked = json.loads(line)
        result, pixels = _answer(requests.read(asked.pop("bytes")), **asked)
        _write(answers, result, pixels)


def _write(answers: BinaryIO, facts: dict[str, Any], pixels: bytes = b"") -> None:
    answers.write(json.dumps(facts).encode() + b"\n" + pixels)
    answers.flush()


def _answer(data: bytes, **spec: Any) -> tuple[dict[str, Any], bytes]:
    from cellcode.photos.reading.facts import read_facts
    from cellcode.photos.reading.image import PhotoError, PhotoSpec, PhotoTooLargeError, open_photo, read_pixels

    try:
        pixels = read_pixels(data, PhotoSpec(**spec))
    except RefusedError:
        return {"refused": True}, b""
    except PhotoError as error:
        return {"error": str(error), "too_large": isinstance(error, PhotoTooLargeError)}, b""
    try:
        facts = read_facts(open_photo(data, spec["max_pixels"]), "photo")
        position = (facts.lat_deg, facts.lon_deg, facts.heading_deg)
    except PhotoError:  # it has no position
        position = None
    return {"shape": pixels.shape, "position": position}, pixels.tobytes()


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (size if most == resource.RLIM_INFINITY else min(size, most), most))


if __name__ == "__main__":
    main()
