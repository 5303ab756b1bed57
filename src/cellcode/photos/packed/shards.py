"""Packed photos: the photo table in many Parquet files, the images in tar files that are read from end to end.

    SHARDS/manifest.json            what was packed and how, sizes and digests of all files; written last
    SHARDS/shards.parquet           for each shard its split, name, numbers of photos and of groups
    SHARDS/train/000000.tar         KEY.jpg and KEY.json of every photo, the layout of WebDataset
    SHARDS/train/000000.parquet     rows of the photo table in the order of the tar, and where each image lies in it

Photos of one place lie together in groups, and the groups in random order: whoever reads a few shards has pairs of photos
of one place, from places all over the region. SHARDS is a folder or an address such as s3://BUCKET/SHARDS, which pyarrow
opens; keys and endpoint of a store come from the environment. A region whose photo table is too large for one packing is
packed in parts: SHARDS/PART/manifest.json for each, and none in SHARDS itself, which then stands for all of its photos.
"""

import hashlib
import json
import zlib
from collections import Counter
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
from cellcode.integrity import Kind
from cellcode.photos.reading.image import PhotoError
from cellcode.photos.table.photo_table import SCHEMA, readable
from cellcode.progress import Meter
from cellcode.types import Ids, Int64

KIND = Kind("cellcode-shards", 2, unsealed=(1,), advice="copy it there again, or pack again")
MANIFEST, PLAN = "manifest.json", "plan.json"  # PLAN is there while photos are being packed
Manifest = dict[str, Any]
_SAME = {"level": "level of the cells", "size_px": "size of the images", "fit": "fit of the images"}


def _read_manifest(files: fs.FileSystem, root: str, shown: str) -> Manifest | None:
    try:
        with files.open_input_stream(f"{root}/{MANIFEST}") as stream:
            manifest = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{shown}/{MANIFEST} cannot be read ({str(error).splitlines()[0]})") from None
    return KIND.checked(manifest, f"{shown}/{MANIFEST}")


def _read_parts(files: fs.FileSystem, root: str, shown: str) -> dict[str, Manifest]:
    """The manifests of the packed folders in a folder by their names, sorted; all of the folders in it, or none."""
    with readable(shown):
        found = files.get_file_info(fs.FileSelector(root, allow_not_found=True))
    folders = (each.base_name for each in found if each.type == fs.FileType.Directory)
    names = sorted(name for name in folders if not name.startswith("."))
    manifests = {name: _read_manifest(files, f"{root}/{name}", f"{shown}/{name}") for name in names}
    parts = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    if parts and (missing := next((name for name in names if name not in parts), None)):
        raise InputError(
            f"{shown} holds packed photos in {', '.join(parts)}, and none in {missing}; finish packing it, or move it away"
        )
    return parts


def _join(parts: dict[str, Manifest], shown: str) -> Manifest:
    """The manifests of packings that go together, as one: places and images are of one size, and none is there twice."""
    (first, one), *others = parts.items()
    of_identity, splits = dict[str, str](), Counter[str]()
    for name, part in parts.items():
        splits.update(part["splits"])
        if (known := of_identity.setdefault(part["identity"], name)) != name:
            raise InputError(f"{shown}/{known} and {shown}/{name} are the same packed photos; remove one of them")
    for name, other in others:
        for key, what in _SAME.items():
            a, b = one["packing"][key], other["packing"][key]
            if a != b:
                raise InputError(
                    f"{shown}/{first} and {shown}/{name} do not go together: the {what} is {a} in one and {b} in the other; "
                    "pack one of them again"
                )
    west, south, east, north = zip(*(part["bounds"] for part in parts.values()), strict=True)
    return {
        "identity": hashlib.sha256("\n".join(of_identity).encode()).hexdigest()[:16],
        "photos": splits.total(),
        "splits": dict(splits),
        "bounds": [min(west), min(south), max(east), max(north)],
        "packing": one["packing"],
        **{
            key: sorted({text for part in parts.values() for text in part[key]}) for key in ("licences", "attributions")
        },
        "rejected": {f"{name}/{file}": why for name, part in parts.items() for file, why in part["rejected"].items()},
        "files": {
            f"{name}/{file}": facts for name, part in parts.items() for file, facts in part.get("files", {}).items()
        },
        "parts": list(parts),
    }


SHARDS = "shards.parquet"
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
        """Return the bytes of a photo's image; PhotoError if they are not those that were packed."""
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
        names: in the order of their photos; PART/NAME for those of a part.
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
        parts: folders in `place` that hold the photos; "" if it holds them itself.
    """

    def __init__(self, place: str, files: fs.FileSystem, root: str, manifest: Manifest) -> None:
        self.place, self.manifest = place, manifest
        self.parts: list[str] = manifest.get("parts", [""])
        self._files, self._root = files, root

    @classmethod
    def open(cls, place: Path | str) -> Self:
        """Open a folder, or an address that pyarrow knows, such as s3://bucket/shards.

        Raises:
            InputError: there are none, not packed to the end, of another version, or parts that do not go together.
        """
        shown = str(place).rstrip("/")
        files, root = _file_system(shown)
        found = _read_manifest(files, root, shown)
        if found is None:
            parts = _read_parts(files, root, shown)
            if not parts:
                raise InputError(
                    f"{shown} holds no packed photos (no {MANIFEST}); make them, or finish making them, with `cellcode pack`"
                )
            found = _join(parts, shown)
        return cls(shown, files, root, found)

    @property
    def identity(self) -> str:
        """Digest of the photos, their positions and how they were packed."""
        return str(self.manifest["identity"])

    def shards(self, split: str) -> ShardList:
        """Return the shards of a split, part after part; none if no photo is of it."""
        names: list[str] = []
        photos, groups = [np.zeros(0, np.int64)], [np.zeros((0, 1), np.int64)]
        for part in self.parts:
            rows = self._table(f"{part}/{SHARDS}".lstrip("/"))
            rows = rows.filter(pc.equal(rows["split"], split))
            if len(rows):
                names += [f"{part}/{name}".lstrip("/") for name in rows.column("name").to_pylist()]
                photos.append(rows.column("photos").to_numpy().astype(np.int64))
                groups.append(np.array(rows.column("groups").to_pylist(), np.int64))
        widest = max(each.shape[1] for each in groups)
        wide = [np.pad(each, ((0, 0), (0, widest - each.shape[1]))) for each in groups]
        return ShardList(names, np.concatenate(photos), np.concatenate(wide))

    def rows(self, split: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of the photo table of one shard, or some columns of them."""
        return self._table(_path(split, name, ".parquet"), columns or SCHEMA.names)

    def cells(self, split: str, level: int) -> Ids:
        """Return the distinct cells with photos of a split, sorted, holding one shard's positions at a time."""
        found = np.zeros(0, np.uint64)
        for name in self.shards(split).names:
            part = self.rows(split, name, ["lat_deg", "lon_deg"])
            ids = s2.cell_ids(part.column("lat_deg").to_numpy(), part.column("lon_deg").to_numpy(), level)
            found = np.union1d(found, ids)
        return found

    def load(self, split: str, name: str) -> LoadedShard:
        """Read a shard. A tar that is missing or cut gives photos that cannot be read; InputError: a damaged index."""
        part = self._table(_path(split, name, ".parquet"), _NEEDED)
        index = {column: part.column(column).to_numpy(zero_copy_only=False) for column in _NEEDED}
        data, missing = memoryview(b""), ""
        try:
            data = self._read(_path(split, name, ".tar"))
        except (OSError, pa.ArrowException) as error:
            missing = f"the shard {_why(error)}"
        return LoadedShard(f"{self.place}/{_path(split, name, '.tar')}", data, missing, index)

    def verify(self) -> None:
        """Read all of it and compare digests; InputError names the first file that was changed."""
        files = self.manifest.get("files", {})
        with Meter("verifying files of packed photos", len(files)) as meter:
            for name in files:
                try:
                    self._require(name, self._read(name))
                except (OSError, pa.ArrowException) as error:
                    raise InputError(f"{self.place}/{name} {_why(error)}; {KIND.advice}") from None
                meter.advance()

    def _require(self, name: str, data: memoryview) -> None:
        facts = self.manifest.get("files", {}).get(name)
        if facts is not None and hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise InputError(f"{self.place}/{name} is not the file that was packed; {KIND.advice}")

    def _read(self, name: str) -> memoryview:
        """Read a file in one piece: as a stream of unknown length it would be gathered from pieces and copied."""
        with self._files.open_input_file(f"{self._root}/{name}") as file:
            return memoryview(file.read_buffer(file.size()))

    def _table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            self._require(name, data := self._read(name))
            return pq.read_table(pa.BufferReader(data), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.place}/{name} {_why(error)}; {KIND.advice}") from None


def _why(error: Exception) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({str(error).splitlines()[0]})"


def is_packed(place: Path | str) -> bool:
    """Return True for packed photos, here or in a store, whole, in parts or unfinished; False for a photo table."""
    if "://" in str(place):
        return True
    folder = Path(place)
    if (folder / MANIFEST).exists():
        return _is_packed_whole(folder)
    return (folder / PLAN).exists() or any(_is_packed_whole(path.parent) for path in folder.glob(f"*/{MANIFEST}"))


def _is_packed_whole(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("format") == KIND.format)
    except (OSError, ValueError, AttributeError):
        return False


def _path(split: str, name: str, suffix: str) -> str:
    """Return where a file of a shard is: the part comes first."""
    part, _, number = name.rpartition("/")
    return f"{part}/{split}/{number}{suffix}".lstrip("/")


def _file_system(place: str) -> tuple[fs.FileSystem, str]:
    if "://" not in place:
        return fs.LocalFileSystem(), str(Path(place).resolve())
    try:
        files, root = fs.FileSystem.from_uri(place)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{place} cannot be opened ({str(error).splitlines()[0]})") from None
    return files, root.rstrip("/")
