"""A folder of WebDataset shards: tar files with KEY.jpg and KEY.json side by side; the JSON has the columns of a list."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from cellcode.errors import InputError
from cellcode.photos.sources.archives import Member, is_safe, place
from cellcode.photos.sources.checks import Listed
from cellcode.photos.sources.folder import SUFFIXES
from cellcode.photos.sources.list_files import LINES, Lines, PhotoList, array_of
from cellcode.photos.sources.lists import ListedSource
from cellcode.progress import track

KEY = "__key__"
_PHOTOS = ("jpg", "jpeg", "png", "webp")
_SHARDS = (".tar", ".tar.gz", ".tgz")


@dataclass
class _Sample:
    properties: dict[str, Any] | None = None
    photo: Member | None = None
    fault: str | None = None

    def reason(self) -> str | None:
        if self.fault is not None:
            return self.fault
        if self.photo is None:
            return "no photo beside its JSON"
        return "no JSON beside the photo" if self.properties is None else None


class WebDatasetSource(ListedSource):
    """A folder of WebDataset shards; its photos are unpacked into OUT/images."""

    def listed(self) -> Listed:
        """See `ListedSource`."""
        path = Path(self.argument)
        photos, confirm = TarList(path), self.options.confirm
        listed = self.select(photos, path, "webdataset", {**self.options.columns, "file": KEY})
        return place(listed, photos.places, lambda name: (path / name).open("rb"), self.out, confirm, str(path))


class TarList(PhotoList):
    """The samples of all shards in a folder; `places` has the photo of each key, SHARD/KEY. InputError: no shards."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._samples = folder, dict[str, _Sample]()
        shards = shard_files(folder)
        if not shards:
            raise InputError(f"{folder} holds no shards ({', '.join(_SHARDS)})")
        for path in track(shards, "reading shards", len(shards)):
            self._read_shard(path)
        self.places = {key: each.photo for key, each in self._samples.items() if each.photo and not each.reason()}
        self.names = list(
            {KEY: None} | {name: None for each in self._samples.values() for name in each.properties or {}}
        )

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """See `PhotoList`; a line is a sample."""
        keys = list(self._samples)
        for first in range(0, len(keys), LINES):
            some = keys[first : first + LINES]
            samples = [self._samples[key] for key in some]
            properties = [each.properties or {} for each in samples]
            columns = {name: array_of([each.get(column) for each in properties]) for name, column in wanted.items()}
            faults = {row: reason for row, each in enumerate(samples) if (reason := each.reason()) is not None}
            numbers = np.arange(first + 1, first + 1 + len(some), dtype=np.int64)
            yield Lines(numbers, {**columns, "file": pa.array(some, pa.string())}, faults)

    def _read_shard(self, path: Path) -> None:
        shard = path.relative_to(self._folder).as_posix()
        stem = shard.removesuffix(next(suffix for suffix in _SHARDS if shard.endswith(suffix)))
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile():
                        self._add(tar, member, shard, stem)
        except (OSError, tarfile.TarError, EOFError) as error:
            self._samples[shard] = _Sample(fault=f"the shard is damaged ({error}); what comes before is used")

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, shard: str, stem: str) -> None:
        """Sort one member in: its name up to the first dot is the key, the rest is its kind."""
        path = PurePosixPath(member.name)
        name, _, kind = path.name.partition(".")
        key, kind = (PurePosixPath(stem) / path.parent / name).as_posix(), kind.lower()
        if kind.split(".")[-1] not in (*_PHOTOS, "json"):
            return
        if "." in kind or not is_safe(member.name):
            why = "its name has a further dot" if "." in kind else "its name leads out of its folder"
            self._samples[f"{stem}/{member.name}"] = _Sample(fault=why)
            return
        sample = self._samples.setdefault(key, _Sample())
        if kind == "json":
            sample.properties, fault = _properties(tar, member)
            sample.fault = sample.fault or fault
        elif sample.photo is not None:
            sample.fault = "two photos under one key"
        else:
            sample.photo = Member(shard, member.name, member.size, f"images/{key}.{kind}")


def is_shards(folder: Path) -> bool:
    """Return True if a folder holds shards and no photos."""
    return bool(shard_files(folder)) and not any(each.suffix.lower() in SUFFIXES for each in folder.rglob("*"))


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a folder and below it, in the order of their names."""
    return sorted(path for path in folder.rglob("*.t*") if path.name.endswith(_SHARDS) and path.is_file())


def _properties(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[dict[str, Any] | None, str | None]:
    stream = tar.extractfile(member)
    try:
        value = json.loads(stream.read() if stream is not None else b"")
    except ValueError:
        return None, "its JSON is damaged"
    return (value, None) if isinstance(value, dict) else (None, "its JSON is no object")
