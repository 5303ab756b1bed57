"""Training on packed photos: what a training has to know of all of them, taken from the shards one at a time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cellcode.config import Config
from cellcode.errors import InputError, UsageError
from cellcode.geography import s2
from cellcode.geography.distance import Float64
from cellcode.model import collectives
from cellcode.photos import PhotoError, PhotoTable
from cellcode.photos.shards import PackedPhotos
from cellcode.photos.table import SCHEMA
from cellcode.runs import CellFacts
from cellcode.training.order import Schedule
from cellcode.training.stream import Stream

MOST_VALIDATION = 20_000  # validation photos that are taken out of their shards; enough for every figure they fit
_MERGED = 64  # shards whose facts are gathered before they are summed


@dataclass(frozen=True)
class PackedTraining:
    """The training photos of packed photos. Its size is that of the cells with photos, not that of the photos.

    Attributes:
        facts: of the cells of `levels.cell`.
        lat_deg, lon_deg: centres of those cells, float64 (C,); they stand for the photos wherever only cells matter.
    """

    packed: PackedPhotos
    facts: CellFacts
    lat_deg: Float64
    lon_deg: Float64

    def __len__(self) -> int:
        """Return the number of photos."""
        return int(self.facts.photos.sum(dtype=np.int64))

    @classmethod
    def of(cls, packed: PackedPhotos, config: Config) -> PackedTraining:
        """Read the positions of all training photos.

        Raises:
            InputError: there are none.
            UsageError: the regime needs the features of all photos in a cache.
        """
        if config.training.regime != "full":
            raise UsageError(
                "packed photos are trained on with training.regime full; others keep features of every photo"
            )
        if not packed.manifest["splits"].get("train"):
            raise InputError(f"{packed.place} has no photos in its split 'train'; pack a table that has")
        facts = cell_facts(packed, "train", config.levels.cell)
        return cls(packed, facts, *s2.cell_centers(facts.ids))

    def stream(self, config: Config) -> Stream:
        """Open the stream of this process."""
        training = config.training
        schedule = Schedule(
            self.packed.shards("train"),
            training.batch_size,
            training.photos_per_place,
            training.seed,
            config.stream.window_shards,
            collectives.rank(),
            collectives.world(),
        )
        return Stream(self.packed, "train", config, schedule)


def cell_facts(packed: PackedPhotos, split: str, level: int) -> CellFacts:
    """Count the photos of a split and their capture days per cell, as `CellFacts.of_photos` does for all at once."""
    gathered: list[pa.Table] = []
    for name in packed.shards(split).names:
        rows = packed.rows(split, name)
        days = rows.column("captured_at").to_numpy(zero_copy_only=False).astype("datetime64[D]")
        cells = s2.cell_ids(rows.column("lat_deg").to_numpy(), rows.column("lon_deg").to_numpy(), level)
        gathered.append(pa.table({"cell": cells, "day": pa.array(days), "photos": np.ones(len(cells), np.int64)}))
        if len(gathered) > _MERGED:
            gathered = [_summed(gathered)]
    by_day = _summed(gathered)
    by_cell = by_day.group_by("cell").aggregate([("photos", "sum"), ("day", "count"), ("day", "min"), ("day", "max")])
    by_cell = by_cell.sort_by("cell")
    columns = [
        by_cell.column(name).to_numpy(zero_copy_only=False)
        for name in ("cell", "photos_sum", "day_count", "day_min", "day_max")
    ]
    kinds = ("uint64", "int32", "int32", "datetime64[D]", "datetime64[D]")
    return CellFacts(*(np.asarray(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def _summed(tables: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by(["cell", "day"]).aggregate([("photos", "sum")])
    return summed.rename_columns({"photos_sum": "photos"}).select(["cell", "day", "photos"])


def unpack(packed: PackedPhotos, split: str, folder: Path, most: int = MOST_VALIDATION) -> PhotoTable:
    """Write the images of the first photos of a split, which are in random order, into a folder; return their table.

    Photos that are damaged are left out and counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts, damaged, taken = [SCHEMA.empty_table()], 0, 0
    for name in packed.shards(split).names:
        if taken >= most:
            break
        loaded, rows = packed.load(split, name), packed.rows(split, name)
        kept: list[int] = []
        for row, member in enumerate(loaded.index["member"][: most - taken].tolist()):
            try:
                (folder / member).write_bytes(loaded.image(row))
                kept.append(row)
            except PhotoError:
                damaged += 1
        members = pa.array(loaded.index["member"][kept].tolist(), pa.string())
        parts.append(rows.take(pa.array(kept, pa.int64())).set_column(0, SCHEMA.field("file"), members))
        taken += len(kept)
    if damaged:
        print(f"{damaged} packed photos of the split {split} are damaged and left out", file=sys.stderr)
    return PhotoTable(pa.concat_tables(parts).cast(SCHEMA), folder)


def set_validation_apart(table: PhotoTable, validation: PhotoTable) -> PhotoTable:
    """Give the photos that were selected from the training split of a table for validation the split "validation"."""
    split = table.split.astype("<U10")
    trained = np.flatnonzero(split == "train")
    files = pa.array(table.column("file")).take(pa.array(trained))
    chosen: npt.NDArray[np.bool_] = pc.is_in(files, pa.array(validation.column("file"))).to_numpy(zero_copy_only=False)
    split[trained[chosen]] = "validation"
    return table.with_column("split", split)
