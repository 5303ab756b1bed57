"""From a photo table to shards (see `shards`): grouped by place, shuffled, written one shard at a time.

The order is a function of the table and the seed, and a shard is listed with its digests when it is whole: a packing that was
interrupted, started again, makes those that are missing or were changed since, and ends with the same bytes.
"""

import hashlib
import io
import json
import logging
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cellcode.errors import InputError
from cellcode.files import atomic_path, locked_folder, read_json, write_json
from cellcode.integrity import describe
from cellcode.photos.packed.shards import INDEX, KIND, MANIFEST, PART_SCHEMA, PLAN, SHARDS, SHARDS_SCHEMA, PackedPhotos
from cellcode.photos.packed.shuffle import VALIDATION, Facts, Ints, Layout, Spill, gather, set_validation_apart
from cellcode.photos.reading.image import PhotoError, PhotoSpec, image_kind, read_pixels
from cellcode.photos.reading.pixels import in_order
from cellcode.photos.table.photo_table import ROWS, SPLITS, Batches, PhotoTable, plain_memory
from cellcode.progress import Meter
from cellcode.types import Bools, Float64, Int8

logger = logging.getLogger(__name__)
LISTED, SPILL = "finished.jsonl", ".rows.cellcode-00000000.arrow"  # there while photos are being packed
_AHEAD = 64  # photos that are read before they are written
_REJECTED = b"rejected"  # metadata of a shard's Parquet file: photos of it that could not be read, and why


@dataclass(frozen=True)
class Packing:
    """How photos are packed.

    Attributes:
        level: photos in one S2 cell of this level are of one place; what `levels.cell` of the training will be.
        group_photos: at most so many photos of one place lie together; its other photos are in other groups.
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
    fit: Literal["stretch", "crop"] = "stretch"
    quality: int = 90
    seed: int = 0


@plain_memory()
def run(
    photos: PhotoTable | Path | str,
    packing: Packing | None = None,
    *,
    out: Path | str,
    set_apart: Callable[[Float64, Float64], Bools] | None = None,
) -> PackedPhotos:
    """Pack a photo table into the folder `out`; a packing that was interrupted is continued.

    Photos that cannot be read are left out, counted and named. A table in a folder is never held in memory.

    Args:
        set_apart: chooses validation photos from the training photos of a table that has none, by latitudes and longitudes.

    Raises:
        InputError: `out` holds something else, or no photo can be read.
    """
    table, packing, out = Batches.of(photos), packing or Packing(), Path(out)
    facts, cells, split = gather(table, packing.level)
    if set_apart is not None and not (split == VALIDATION).any():
        set_validation_apart(table, split, set_apart)
    identity = _identity(table, split, packing)
    _refuse_others(out, identity)
    layout = Layout.of(cells, split, packing.group_photos, packing.seed)
    del cells  # 8 bytes a photo
    with locked_folder(out):
        write_json(out / PLAN, {"identity": identity})
        try:
            spill = Spill(table, split, layout.place, out / SPILL)
            summaries, rejected, files = _write_shards(spill, layout, table.root, packing, out)
        finally:
            (out / SPILL).unlink(missing_ok=True)
        first = next(iter(rejected.values()), "no photos")
        if not summaries:
            raise InputError(f"none of the {table.photos} photos can be read: {first}")
        with atomic_path(out / SHARDS) as path:
            pq.write_table(pa.Table.from_pylist(summaries, SHARDS_SCHEMA), path)
        files |= describe(out, [SHARDS])
        KIND.write(out / MANIFEST, _manifest(facts, packing, identity, summaries, rejected) | {"files": files})
        (out / LISTED).unlink(missing_ok=True)
        (out / PLAN).unlink()
    packed = sum(summary["photos"] for summary in summaries)
    megabytes = sum(summary["bytes"] for summary in summaries) / 1e6
    note = f"; {len(rejected)} left out, the first: {first}" if rejected else ""
    logger.info(f"{packed} photos in {len(summaries)} shards, {megabytes:.1f} MB, in {out}{note}")
    return PackedPhotos.open(out)


def _write_shards(
    spill: Spill, layout: Layout, root: Path, packing: Packing, out: Path
) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, Any]]:
    """Write the shards that are not there yet.

    Returns descriptions of all that hold photos, why photos could not be read, and digests of files.
    """
    summaries, rejected, files = list[dict[str, Any]](), dict[str, str](), dict[str, Any]()
    known = _listed(out)
    with Meter("packing photos", len(layout.place)) as meter, (out / LISTED).open("a", encoding="utf-8") as listed:
        for split, group in layout.groups.items():
            start = layout.start(split)
            for number, begin, end in layout.shards(split, packing.shard_photos):
                stem = out / split / f"{number:06d}"
                names = [f"{split}/{stem.name}{suffix}" for suffix in (".tar", ".parquet")]
                written = _described(out, names)
                if written is None or written != {name: known.get(name) for name in names}:
                    part = PhotoTable(spill.rows(start + begin, start + end), root)
                    _write_shard(part, group[begin:end], begin, stem, packing)
                    written = describe(out, names)
                    listed.write(json.dumps(written) + "\n")
                    listed.flush()
                files |= written
                summary, failed = _describe(split, stem, packing.group_photos)
                rejected |= failed
                if summary["photos"]:
                    summaries.append(summary)
                meter.advance(end - begin)
    return summaries, rejected, dict(sorted(files.items()))


def _listed(out: Path) -> dict[str, Any]:
    """Digests of the shards that an interrupted packing listed, or of those of a finished one that is repeated."""
    files = dict[str, Any]()
    with suppress(InputError):  # there is none, or it is damaged
        listed = KIND.read(out / MANIFEST).get("files", {})
        return {name: facts for name, facts in listed.items() if name != SHARDS}
    if (out / LISTED).is_file():
        for line in (out / LISTED).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError):  # the last one may be cut off
                files |= json.loads(line)
    return files


def _described(out: Path, names: list[str]) -> dict[str, Any] | None:
    """Sizes and digests of a shard's files as they are now; None if one is missing."""
    return describe(out, names) if all((out / name).is_file() for name in names) else None


def _write_shard(part: PhotoTable, group: Ints, first: int, stem: Path, packing: Packing) -> None:
    """Write the tar, then the Parquet file, which marks the shard as whole."""
    rejected, kept, index = dict[str, str](), list[int](), list[dict[str, Any]]()
    described = part.rows.to_pylist()
    # A few photos are read ahead of the one that is written: a whole shard of originals may be 10 GB.
    images = in_order(partial(_read, packing=packing), part.files, os.cpu_count() or 1, _AHEAD)
    with atomic_path(stem.with_suffix(".tar")) as path, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row, image in enumerate(images):
            if isinstance(image, str):
                rejected[described[row]["file"]] = image
                continue
            (kind, data), key = image, f"{first + row:09d}"
            facts = {"key": key, "member": f"{key}.{kind}", "offset": tar.offset + tarfile.BLOCKSIZE}
            index.append({**facts, "bytes": len(data), "crc32": zlib.crc32(data), "group": int(group[row])})
            kept.append(row)
            known = {name: value for name, value in described[row].items() if value is not None}
            _add(tar, f"{key}.{kind}", data)
            _add(tar, f"{key}.json", json.dumps(known, default=str).encode())
    columns = [*part.rows.take(pa.array(kept, pa.int64())).columns, *pa.Table.from_pylist(index, INDEX).columns]
    metadata = {_REJECTED: json.dumps(rejected).encode()}
    with atomic_path(stem.with_suffix(".parquet")) as path:
        pq.write_table(pa.Table.from_arrays(columns, schema=PART_SCHEMA.with_metadata(metadata)), path)


def _read(file: Path, packing: Packing) -> tuple[str, bytes] | str:
    try:
        if packing.size_px is None:
            data = file.read_bytes()
            return image_kind(data), data
        pixels = read_pixels(file, PhotoSpec(*packing.size_px, packing.fit))
    except PhotoError as error:
        return str(error).replace("photo:", f"{file}:", 1)
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=packing.quality)
    return "jpg", written.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member with nothing in it that depends on the machine or the time."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


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
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no packed photos; choose another --out")


def _identity(table: Batches, split: Int8, packing: Packing) -> str:
    """Digest of the photos' names, splits and positions, one column after another, and of how they are packed."""
    digest = hashlib.sha256(json.dumps(asdict(packing)).encode())
    names = np.array(SPLITS)
    splits = (names[split[first : first + ROWS]].tolist() for first in range(0, len(split), ROWS))
    for texts in ((part.column("file").to_pylist() for part in table.parts(["file"])), splits):
        for number, some in enumerate(texts):
            digest.update(("\n" * (number > 0) + "\n".join(some)).encode())
    for name in ("lat_deg", "lon_deg"):
        for part in table.parts([name]):
            digest.update(part.column(name).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _manifest(
    facts: Facts, packing: Packing, identity: str, summaries: list[dict[str, Any]], rejected: dict[str, str]
) -> dict[str, Any]:
    photos = Counter[str]()
    for summary in summaries:
        photos[summary["split"]] += summary["photos"]
    return {
        "identity": identity,
        "photos": photos.total(),
        "splits": dict(photos),
        "bounds": list(facts.bounds),
        "packing": asdict(packing),
        "licences": sorted(facts.licences),
        "attributions": sorted(facts.attributions),
        "rejected": rejected,
    }
