"""Location of many photos that may be interrupted: answers are kept as they come, and the same call resumes."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cellcode.client.answers import Answer, Failure
from cellcode.errors import InputError
from cellcode.files import locked, sha256
from cellcode.geography import Region
from cellcode.progress import Meter
from cellcode.search import answer_files
from cellcode.search.locator import Locator


class Unfinished:
    """Answers of a call that has not ended, one JSON object a line in OUT.partial.jsonl.

    The first line says of which call; every other holds a photo's size and time of change beside its answer, so that a
    photo that has changed since is located again. A line that was cut off is dropped. Use as a context manager.

    Args:
        out: the file that the call makes.
        call: what the answers depend on besides the photos.

    Raises:
        InputError: the file is of a call that would give other answers.
    """

    def __init__(self, out: Path, call: dict[str, Any]) -> None:
        self.path = partial_path(out)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, tuple[int, int, int]] = {}  # of each photo: size, time of change, place of its line
        self._header = json.dumps(call).encode() + b"\n"
        self._file = self.path.open("a+b")
        try:
            self._take_up(call)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.path.stat().st_size:
            self.path.unlink()

    def answered(self, photo: Path) -> bool:
        """Return True if the photo, as it is on disk now, has an answer here. One that could not be read has none."""
        place = self._places.get(str(photo))
        return place is not None and place[:2] == _state(photo)

    def add(self, photo: Path, result: Answer | Failure) -> None:
        """Keep what a photo was answered with."""
        size, changed = _state(photo)
        end = self._file.seek(0, os.SEEK_END)
        if not end:
            end = self._file.write(self._header)
        self._places[str(photo)] = size, changed, end
        line = {"bytes": size, "changed_ns": changed, "result": result.to_json()}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def flush(self) -> None:
        """Hand what was added to the system, so that it outlives the process."""
        self._file.flush()

    def result(self, photo: Path) -> answer_files.Row:
        """Return what a photo was answered with, as JSON."""
        self._file.seek(self._places[str(photo)][2])
        row: answer_files.Row = json.loads(self._file.readline())["result"]
        return row

    def discard(self) -> None:
        """Forget every answer: they are where they belong now."""
        self._places.clear()
        self._file.truncate(0)

    def _take_up(self, call: dict[str, Any]) -> None:
        self._file.seek(0)
        first = True
        while line := self._file.readline():
            start = self._file.tell() - len(line)
            value = _parsed(line)
            if value is None:
                self._file.truncate(start)
                break
            if first and value != call:
                raise InputError(
                    f"{self.path} holds the answers of an interrupted call with another database, --top or --region; "
                    "repeat that call, or delete the file"
                )
            if not first and "error" not in value["result"]:
                self._places[value["result"]["file"]] = value["bytes"], value["changed_ns"], start
            first = False


def partial_path(out: Path) -> Path:
    """Return where the answers are kept until `out` is complete."""
    return out.with_name(f"{out.name}.partial.jsonl")


def locate_to(
    out: Path, locator: Locator, photos: Sequence[Path], *, top: int = 5, region: str | None = None
) -> tuple[int, int]:
    """Locate photos and write their answers to a file; see `answer_files.write`.

    The answers are kept in OUT.partial.jsonl until the file is complete. The same call resumes an interrupted one; photos that
    have changed or could not be read are tried again.

    Returns:
        How many photos were located, and how many could not be read.

    Raises:
        UsageError: the ending of the name is unknown, `top` is below 1, or the region cannot be understood.
        InputError: no cell lies in the region; another call's answers are kept beside `out`; another process writes it.
    """
    answer_files.check(out)
    searched = Region.of(region)
    call = {"database": locator.database.identity, "top": top, "region": _region_key(region)}
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with locked(lock):
        try:
            with Unfinished(out, call) as kept:
                todo = [photo for photo in photos if not kept.answered(photo)]
                failed = 0
                with Meter("locating", len(todo)) as meter:
                    if len(todo) < len(photos):
                        meter.note(f"{len(photos) - len(todo)} more kept from an interrupted call")
                    results = locator.locate_many(todo, top=top, region=searched)
                    for photo, result in zip(todo, results, strict=True):
                        kept.add(photo, result)
                        kept.flush()
                        failed += isinstance(result, Failure)
                        meter.advance()
                answer_files.write(out, (kept.result(photo) for photo in photos), top)
                kept.discard()
        finally:
            lock.unlink(missing_ok=True)
    return len(photos) - failed, failed


def _state(photo: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; -1 for both where there is no such file."""
    try:
        found = photo.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the object of a whole line, None of one that was cut off."""
    if not line.endswith(b"\n"):
        return None
    try:
        value: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return value


def _region_key(region: str | None) -> str | None:
    """The region as it was given; a file's content goes with its name."""
    if region is None:
        return None
    path = Path(region.strip().removeprefix("not:").strip().removeprefix("cells:").strip())
    return f"{region} {sha256(path)}" if path.is_file() else region
