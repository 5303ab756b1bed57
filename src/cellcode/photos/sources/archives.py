"""Photos in zip and tar archives: the wanted ones are unpacked, once, and nothing else."""

import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import numpy as np

from cellcode.files import atomic_path
from cellcode.photos.reading.image import PhotoError, reason_of
from cellcode.photos.sources.checks import Listed
from cellcode.photos.sources.consent import require_consent, size_text
from cellcode.photos.sources.protocol import relative_file, utf8_fault
from cellcode.photos.table.item import Reject, keep
from cellcode.photos.table.photo_table import with_columns
from cellcode.progress import Meter

MAX_MEMBER_BYTES = 512_000_000
_TOO_LARGE = f"over the limit of {MAX_MEMBER_BYTES / 1e6:.0f} MB for a photo in an archive"
_PART_BYTES = 1 << 20
_MAX_NAME_BYTES = 200


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
    faults = {name: "not among the photos that are there" for name in names if name not in places}
    faults |= {name: _TOO_LARGE for name, member in members.items() if member.size_bytes > MAX_MEMBER_BYTES}
    members = {name: member for name, member in members.items() if name not in faults}
    todo = {name: member for name, member in members.items() if not _is_there(out / member.target, member.size_bytes)}
    size = sum(member.size_bytes for member in todo.values())
    notice = f"{notice}: {len(names):,} photos, {len(todo):,} of them to unpack, {size_text(size)}"
    require_consent(confirm, notice, len(todo), size)
    faults |= _unpack(todo, open_archive, out)
    usable_places = (places[name] for name in names if name not in faults)
    files = [each.target if isinstance(each, Member) else relative_file(each, out) for each in usable_places]
    usable = np.array([name not in faults for name in names], bool)
    rows = with_columns(keep(listed.rows, usable), file=files)
    lost = compress(zip(names, listed.numbers, strict=True), ~usable)
    rejects = [*listed.rejects, *(Reject(name, int(number), faults[name]) for name, number in lost)]
    return replace(listed, rows=rows, numbers=listed.numbers[usable], rejects=rejects)


def name_fault(name: str) -> str | None:
    """Return why a path out of an archive cannot be that of a file in the folder that it is unpacked to, None if it can."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        return "its name leads out of its folder"
    if fault := utf8_fault(name):
        return fault
    return "its name is too long" if any(len(part.encode()) > _MAX_NAME_BYTES for part in path.parts) else None


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
                for member_name, parts in _members(archive, open_archive, wanted):
                    name = left.pop(member_name)
                    try:
                        with atomic_path(out / todo[name].target) as temporary, temporary.open("wb") as file:
                            file.writelines(parts)
                    except PhotoError as error:
                        faults[name] = str(error)
                    meter.advance()
            except PhotoError as error:
                faults |= dict.fromkeys(left.values(), str(error))
                continue
            faults |= dict.fromkeys(left.values(), f"not in {archive} any more")
    return faults


def _members(archive: str, open_archive: Open, wanted: Iterable[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the wanted members that are there, in parts; PhotoError: the archive, or at a next part the member, is damaged."""
    names = set(wanted)
    try:
        with open_archive(archive) as file:
            if archive.endswith(".zip"):
                with zipfile.ZipFile(file) as zipped:
                    for name in sorted(names.intersection(zipped.namelist())):
                        yield name, _parts(archive, zipped.open, name)
                return
            with tarfile.open(fileobj=file) as tar:  # by its order: a compressed one cannot be read in another
                for member in tar:
                    if member.name in names and member.isfile():
                        names.discard(member.name)
                        yield member.name, _parts(archive, tar.extractfile, member)
    except Exception as error:  # zipfile and tarfile raise anything on damaged files
        raise PhotoError(f"{archive} cannot be read to its end ({reason_of(error)})") from None


def _parts(archive: str, open_member: Callable[[Any], IO[bytes] | None], member: Any) -> Iterator[bytes]:
    try:
        with open_member(member) or BytesIO() as stream:
            while part := stream.read(_PART_BYTES):
                yield part
    except Exception as error:  # as above
        raise PhotoError(f"damaged in {archive} ({reason_of(error)})") from None
