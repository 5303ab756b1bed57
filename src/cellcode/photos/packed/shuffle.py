"""What packing knows of a whole photo table: facts, the order of packing, and rows in that order without holding them.

What is held of every photo is its split, its place in the order and its group: 9 bytes, and about 70 with its cell while they
are sorted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.photos.table.photo_table import ROWS, SCHEMA, SPLITS, Batches
from cellcode.types import Bools, Float64, Ids, Int8, Int64

TRAIN, VALIDATION = SPLITS.index("train"), SPLITS.index("validation")


@dataclass
class Facts:
    """Bounds (west, south, east and north edge in degrees), licences and attributions of all photos together."""

    bounds: tuple[float, float, float, float] = (np.inf, np.inf, -np.inf, -np.inf)
    licences: set[str] = field(default_factory=set)
    attributions: set[str] = field(default_factory=set)


def gather(table: Batches, level: int) -> tuple[Facts, Ids, Int8]:
    """Return facts, cells of a level, (N,), and numbers of the splits, (N,), of photos; InputError: an unknown split."""
    facts = Facts()
    cells, split = np.empty(table.photos, np.uint64), np.empty(table.photos, np.int8)
    first = 0
    for part in table.parts(["lat_deg", "lon_deg", "split", "licence", "attribution"]):
        rows = slice(first, first + len(part))
        first += len(part)
        number = pc.index_in(part.column("split"), value_set=pa.array(SPLITS))
        if number.null_count:
            raise InputError(
                f"the photo table has a split that is none of {', '.join(SPLITS)}; ingest the photos again"
            )
        split[rows] = number.to_numpy()
        lat, lon = (part.column(name).to_numpy() for name in ("lat_deg", "lon_deg"))
        cells[rows] = s2.cell_ids(lat, lon, level)
        west, south, east, north = facts.bounds
        facts.bounds = (min(west, lon.min()), min(south, lat.min()), max(east, lon.max()), max(north, lat.max()))
        for name, known in (("licence", facts.licences), ("attribution", facts.attributions)):
            known.update(filter(None, pc.unique(part.column(name)).to_pylist()))
    return facts, cells, split


def set_validation_apart(table: Batches, split: Int8, choose: Callable[[Float64, Float64], Bools]) -> None:
    """Make the training photos that `choose` takes by latitudes and longitudes validation photos; InputError: none."""
    trained = np.flatnonzero(split == TRAIN)
    if not len(trained):
        raise InputError("the photo table has no photos in its split 'train'; ingest with a split, or a larger folder")
    places, first, done = np.empty((2, len(trained))), 0, 0
    for part in table.parts(["lat_deg", "lon_deg"]):
        own = split[first : first + len(part)] == TRAIN
        rows = slice(done, done + int(own.sum()))
        places[:, rows] = [part.column(name).to_numpy()[own] for name in ("lat_deg", "lon_deg")]
        first, done = first + len(part), rows.stop
    split[trained[choose(*places)]] = VALIDATION


Ints = npt.NDArray[np.signedinteger[Any]]
_MOST_BUCKETS = 300  # a spilled table has the square of it in pieces; larger tables have larger buckets
_PLACE = "place"


@dataclass(frozen=True)
class Layout:
    """Where every photo of a table comes in the packing.

    Attributes:
        place: (N,), of each photo of the table, those of one split after those of another.
        groups: for each split that has photos the group of each, (n,), rising from 0, in the order of their places.
    """

    place: Ints
    groups: dict[str, Ints]

    @classmethod
    def of(cls, cells: Ids, split: Int8, group_photos: int, seed: int) -> Self:
        """Order photos by their cells, (N,), and the numbers of their splits, (N,)."""
        place, groups, first = np.empty(len(cells), _kind(len(cells))), dict[str, Ints](), 0
        for number, name in enumerate(SPLITS):
            chosen = np.flatnonzero(split == number).astype(place.dtype)
            if not len(chosen):
                continue
            order, groups[name] = grouped_order(cells[chosen], group_photos, seed)
            place[chosen[order]] = np.arange(first, first + len(chosen), dtype=place.dtype)
            first += len(chosen)
        return cls(place, groups)

    def shards(self, split: str, shard_photos: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, first and last + 1 photo of each shard of a split; a group is never cut."""
        first = _starts(self.groups[split])
        shard = first // shard_photos
        begin = _starts(shard)
        edges = np.append(first[begin], len(self.groups[split]))
        yield from zip(shard[begin].tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def start(self, split: str) -> int:
        """Return the place of the first photo of a split."""
        return sum(len(self.groups[name]) for name in takewhile(split.__ne__, self.groups))


def grouped_order(cells: Ids, group_photos: int, seed: int) -> tuple[Ints, Ints]:
    """Order photos by their cells, (N,), so that groups of one cell lie together and the groups in random order.

    Returns:
        Numbers of the photos in their new order, (N,), and the group of each, rising from 0, (N,).
    """
    kind = _kind(len(cells))
    rng = np.random.default_rng([seed, len(cells)])
    by_cell = rng.permutation(len(cells)).astype(kind)
    by_cell = by_cell[np.argsort(cells[by_cell], kind="stable")]
    start = _starts(cells[by_cell])
    count = np.diff(start, append=len(cells))
    groups = -(-count // group_photos)  # of a cell; as equal in size as can be
    before = np.cumsum(groups) - groups
    group = np.empty(len(cells), kind)
    for low in range(0, len(start), ROWS):  # cells at a time: what is computed of a photo is wider than what is kept
        part = slice(low, low + ROWS)
        many = count[part]
        rank = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        own = rank * np.repeat(groups[part], many) // np.repeat(many, many)
        group[start[low] : start[low] + len(own)] = np.repeat(before[part], many) + own
    group = rng.permutation(int(groups.sum())).astype(kind)[group]
    order = np.argsort(group, kind="stable").astype(kind)
    return by_cell[order], group[order]


def _starts(values: npt.NDArray[Any]) -> Int64:
    """Return where each run of equal values begins."""
    begins = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def _kind(count: int) -> type[np.signedinteger[Any]]:
    return np.int32 if count < 2**31 else np.int64


class Spill:
    """The rows of a photo table in another order.

    They are written to a file once, each part of the table sorted into buckets of the new order, and read bucket by bucket.
    Files are read from front to back, and memory holds one part or one bucket. Photos get the splits of the numbers `split`,
    (N,), and the places `place`, (N,). Whoever makes this removes the file.
    """

    def __init__(self, table: Batches, split: Int8, place: Ints, path: Path) -> None:
        self.path = path
        self._rows = max(ROWS, table.photos // _MOST_BUCKETS)
        self._pieces: dict[int, list[int]] = {}  # of each bucket, numbers of its record batches
        self._bucket: tuple[int, pa.Table] = (-1, SCHEMA.empty_table())
        names = pa.array(SPLITS)
        schema = pa.schema([*SCHEMA, pa.field(_PLACE, pa.int64(), nullable=False)])
        first = written = 0
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for part in table.parts(rows=self._rows):
                rows = slice(first, first + len(part))
                part = part.set_column(
                    SCHEMA.get_field_index("split"), SCHEMA.field("split"), names.take(pa.array(split[rows]))
                ).append_column(schema.field(_PLACE), pa.array(place[rows], pa.int64()))
                first += len(part)
                order = np.argsort(place[rows])
                bucket = place[rows][order] // self._rows
                (batch,) = part.take(pa.array(order)).combine_chunks().cast(schema).to_batches()
                cuts = [0, *(np.flatnonzero(np.diff(bucket)) + 1).tolist(), len(order)]
                for begin, end in pairwise(cuts):
                    writer.write_batch(batch.slice(begin, end - begin))
                    self._pieces.setdefault(int(bucket[begin]), []).append(written)
                    written += 1

    def rows(self, begin: int, end: int) -> pa.Table:
        """Return the photos of places `begin` to `end` - 1, in that order; cheap if asked for in rising order."""
        buckets = range(begin // self._rows, (end - 1) // self._rows + 1)
        joined = pa.concat_tables([self._load(bucket) for bucket in buckets])
        return joined.slice(begin - buckets.start * self._rows, end - begin)

    def _load(self, bucket: int) -> pa.Table:
        if self._bucket[0] != bucket:
            self._bucket = (-1, SCHEMA.empty_table())  # let go of the last one first
            with pa.memory_map(str(self.path)) as source, pa.ipc.open_file(source) as reader:
                made = pa.Table.from_batches([reader.get_batch(number) for number in self._pieces[bucket]])
                order = np.argsort(made.column(_PLACE).to_numpy())
                self._bucket = (bucket, made.drop_columns([_PLACE]).take(pa.array(order)).combine_chunks())
        return self._bucket[1]
