"""Photos in zip and tar archives: the wanted ones are unpacked, once, and nothing else."""

import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from cellcode.files import atomic_path
from cellcode.photos.reading.image import reason_of
from cellcode.photos.sources.checks import Listed
from cellcode.photos.sources.consent import require_consent, size_text
from cellcode.photos.sources.protocol import relative_file
from cellcode.photos.table.item import Reject, keep
from cellcode.photos.table.photo_table import with_columns
from cellcode.progress import Meter


@dataclass(frozen=True)
class Member:
    """A photo in an archive, whose name is that in the folder, and where it is unpacked to, under OUT."""

    archive: str
    name: str
    size_bytes: int
    target: str


Places = Mapping[str, Member | Path]
Open = Callable[[str], BinaryIO]


def place(
    listed: Listed, places: Places, open_archive: Open, out: Path, confirm: Callable[[str], bool], notice: str
) -> Listed:
    """Unpack the photos of a list. Those that are unpacked already are not again, so an interrupted run resumes.

    Args:
        listed: its `file` is the name of a photo in `places`.
        places: members of archives, or files that stay where they are.
        open_archive: opens an archive by its name, for reading at any place.
        out: `file` of the result is relative to it.
        notice: what the photos are and under which licence, for people.

    Raises:
        UsageError: much is to be unpacked, which was not confirmed.
    """
    names = listed.rows["file"].to_pylist()
    members = {name: found for name in names if isinstance(found := places.get(name), Member)}
    todo = {name: member for name, member in members.items() if not _is_there(out / member.target, member.size_bytes)}
    size = sum(member.size_bytes for member in todo.values())
    notice = f"{notice}: {len(names):,} photos, {len(todo):,} of them to unpack, {size_text(size)}"
    require_consent(confirm, notice, len(todo), size)
    faults = {name: "not among the photos that are there" for name in names if name not in places}
    faults |= _unpack(todo, open_archive, out)
    usable_places = (places[name] for name in names if name not in faults)
    files = [each.target if isinstance(each, Member) else relative_file(each, out) for each in usable_places]
    usable = np.array([name not in faults for name in names], bool)
    rows = with_columns(keep(listed.rows, usable), file=files)
    lost = compress(zip(names, listed.numbers, strict=True), ~usable)
    rejects = [*listed.rejects, *(Reject(name, int(number), faults[name]) for name, number in lost)]
    return replace(listed, rows=rows, numbers=listed.numbers[usable], rejects=rejects)


def is_safe(name: str) -> bool:
    """Return True if a path out of an archive stays in the folder that it is unpacked to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name


def _is_there(path: Path, size_bytes: int) -> bool:
    """A file is written whole or not at all; another photo of the same name has another size."""
    return path.is_file() and path.stat().st_size == size_bytes


def _unpack(todo: Mapping[str, Member], open_archive: Open, out: Path) -> dict[str, str]:
    """Unpack members, archive by archive; returns the reason for each photo that could not be."""
    by_archive: dict[str, dict[str, str]] = defaultdict(dict)
    for name, member in todo.items():
        by_archive[member.archive][member.name] = name
    faults = {}
    with Meter("unpacking photos", len(todo)) as meter:
        for archive, wanted in sorted(by_archive.items()):
            left = dict(wanted)
            try:
                with open_archive(archive) as file:
                    for member_name, content in _contents(archive, file, wanted):
                        name = left.pop(member_name)
                        if isinstance(content, str):
                            faults[name] = content
                        else:
                            with atomic_path(out / todo[name].target) as temporary:
                                temporary.write_bytes(content)
                        meter.advance()
            except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
                faults |= dict.fromkeys(left.values(), f"{archive} cannot be read to its end ({reason_of(error)})")
                continue
            faults |= dict.fromkeys(left.values(), f"not in {archive} any more")
    return faults


def _contents(archive: str, file: BinaryIO, wanted: Iterable[str]) -> Iterator[tuple[str, bytes | str]]:
    """Yield the bytes of members, or why one is damaged."""
    if archive.endswith(".zip"):
        with zipfile.ZipFile(file) as opened:
            for name in wanted:
                try:
                    yield name, opened.read(name)
                except KeyError:
                    continue
                # The last two: an unknown kind of compression, or encrypted.
                except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
                    yield name, f"damaged in {archive} ({reason_of(error)})"
        return
    names = set(wanted)
    with tarfile.open(fileobj=file) as tar:  # by its order: a compressed one cannot be read in another
        for member in tar:
            if member.name in names and (stream := tar.extractfile(member)) is not None:
                names.discard(member.name)
                yield member.name, stream.read()
