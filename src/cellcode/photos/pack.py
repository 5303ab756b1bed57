"""From a photo table to shards (see `shards`): grouped by place, shuffled, written one shard at a time.

The order is a function of the table and the seed, and a shard takes its name when it is whole: a packing that was
interrupted, started again, goes on with the first shard that is not there and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cellcode.errors import InputError
from cellcode.files import atomic_path, locked, read_json, write_json
from cellcode.geography import s2
from cellcode.photos.image import PhotoError, open_photo, read_pixels
from cellcode.photos.shards import FORMAT, MANIFEST, PART_SCHEMA, SHARDS, SHARDS_SCHEMA, VERSION, PackedPhotos
from cellcode.photos.table import SPLITS, PhotoTable
from cellcode.progress import Meter

PLAN, LOCK = "plan.json", ".lock"
_REJECTED = b"rejected"  # metadata of a shard's Parquet file: photos of it that could not be read, and why
_KINDS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "HEIF": "heic"}
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """How photos are packed.

    Attributes:
        level: photos in one S2 cell of this level are of one place; what `levels.cell` of the training will be.
        group_photos: photos of one place that lie together are at most so many; other photos of it are elsewhere.
        shard_photos: of a shard, about.
        size_px: width and height that images are encoded at again; None: they are copied as they are.
        fit: how they are brought to that size, as `photo.fit` of the configuration.
        quality: of the JPEGs that are encoded again.
        seed: of the order.
    """

    level: int = 16
    group_photos: int = 8
    shard_photos: int = 4096
    size_px: tuple[int, int] | None = None
    fit: str = "stretch"
    quality: int = 90
    seed: int = 0


@dataclass(frozen=True)
class _Image:
    kind: str
    data: bytes


def run(photos: PhotoTable | Path | str, packing: Packing | None = None, *, out: Path | str) -> PackedPhotos:
    """Pack a photo table into the folder `out`; a packing that was interrupted is continued.

    Photos that cannot be read are left out, counted and named.

    Raises:
        InputError: `out` holds something else, or no photo can be read.
    """
    packing = packing or Packing()
    table = photos if isinstance(photos, PhotoTable) else PhotoTable.load(Path(photos))
    out = Path(out)
    identity = _identity(table, packing)
    _refuse_others(out, identity)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):
        write_json(out / PLAN, {"identity": identity})
        summaries, rejected = _write_shards(table, packing, out)
        if not summaries:
            raise InputError(
                f"none of the {len(table)} photos can be read: {next(iter(rejected.values()), 'no photos')}"
            )
        with atomic_path(out / SHARDS) as path:
            pq.write_table(pa.Table.from_pylist(summaries, SHARDS_SCHEMA), path)
        write_json(out / MANIFEST, _manifest(table, packing, identity, summaries, rejected))
    (out / PLAN).unlink()
    (out / LOCK).unlink()
    packed = sum(summary["photos"] for summary in summaries)
    megabytes = sum(summary["bytes"] for summary in summaries) / 1e6
    note = f"; {len(rejected)} left out, the first: {next(iter(rejected.values()))}" if rejected else ""
    print(f"{packed} photos in {len(summaries)} shards, {megabytes:.1f} MB, in {out}{note}", file=sys.stderr)
    return PackedPhotos.open(out)


def grouped_order(cells: npt.NDArray[np.uint64], group_photos: int, seed: int) -> tuple[Int64, Int64]:
    """Order photos so that groups of one cell lie together and the groups in random order.

    Args:
        cells: (N,), the place of each photo.

    Returns:
        Numbers of the photos in their new order, (N,), and the group of each, rising from 0, (N,).
    """
    rng = np.random.default_rng([seed, len(cells)])
    shuffled = rng.permutation(len(cells))
    by_cell = shuffled[np.argsort(cells[shuffled], kind="stable")]
    _, start, count = np.unique(cells[by_cell], return_index=True, return_counts=True)
    rank = np.arange(len(cells)) - np.repeat(start, count)
    groups = -(-count // group_photos)  # of a cell; as equal in size as can be
    own = rank * np.repeat(groups, count) // np.repeat(count, count)
    group = np.repeat(np.cumsum(groups) - groups, count) + own
    place = rng.permutation(int(groups.sum()))[group]
    order = np.argsort(place, kind="stable")
    return by_cell[order], place[order]


def _write_shards(table: PhotoTable, packing: Packing, out: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Write the shards that are not there yet; describe all that hold photos, and say which photos could not be read."""
    cells = s2.cell_ids(table.lat_deg, table.lon_deg, packing.level)
    split_of = table.split
    summaries: list[dict[str, Any]] = []
    rejected: dict[str, str] = {}
    with Meter("packing photos", len(table)) as meter, ThreadPoolExecutor(os.cpu_count()) as threads:
        for split in SPLITS:
            chosen = np.flatnonzero(split_of == split)
            if not len(chosen):
                continue
            order, group = grouped_order(cells[chosen], packing.group_photos, packing.seed)
            first_of_group = np.searchsorted(group, group)
            shard = first_of_group // packing.shard_photos  # a group is never cut
            for number in np.unique(shard).tolist():
                begin, end = np.searchsorted(shard, [number, number + 1])
                stem = out / split / f"{number:06d}"
                if not stem.with_suffix(".parquet").is_file():
                    part = table.select(chosen[order[begin:end]])
                    _write_shard(part, group[begin:end], int(begin), stem, packing, threads)
                summary, failed = _describe(split, stem, packing.group_photos)
                rejected |= failed
                if summary["photos"]:
                    summaries.append(summary)
                meter.advance(int(end - begin))
    return summaries, rejected


def _write_shard(
    part: PhotoTable, group: Int64, first: int, stem: Path, packing: Packing, threads: ThreadPoolExecutor
) -> None:
    """Write the tar, then the Parquet file, which says that the shard is whole."""
    rejected: dict[str, str] = {}
    kept: list[int] = []
    places: dict[str, list[Any]] = {name: [] for name in ("key", "member", "offset", "bytes", "crc32")}
    with atomic_path(stem.with_suffix(".tar")) as path, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        described = part.rows.to_pylist()
        for row, made in enumerate(threads.map(lambda file: _read(file, packing), part.files)):
            if isinstance(made, str):
                rejected[described[row]["file"]] = made
                continue
            key = f"{first + row:09d}"
            kept.append(row)
            found = (key, f"{key}.{made.kind}", tar.offset + tarfile.BLOCKSIZE, len(made.data), zlib.crc32(made.data))
            for column, value in zip(places.values(), found, strict=True):
                column.append(value)
            _add(tar, f"{key}.{made.kind}", made.data)
            _add(tar, f"{key}.json", _json(described[row]))
    rows = part.rows.take(pa.array(kept, pa.int64()))
    columns = [*rows.columns, *(pa.array(values, PART_SCHEMA.field(name).type) for name, values in places.items())]
    columns.append(pa.array(group[kept]))
    metadata = {_REJECTED: json.dumps(rejected).encode()}
    with atomic_path(stem.with_suffix(".parquet")) as path:
        pq.write_table(pa.Table.from_arrays(columns, schema=PART_SCHEMA.with_metadata(metadata)), path)


def _read(file: Path, packing: Packing) -> _Image | str:
    """Give a photo's image as it is packed, or why it cannot be."""
    try:
        if packing.size_px is None:
            data = file.read_bytes()
            return _Image(_KINDS.get(open_photo(data).format or "", "jpg"), data)
        pixels = read_pixels(file, *packing.size_px, packing.fit)
    except PhotoError as error:
        return str(error).replace("photo:", f"{file}:", 1)
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=packing.quality)
    return _Image("jpg", written.getvalue())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member with nothing in it that depends on the machine or the time."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _json(row: dict[str, Any]) -> bytes:
    """Give what is known of a photo; what is not known is left out."""
    return json.dumps({key: value for key, value in row.items() if value is not None}, default=str).encode()


def _describe(split: str, stem: Path, group_photos: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the row of shards.parquet for a shard that is there, and which of its photos were left out and why."""
    part = pq.read_table(stem.with_suffix(".parquet"), columns=["group"])
    _, sizes = np.unique(part.column("group").to_numpy(), return_counts=True)
    summary = {
        "split": split,
        "name": stem.name,
        "photos": len(part),
        "bytes": stem.with_suffix(".tar").stat().st_size,
        "groups": np.bincount(sizes, minlength=group_photos + 1)[1:].tolist(),
    }
    return summary, json.loads(part.schema.metadata[_REJECTED])


def _refuse_others(out: Path, identity: str) -> None:
    """Let a packing be continued or repeated, and nothing else be overwritten."""
    for name in (MANIFEST, PLAN):
        if (out / name).is_file():
            if read_json(out / name).get("identity") == identity:
                return
            raise InputError(f"{out} holds other packed photos, or was begun with other settings; choose another --out")
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no packed photos; choose another --out")


def _identity(table: PhotoTable, packing: Packing) -> str:
    digest = hashlib.sha256(json.dumps(asdict(packing)).encode())
    for name in ("file", "split"):
        digest.update("\n".join(table.column(name)).encode())
    digest.update(table.lat_deg.tobytes() + table.lon_deg.tobytes())
    return digest.hexdigest()[:16]


def _manifest(
    table: PhotoTable, packing: Packing, identity: str, summaries: list[dict[str, Any]], rejected: dict[str, str]
) -> dict[str, Any]:
    photos: Counter[str] = Counter()
    for summary in summaries:
        photos[summary["split"]] += summary["photos"]
    lat_deg, lon_deg = table.lat_deg, table.lon_deg
    return {
        "format": FORMAT,
        "version": VERSION,
        "identity": identity,
        "photos": photos.total(),
        "splits": dict(photos),
        "bounds": [float(lon_deg.min()), float(lat_deg.min()), float(lon_deg.max()), float(lat_deg.max())],
        "packing": asdict(packing),
        "licences": sorted({text for text in table.column("licence") if text}),
        "attributions": sorted({text for text in table.column("attribution") if text}),
        "rejected": rejected,
    }
