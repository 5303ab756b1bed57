"""The terms of every cell, one shard after the other: tiles read, encoded and written while the next ones are read.

A shard is a folder that appears when it is finished, so an interrupted build continues with the next one.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellcode.aerial import AerialSource
from cellcode.aerial.crops import read_crops
from cellcode.aerial.missing import Missing, summary, transient
from cellcode.database.building.fusion import row_error, upsample
from cellcode.database.building.plan import covered, has_prototype
from cellcode.database.store.database import Database
from cellcode.device import choose_device, has_bfloat16
from cellcode.errors import InputError
from cellcode.files import atomic_folder, read_json, remove_folder
from cellcode.geography import s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.integrity import Kind, describe
from cellcode.model import inference
from cellcode.runs import Run
from cellcode.types import Bools, Datetimes, Float16, Float32, Ids, Int64, UInt8

logger = logging.getLogger(__name__)
COUNTS = "counts.json"
LACKS = "lacks"
KIND = Kind("cellcode-build-shard", 1, unsealed=(), advice="it is encoded again")
MASKED = "masked"  # in the counts: what of the imagery was missing, and how often


class Shard(NamedTuple):
    """The cells of a shard that have a code; (n,) and (n, D) arrays, terms in float16 and 0 where a cell lacks one."""

    ids: Ids
    aerial: Float16
    prototypes: Float16
    has_aerial: Bools
    has_prototype: Bools
    digests: Ids
    imagery_date: Datetimes


@dataclass(frozen=True)
class Reuse:
    """Embeddings of an earlier database by the same aerial encoder, used where a tile has the same pixels."""

    database: Database

    def lookup(self, ids: Ids, digests: Ids) -> tuple[Bools, Float16]:
        """Return which cells can be reused, (n,), and their embeddings, (m, D)."""
        tiles, known = self.database.tiles(), self.database.tile_digests()
        if tiles is None or known is None:
            return np.zeros(len(ids), bool), np.empty((0, self.database.code_set.dim), np.float16)
        rows = rows_of_ids(self.database.ids, ids)
        same = (rows >= 0) & (known[rows] == digests) & (digests != 0)
        return same, np.asarray(tiles[rows[same]])


def write_shard(
    run: Run, source: AerialSource | None, ids: Ids, folder: Path, reuse: Reuse | None, *, whole: bool = False
) -> dict[str, float]:
    """Encode the cells of a shard into a folder; return what was counted.

    `left_out` cells have neither a tile with enough imagery nor a prototype; `encoded` and `reused` tiles; `aerial_error` and
    `prototype_error` are the largest distances of a float16 row from its float32 original; `incomplete` tiles lack imagery
    that could not be fetched now and may be there later. If there are any, `whole` writes no folder and counts `lacks`.
    """
    near_photos, masked_before = has_prototype(run, ids), _missing(source)
    aerial, digests, dates, counts = _aerial_terms(run, source, ids, reuse)
    has_aerial = digests != 0
    kept = has_aerial | near_photos
    narrow = np.zeros((len(ids), run.config.model.dim), np.float16)
    if run.prototypes is not None and near_photos.any():
        prototypes = upsample(run.prototypes, ids, run.config.build.upsampling)
        narrow = prototypes.astype(np.float16)
        counts["prototype_error"] = row_error(prototypes, narrow)
    shard = Shard(*(each[kept] for each in (ids, aerial, narrow, has_aerial, near_photos, digests, dates)))
    counts |= {"cells": len(shard.ids), "left_out": len(ids) - len(shard.ids)}
    lacks = transient(_missing(source)) != transient(masked_before) or counts["incomplete"]
    if lacks and whole:
        return counts | {LACKS: 1}
    with atomic_folder(folder) as temporary:
        for name, values in shard._asdict().items():
            np.save(temporary / f"{name}.npy", values)
        files = describe(temporary, [f"{name}.npy" for name in Shard._fields])
        noted = {MASKED: list((_missing(source) - masked_before).items()), "files": files}
        KIND.write(temporary / COUNTS, counts | noted)
    return counts


def write_whole(run: Run, source: AerialSource | None, ids: Ids, folder: Path, reuse: Reuse | None) -> str | None:
    """Write a shard that lacks no imagery that may be there later; else return what is missing, and write no folder."""
    counts = write_shard(run, source, ids, folder, reuse, whole=True)
    return summary(transient(_missing(source))) if LACKS in counts else None


def is_whole(folder: Path) -> bool:
    """Return True if a shard is there, as it was written; one that was damaged is removed."""
    if not folder.is_dir():
        return False
    try:
        KIND.verify(folder, KIND.read(folder / COUNTS)["files"])
    except InputError as error:
        logger.warning("%s", error)
        remove_folder(folder)
        return False
    return True


def _missing(source: AerialSource | None) -> Counter[Missing]:
    return Counter(source.missing if source is not None else ())  # a copy: what is missing now


def read_shard(folder: Path) -> Shard:
    """Open a shard that `write_shard` wrote, memory-mapped."""
    return Shard(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Shard._fields))


def masked(folders: Iterable[Path]) -> Counter[Missing]:
    """Count what was masked in the imagery of shards, also in those that an earlier process wrote."""
    total: Counter[Missing] = Counter()
    for folder in folders:
        for why, number in read_json(folder / COUNTS)[MASKED]:
            total[Missing(*why)] += number
    return total


def encoder_digest(run: Run) -> str | None:
    """Return a digest that changes when the same tile would be embedded differently; None without an aerial encoder."""
    if run.aerial is None:
        return None
    config = run.config
    settings = {
        "encoder": config.model.aerial.model_dump(mode="json"),
        "dim": config.model.dim,
        "tile": config.tile.model_dump(mode="json"),
        "precision": config.machine.precision,
        "device": choose_device(config.machine.device).type,
        "bfloat16": has_bfloat16(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(run.aerial.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _aerial_terms(
    run: Run, source: AerialSource | None, ids: Ids, reuse: Reuse | None
) -> tuple[Float16, Ids, Datetimes, dict[str, float]]:
    """Return embeddings (n, D), digests (n,) of the tiles (0: not enough imagery), their dates (n,), and counts."""
    aerial = np.zeros((len(ids), run.config.model.dim), np.float16)
    digests, dates = np.zeros(len(ids), np.uint64), np.full(len(ids), "NaT", "datetime64[D]")
    counts = {"encoded": 0, "reused": 0, "incomplete": 0, "aerial_error": 0.0, "prototype_error": 0.0}
    for rows, pixels, tile_digests, tile_dates, incomplete in _tiles(run, source, ids):
        counts["incomplete"] += incomplete
        digests[rows], dates[rows] = tile_digests, tile_dates
        fresh = np.ones(len(rows), bool)
        if reuse is not None:
            same, embeddings = reuse.lookup(ids[rows], tile_digests)
            aerial[rows[same]], fresh = embeddings, ~same
        if fresh.any():
            made = _encode(run, pixels[fresh])
            aerial[rows[fresh]] = made.astype(np.float16)
            counts["aerial_error"] = max(counts["aerial_error"], row_error(made, aerial[rows[fresh]]))
        counts["encoded"] += int(fresh.sum())
        counts["reused"] += int((~fresh).sum())
    return aerial, digests, dates, counts


class _Tiles(NamedTuple):
    """Tiles with enough imagery, pixels as the encoder takes them."""

    rows: Int64
    pixels: UInt8
    digests: Ids
    dates: Datetimes
    incomplete: int  # of all that were read


def _tiles(run: Run, source: AerialSource | None, ids: Ids) -> Iterator[_Tiles]:
    """Yield the tiles of cells batch by batch, in order of their ids; the next batch is read meanwhile."""
    if source is None:
        return
    rows, batch = np.flatnonzero(covered(source, ids)), run.config.build.batch_size
    batches = [rows[first : first + batch] for first in range(0, len(rows), batch)]
    with ThreadPoolExecutor(1) as reader:
        pending = [reader.submit(_read, run, source, ids, some) for some in batches[:1]]
        for number in range(len(batches)):
            tiles = pending.pop().result()
            pending += [reader.submit(_read, run, source, ids, some) for some in batches[number + 1 : number + 2]]
            yield tiles


def _read(run: Run, source: AerialSource, ids: Ids, rows: Int64) -> _Tiles:
    tile, (lat, lon) = run.config.tile, s2.cell_centers(ids[rows])
    views = [read_crops(source, lat, lon, size_m=tile.size_m * scale, size_px=tile.size_px) for scale in tile.scales]
    first, *wider = views
    incomplete = int((~np.logical_and.reduce([crops.complete for crops in views])).sum())
    enough = first.mask.mean(axis=(1, 2)) >= run.config.build.min_imagery_share
    pixels = first.pixels[enough]
    if wider:
        pixels = np.stack([pixels, *(crops.pixels[enough] for crops in wider)], axis=1)
    digests = np.array([_digest(tile_pixels) for tile_pixels in pixels], np.uint64)
    return _Tiles(rows[enough], pixels, digests, first.dates[enough], incomplete)


def _digest(pixels: UInt8) -> int:
    return int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest(), "little") | 1  # never 0


def _encode(run: Run, pixels: UInt8) -> Float32:
    assert run.aerial is not None  # checked when the build was planned
    device = choose_device(run.config.machine.device)
    return inference.embed(run.aerial.to(device), pixels, run.config.machine.precision, device, len(pixels))
