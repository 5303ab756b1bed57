"""A folder of WebDataset shards: tar files with KEY.jpg and KEY.json side by side; the JSON has the columns of a list."""

import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cellcode.errors import InputError
from cellcode.files import sampled_digest
from cellcode.photos.reading.image import reason_of
from cellcode.photos.sources.archives import Member, name_fault, place
from cellcode.photos.sources.checks import Listed
from cellcode.photos.sources.folder import SUFFIXES, files_below
from cellcode.photos.sources.list_files import LINES, Lines, PhotoList, array_of
from cellcode.photos.sources.lists import ListedSource
from cellcode.photos.table.versions import versioned
from cellcode.progress import track

logger = logging.getLogger(__name__)
KEY = "__key__"
_MAX_JSON_BYTES = 16_000_000
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
        self._folder, self._samples, self._others = folder, dict[str, _Sample](), Counter[str]()
        shards = shard_files(folder)
        if not shards:
            raise InputError(f"{folder} holds no shards ({', '.join(_SHARDS)})")
        for path in track(shards, "reading shards", len(shards)):
            self._read_shard(path)
        if self._others:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._others.most_common())
            logger.info("%s: %s files in shards passed over: %s", folder, f"{self._others.total():,}", kinds)
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
            yield Lines(numbers, {**columns, "file": array_of(some)}, faults)

    def _read_shard(self, path: Path) -> None:
        shard = path.relative_to(self._folder).as_posix()
        stem = shard.removesuffix(next(suffix for suffix in _SHARDS if shard.endswith(suffix)))
        try:
            digest = sampled_digest(path)
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile():
                        version = f"{digest} {member.size} {member.mtime} {member.offset}"
                        self._add(tar, member, shard, stem, version)
        except Exception as error:  # tarfile raises anything on damaged files
            self._samples[shard] = _Sample(
                fault=f"the shard is damaged ({reason_of(error)}); what comes before is used"
            )

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, shard: str, stem: str, version: str) -> None:
        """Sort one member in: its name up to the first dot is the key, the rest is its kind."""
        path = PurePosixPath(member.name)
        name, _, kind = path.name.partition(".")
        key, kind = (PurePosixPath(stem) / path.parent / name).as_posix(), kind.lower()
        if (suffix := "." + kind.split(".")[-1]) not in SUFFIXES | {".json"}:
            self._others[suffix if kind else "without a suffix"] += 1
            return
        if fault := "its name has a further dot" if "." in kind else name_fault(member.name):
            self._samples[f"{stem}/{member.name}"] = _Sample(fault=fault)
            return
        sample = self._samples.setdefault(key, _Sample())
        if kind == "json":
            sample.properties, fault = _properties(tar, member)
            sample.fault = sample.fault or fault
        elif sample.photo is not None:
            sample.fault = "two photos under one key"
        else:
            sample.photo = Member(shard, member.name, member.size, versioned(f"images/{key}.{kind}", version))


def is_shards(folder: Path) -> bool:
    """Return True if a folder holds shards and no photos."""
    return bool(shard_files(folder)) and not any(each.suffix.lower() in SUFFIXES for each in files_below(folder))


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a folder and below it, in the order of their names."""
    return [path for path in files_below(folder) if path.name.endswith(_SHARDS) and path.is_file()]


def _properties(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[dict[str, Any] | None, str | None]:
    if member.size > _MAX_JSON_BYTES:
        return None, f"its JSON is over the limit of {_MAX_JSON_BYTES / 1e6:.0f} MB"
    stream = tar.extractfile(member)
    try:
        value = json.loads(stream.read() if stream is not None else b"")
    except (ValueError, RecursionError):
        return None, "its JSON is damaged"
    return (value, None) if isinstance(value, dict) else (None, "its JSON is no object")
