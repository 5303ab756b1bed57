"""The photo table: what is known of every photo, as Parquet with a fixed schema (docs/formats.md); whole, or in batches."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cellcode.errors import InputError, unreadable
from cellcode.files import sha256
from cellcode.integrity import Kind, is_inside
from cellcode.progress import Meter
from cellcode.types import Bools, Datetimes, Float32, Float64, Strings

KIND = Kind("cellcode-photos", 2, unsealed=(1,), advice="ingest the photos again")
MANIFEST, ROWS_FILE, IMAGES, REJECTS = "manifest.json", "photos.parquet", "images.parquet", "rejects.csv"
SPLITS = ("train", "validation", "test", "none")
SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("lat_deg", pa.float64(), nullable=False),
        pa.field("lon_deg", pa.float64(), nullable=False),
        pa.field("heading_deg", pa.float32()),
        pa.field("fov_deg", pa.float32()),
        pa.field("captured_at", pa.timestamp("ms")),
        pa.field("sequence", pa.string()),
        pa.field("device", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("attribution", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("width_px", pa.int32(), nullable=False),
        pa.field("height_px", pa.int32(), nullable=False),
        pa.field("accuracy_m", pa.float32()),
        pa.field("land_use", pa.string()),
    ]
)


@dataclass(frozen=True)
class PhotoTable:
    """Photos with their positions.

    Attributes:
        rows: a pyarrow table of `SCHEMA`.
        root: the folder that `file` is relative to.
        notes: further keys of manifest.json (rejects by reason, the split's rule).
        images: digests of photos that belong to the folder of a table that was read; see `digests_of`.
    """

    rows: pa.Table
    root: Path
    notes: dict[str, Any] | None = None
    images: pa.Table | None = None

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def lat_deg(self) -> Float64:
        """WGS84 latitudes in degrees, float64 (N,)."""
        return np.asarray(self.rows.column("lat_deg").to_numpy(), np.float64)

    @property
    def lon_deg(self) -> Float64:
        """WGS84 longitudes in degrees, float64 (N,)."""
        return np.asarray(self.rows.column("lon_deg").to_numpy(), np.float64)

    @property
    def heading_deg(self) -> Float32:
        """Directions of view, clockwise from north, float32 (N,), NaN where unknown."""
        return self._floats("heading_deg")

    @property
    def fov_deg(self) -> Float32:
        """Horizontal fields of view in degrees, float32 (N,), NaN where unknown."""
        return self._floats("fov_deg")

    @property
    def captured_at(self) -> Datetimes:
        """Capture times, UTC or as the camera showed them, datetime64[ms] (N,), NaT where unknown."""
        return np.asarray(self.rows.column("captured_at").to_numpy(zero_copy_only=False), "datetime64[ms]")

    @property
    def split(self) -> Strings:
        """Split of each photo, (N,): train, validation (fits the calibration), test or none."""
        encoded = self.rows.column("split").combine_chunks().dictionary_encode()
        names = np.array(encoded.dictionary.to_pylist(), dtype="<U10")
        return np.asarray(names[encoded.indices.to_numpy()])

    @property
    def files(self) -> list[Path]:
        """Paths of the photos."""
        return [self.root / name for name in self.column("file")]

    def column(self, name: str) -> list[Any]:
        """Return a column as Python values, None where unknown."""
        return list(self.rows.column(name).to_pylist())

    def select(self, rows: Bools | npt.NDArray[np.integer]) -> Self:
        """Return the photos of a mask (N,) or of indices."""
        indices = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(self, rows=self.rows.take(pa.array(indices)))

    def of_split(self, name: str) -> Self:
        """Return the photos of one split."""
        return self.select(self.split == name)

    def with_column(self, name: str, values: Sequence[Any] | npt.NDArray[Any]) -> Self:
        """Return the table with one column of the schema replaced."""
        return replace(self, rows=with_columns(self.rows, **{name: values}))

    def save(self, folder: Path | str, rejects: Callable[[Path], None] | None = None) -> Self:
        """Write the table into `folder` and return it; `rejects` writes the file of that name.

        An interruption leaves the earlier table of the folder, or this one. Photos below the folder belong to the table: their
        digests are kept.
        """
        folder, root = Path(folder), self.root.resolve()
        try:  # relative, so that table and photos can move together
            shown = os.path.relpath(root, folder.resolve())
        except ValueError:  # another drive
            shown = str(root)
        values = self._manifest(shown)
        with KIND.replacing(folder, MANIFEST, values) as path_of:
            pq.write_table(self.rows, path_of(ROWS_FILE))
            if root.is_relative_to(folder.resolve()):
                pq.write_table(digests_of(root, self.column("file")), path_of(IMAGES))
            if rejects is not None:
                rejects(path_of(REJECTS))
        for name in {IMAGES, REJECTS} - values["files"].keys():  # of an earlier table
            (folder / name).unlink(missing_ok=True)
        return self

    def verify(self) -> None:
        """Compare photos that belong to the table with their digests; InputError names the first that was changed."""
        if self.images is not None:
            with Meter("verifying photos", len(self.images)) as meter:
                for batch in self.images.to_batches(ROWS):
                    KIND.verify(self.root, {row["file"]: row for row in batch.to_pylist()})
                    meter.advance(len(batch))

    @classmethod
    def of(cls, photos: "PhotoTable | Path | str") -> "PhotoTable":
        """Return a table, read if it is a folder; see `load`."""
        return photos if isinstance(photos, PhotoTable) else cls.load(photos)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a table; InputError: the folder holds none, or one of another version or schema."""
        folder = Path(folder)
        manifest, path = _read_manifest(folder), folder / ROWS_FILE
        KIND.verify(folder, manifest.get("files", {}))  # all of it is read below anyway
        with readable(path):
            rows = _complete(pq.read_table(path))
            images = pq.read_table(folder / IMAGES) if IMAGES in manifest.get("files", {}) else None
        notes: dict[str, Any] = {key: manifest[key] for key in ("rejected", "missing", "split_rule") if key in manifest}
        return cls(rows, _checked_root(folder, manifest, rows.schema, len(rows)), notes, images)

    def _floats(self, name: str) -> Float32:
        return np.asarray(self.rows.column(name).to_numpy(zero_copy_only=False), np.float32)

    def _manifest(self, root: str) -> dict[str, Any]:
        lat, lon = self.lat_deg, self.lon_deg
        return {
            "photos": len(self),
            "splits": dict(Counter(self.split.tolist())),
            "bounds": [lon.min(), lat.min(), lon.max(), lat.max()] if len(self) else None,
            "root": root,
            "licences": self._distinct("licence"),
            "attributions": self._distinct("attribution"),
            **(self.notes or {}),
        }

    def _distinct(self, name: str) -> list[str]:
        return sorted(value for value in pc.unique(self.rows.column(name)).to_pylist() if value)


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a photo table (no {MANIFEST}); make one with `cellcode ingest`")
    manifest = KIND.read(folder / MANIFEST)
    KIND.settle(folder, manifest.get("files", {}))
    return manifest


def digests_of(root: Path, files: Iterable[str]) -> pa.Table:
    """Return a table of the sizes and digests of those files that are there, below `root`: file, bytes, sha256."""
    there = [name for name in files if is_inside(name) and (root / name).is_file()]
    sizes = pa.array([(root / name).stat().st_size for name in there], pa.int64())
    return pa.table(
        {"file": pa.array(there, pa.string()), "bytes": sizes, "sha256": [sha256(root / name) for name in there]}
    )


def with_columns(rows: pa.Table, **columns: Sequence[Any] | npt.NDArray[Any] | pa.Array) -> pa.Table:
    """Return rows of the schema with some columns replaced."""
    for name, values in columns.items():
        field = SCHEMA.field(name)
        rows = rows.set_column(SCHEMA.get_field_index(name), field, pa.array(values, field.type))
    return rows


def _complete(rows: pa.Table) -> pa.Table:
    """Append columns of the schema that tables of older releases do not have yet."""
    for field in SCHEMA:
        if field.nullable and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows


def _checked_root(folder: Path, manifest: dict[str, Any], schema: pa.Schema, photos: int) -> Path:
    """What `file` is relative to; rows that are not those of a photo table, or not those of its manifest, are refused."""
    if not schema.equals(SCHEMA):
        raise InputError(f"{folder}/{ROWS_FILE} does not have the columns of a photo table; ingest again")
    if manifest.get("photos") != photos:
        raise InputError(f"{folder}: photos.parquet has {photos} photos, its manifest another number; ingest again")
    return Path(os.path.normpath(folder / manifest["root"]))


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn what Arrow raises where a file cannot be read into an InputError that names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        otherwise = f"{path} cannot be read ({str(error).splitlines()[0]})"
        raise unreadable(Path(path), error, otherwise) from None


ROWS = 8_192
_READ_BYTES = 1 << 20  # of each column at a time; whole row groups would be held without it


@dataclass(frozen=True)
class Batches:
    """A photo table of so many photos, in memory or in a folder, that is gone through a part at a time; see `of`."""

    root: Path
    photos: int
    _source: pa.Table | Path

    @classmethod
    def of(cls, photos: PhotoTable | Path | str) -> Self:
        """Open a photo table; InputError as `PhotoTable.load`."""
        if isinstance(photos, PhotoTable):
            return cls(photos.root, len(photos), photos.rows)
        folder = Path(photos)
        manifest, path = _read_manifest(folder), folder / ROWS_FILE
        KIND.verify(folder, manifest.get("files", {}))
        with readable(path), pq.ParquetFile(path) as file:
            schema, count = _complete(file.schema_arrow.empty_table()).schema, file.metadata.num_rows
        return cls(_checked_root(folder, manifest, schema, count), count, path)

    def parts(self, columns: list[str] | None = None, rows: int = ROWS) -> Iterator[pa.Table]:
        """Yield some columns, or all of the schema, of at most `rows` photos after another; InputError: it is damaged."""
        columns = columns or SCHEMA.names
        if isinstance(self._source, pa.Table):
            for first in range(0, self.photos, rows):
                yield self._source.slice(first, rows).select(columns)
            return
        with readable(self._source), pq.ParquetFile(self._source, buffer_size=_READ_BYTES) as file:
            known = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(rows, columns=known, use_threads=False):
                yield _complete(pa.Table.from_batches([batch])).select(columns)


@contextmanager
def plain_memory() -> Iterator[None]:
    """Let Arrow take its memory from the system while the block runs: its own allocator keeps most of what was freed."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
