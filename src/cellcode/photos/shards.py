"""Packed photos: the photo table in many Parquet files, the images in tar files that are read from end to end.

    SHARDS/manifest.json            what was packed and how; written last
    SHARDS/shards.parquet           for each shard its split, name, numbers of photos and of groups
    SHARDS/train/000000.tar         KEY.jpg and KEY.json of every photo, the layout of WebDataset
    SHARDS/train/000000.parquet     rows of the photo table in the order of the tar, and where each image lies in it

Photos of one place lie together in groups, and the groups in random order: whoever reads a few shards has pairs of photos
of one place, from places all over the region. SHARDS is a folder or an address such as s3://BUCKET/SHARDS, which pyarrow
opens; keys and endpoint of a store come from the environment.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.photos.image import PhotoError
from cellcode.photos.table import SCHEMA

FORMAT, VERSION = "cellcode-shards", 1
MANIFEST, SHARDS = "manifest.json", "shards.parquet"
INDEX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),  # of the tar, KEY and the kind of image
        pa.field("offset", pa.int64(), nullable=False),  # of the image's first byte in the tar
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),  # photos of one place; rises along the shards of a split
    ]
)
PART_SCHEMA = pa.schema([*SCHEMA, *INDEX])
SHARDS_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("photos", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),  # of the tar
        pa.field("groups", pa.list_(pa.int32()), nullable=False),  # how many groups of 1, 2, ... photos
    ]
)
_NEEDED = ["lat_deg", "lon_deg", "member", "offset", "bytes", "crc32", "group"]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LoadedShard:
    """A shard in memory, its images as they were packed.

    Attributes:
        name: of the tar, for messages.
        data: the tar's bytes; fewer than there should be if it is damaged, none if it is missing.
        missing: why there are none; empty otherwise.
        index: columns of its Parquet file.
    """

    name: str
    data: memoryview
    missing: str
    index: dict[str, npt.NDArray[Any]]

    def image(self, row: int) -> bytes:
        """Return the bytes of a photo's image.

        Raises:
            PhotoError: they are not those that were packed.
        """
        start, size = int(self.index["offset"][row]), int(self.index["bytes"][row])
        image = bytes(self.data[start : start + size])
        if len(image) < size or zlib.crc32(image) != self.index["crc32"][row]:
            reason = self.missing or ("ends before it" if len(image) < size else "its bytes are not those packed")
            raise PhotoError(f"{self.name}, {self.index['member'][row]}: {reason}")
        return image


@dataclass(frozen=True)
class ShardList:
    """The shards of one split.

    Attributes:
        names: in the order of their photos.
        photos: photos of each shard, int64 (S,).
        groups: groups of 1, 2, ... photos of each shard, int64 (S, G).
    """

    names: list[str]
    photos: Int64
    groups: Int64

    @cached_property
    def starts(self) -> Int64:
        """Number of each shard's first photo among those of the split, (S,)."""
        return np.cumsum(self.photos) - self.photos


class PackedPhotos:
    """Packed photos, opened for reading. `PackedPhotos.open` makes one.

    Attributes:
        manifest: see docs/formats.md.
    """

    def __init__(self, place: str, files: fs.FileSystem, root: str, manifest: dict[str, Any]) -> None:
        self.place, self.manifest = place, manifest
        self._files, self._root = files, root

    @classmethod
    def open(cls, place: Path | str) -> Self:
        """Open a folder, or an address that pyarrow knows, such as s3://bucket/shards.

        Raises:
            InputError: there are no packed photos, or they were not packed to the end, or are of another version.
        """
        shown = str(place).rstrip("/")
        try:
            files, root = _file_system(shown)
            with files.open_input_stream(f"{root}/{MANIFEST}") as stream:
                manifest = json.loads(stream.read())
        except FileNotFoundError:
            raise InputError(
                f"{shown} holds no packed photos (no {MANIFEST}); make them, or finish making them, with `cellcode pack`"
            ) from None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{shown}/{MANIFEST} cannot be read ({str(error).splitlines()[0]})") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            raise InputError(f"{shown}/{MANIFEST} is not a {FORMAT} of version {VERSION}; pack the photos again")
        return cls(shown, files, root, manifest)

    @property
    def identity(self) -> str:
        """Digest of the photos, their positions and how they were packed."""
        return str(self.manifest["identity"])

    def shards(self, split: str) -> ShardList:
        """Return the shards of a split; none if no photo is of it."""
        rows = self._table(SHARDS)
        rows = rows.filter(pc.equal(rows["split"], split))
        groups = rows.column("groups").to_pylist()
        wide = np.array(groups, np.int64).reshape(len(groups), -1) if groups else np.zeros((0, 1), np.int64)
        return ShardList(rows.column("name").to_pylist(), rows.column("photos").to_numpy().astype(np.int64), wide)

    def rows(self, split: str, name: str) -> pa.Table:
        """Return the rows of the photo table of one shard."""
        return self._table(f"{split}/{name}.parquet", SCHEMA.names)

    def cells(self, split: str, level: int) -> npt.NDArray[np.uint64]:
        """Return the distinct cells with photos of a split, sorted, holding one shard's positions at a time."""
        found = np.zeros(0, np.uint64)
        for name in self.shards(split).names:
            part = self._table(f"{split}/{name}.parquet", ["lat_deg", "lon_deg"])
            ids = s2.cell_ids(part.column("lat_deg").to_numpy(), part.column("lon_deg").to_numpy(), level)
            found = np.union1d(found, ids)
        return found

    def load(self, split: str, name: str) -> LoadedShard:
        """Read a shard. A tar that is missing or cut gives photos that cannot be read, an index that is missing raises.

        Raises:
            InputError: the shard's Parquet file cannot be read.
        """
        part = self._table(f"{split}/{name}.parquet", _NEEDED)
        index = {column: part.column(column).to_numpy(zero_copy_only=False) for column in _NEEDED}
        data, missing = memoryview(b""), ""
        try:
            data = self._read(f"{split}/{name}.tar")
        except (OSError, pa.ArrowException) as error:
            missing = f"the shard cannot be read ({str(error).splitlines()[0]})"
        return LoadedShard(f"{self.place}/{split}/{name}.tar", data, missing, index)

    def _read(self, name: str) -> memoryview:
        """Read a file in one piece: as a stream of unknown length it would be gathered from pieces and copied."""
        with self._files.open_input_file(f"{self._root}/{name}") as file:
            return memoryview(file.read_buffer(file.size()))

    def _table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(pa.BufferReader(self._read(name)), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.place}/{name} cannot be read ({str(error).splitlines()[0]})") from None


def is_packed(place: Path | str) -> bool:
    """Tell packed photos, here or in a store, from the folder of a photo table."""
    if "://" in str(place):
        return True
    try:
        return bool(json.loads((Path(place) / MANIFEST).read_text(encoding="utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def _file_system(place: str) -> tuple[fs.FileSystem, str]:
    if "://" not in place:
        return fs.LocalFileSystem(), str(Path(place).resolve())
    files, root = fs.FileSystem.from_uri(place)
    return files, root.rstrip("/")
