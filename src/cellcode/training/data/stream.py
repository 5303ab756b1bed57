"""Photos for training that are read from shards as they are needed: memory does not grow with their number.

`Stream` stands where a `PlaceSampler` does and `StreamedPhotos` and `StreamedTiles` where `Photos` and `Tiles` do. A thread
reads the next window of shards while the present one is shown, others decode the next batches. What is shown is a
function of seed and step (see `order`), so that a resumed training, in the middle of an epoch too, reads the window it
stopped in and goes on with the batch it would have had.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator

from cellcode.config import Config
from cellcode.distributed.process_group import heard
from cellcode.errors import InputError
from cellcode.photos.packed.shards import LoadedShard, PackedPhotos
from cellcode.photos.reading.image import PhotoError, PhotoSpec, read_pixels
from cellcode.training.data import augmentation
from cellcode.training.data.hard_batches import Alike
from cellcode.training.data.inputs import Sample, Tiles
from cellcode.training.data.schedule import Cells, Schedule, Window
from cellcode.training.data.tiles import CellTiles
from cellcode.types import Bools, Float64, Int64, UInt8

AHEAD = 2  # batches that are decoded while one is shown
NAMED = 5  # damaged photos that are named one by one; the rest is counted


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch: numbers, pixels (B, H, W, 3) and positions; photos of a place are neighbours."""

    numbers: Int64
    pixels: UInt8
    lat_deg: Float64
    lon_deg: Float64


@dataclass(frozen=True)
class _Held:
    """A window in memory; `cells` has the row of each photo's cell, for each shard, where the order depends on it."""

    shards: dict[int, LoadedShard]
    cells: list[Int64]


class Stream:
    """Draws batches of packed photos in the order of a schedule. Batches are asked for in rising order.

    Args:
        packed, split: the photos.
        config: size of photos, and `stream`.
        schedule: whose shards are those of the split.
        cells: with them a photo is shown as often as its cell says; None: as often as any other.
        alike: the clusters that order the draws of a window; None: they come as they are drawn. Needs `cells`.
    """

    def __init__(
        self,
        packed: PackedPhotos,
        split: str,
        config: Config,
        schedule: Schedule,
        cells: Cells | None = None,
        alike: Alike | None = None,
    ) -> None:
        self.packed, self.split, self.schedule = packed, split, schedule
        self.cells, self.alike = cells, alike
        self.photo, self.most_damaged = config.photo, config.stream.damaged_share
        self.damaged: Counter[int] = Counter()  # photos that could not be read, by epoch
        self._reader = ThreadPoolExecutor(1, "shards")
        self._decoders = ThreadPoolExecutor(config.machine.threads or os.cpu_count(), "photos")
        self._windows: dict[Window, Future[_Held]] = {}
        self._drawn: dict[Window, Int64] = {}
        self._coming: dict[int, tuple[Int64, list[Future[UInt8 | str]]]] = {}
        self._batch: tuple[int, Batch] | None = None

    @property
    def photos_per_place(self) -> int:
        """Photos of a place in a batch."""
        return self.schedule.photos_per_place

    @property
    def photos_per_batch(self) -> int:
        """Photos of a batch, all processes together."""
        return self.schedule.places_per_batch * self.photos_per_place

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every photo once."""
        return self.schedule.steps_per_epoch

    def batch(self, step: int) -> Int64:
        """Photo numbers of a step, (photos_per_batch,); those of other processes, which only they know, are -1."""
        share = self.photos_per_batch // self.schedule.world
        numbers = np.full(self.photos_per_batch, -1)
        numbers[self.schedule.rank * share : (self.schedule.rank + 1) * share] = self.read(step).numbers
        return numbers

    def begin(self, step: int) -> int:
        """Return the first step of the window that this step's share begins in."""
        return self.schedule.begin(step)

    def read(self, step: int) -> Batch:
        """Return this process's share of a step's batch.

        A photo that cannot be read is replaced by another one of its place or, if there is none, by another place.

        Raises:
            InputError: more photos than `stream.damaged_share` of an epoch cannot be read.
        """
        if self._batch is None or self._batch[0] != step:
            self._coming = {number: found for number, found in self._coming.items() if number >= step}
            for number in range(step, step + AHEAD + 1):
                if number not in self._coming:
                    self._coming[number] = self._begin(number)
            self._let_go(step)
            self._batch = (step, self._finish(step))
        return self._batch[1]

    def current(self, numbers: Int64) -> tuple[Batch, Int64]:
        """Return the batch that was read last and the rows of some of its photos in it."""
        assert self._batch is not None  # indices come from `batch`
        batch = self._batch[1]
        order = np.argsort(batch.numbers, kind="stable")
        rows = order[np.minimum(np.searchsorted(batch.numbers[order], numbers), len(order) - 1)]
        if not np.array_equal(batch.numbers[rows], numbers):
            raise ValueError("these photos are not of the batch that was read last")
        return batch, rows

    def close(self) -> None:
        """End the threads."""
        self._reader.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)

    def _begin(self, step: int) -> tuple[Int64, list[Future[UInt8 | str]]]:
        """Begin to decode the photos of a step, as soon as their windows are there."""
        numbers, decoding = [], []
        for window, places in self.schedule.positions(step):
            held = self._window(window).result()
            drawn = self._draws(window, held)[places].ravel()
            numbers.append(drawn)
            shards = np.searchsorted(self.schedule.shards.starts, drawn, side="right") - 1
            rows = drawn - self.schedule.shards.starts[shards]
            for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
                decoding.append(self._decoders.submit(self._decode, held.shards[shard], row))
        return np.concatenate(numbers), decoding

    def _decode(self, shard: LoadedShard, row: int) -> UInt8 | str:
        try:
            image = shard.image(row)
        except PhotoError as error:
            return str(error)
        try:
            return read_pixels(image, PhotoSpec.of(self.photo))
        except PhotoError as error:
            return f"{shard.name}, {shard.index['member'][row]}: {str(error).removeprefix('photo: ')}"

    def _finish(self, step: int) -> Batch:
        numbers, decoding = self._coming.pop(step)
        made = [each.result() for each in decoding]
        reasons = {row: each for row, each in enumerate(made) if isinstance(each, str)}
        rows = np.arange(len(made))
        if reasons:
            self._count(step, reasons, numbers)
            rows = replacements(np.isin(rows, list(reasons)), self.photos_per_place)
        pixels = np.stack([made[row] for row in rows])
        lat_deg, lon_deg = self._positions(step, numbers[rows])
        return Batch(numbers[rows], pixels, lat_deg, lon_deg)

    def _count(self, step: int, reasons: dict[int, str], numbers: Int64) -> None:
        """Count damaged photos and name the first ones; stop when there are too many."""
        epoch = step // self.steps_per_epoch
        distinct = {int(numbers[row]): reason for row, reason in reasons.items()}
        for reason in list(distinct.values())[: max(0, NAMED - self.damaged[epoch])]:
            print(f"left out: {reason}", file=heard())
        self.damaged[epoch] += len(distinct)
        most = self.most_damaged * float(self.schedule.shards.photos.sum()) / self.schedule.world
        if self.damaged[epoch] > most or len(reasons) == len(numbers):
            raise InputError(
                f"{self.damaged[epoch]} photos could not be read in this epoch, more than stream.damaged_share "
                f"{self.most_damaged:g} allows; the last: {next(reversed(distinct.values()))}"
            )

    def _positions(self, step: int, numbers: Int64) -> tuple[Float64, Float64]:
        lat_deg, lon_deg = np.empty(len(numbers)), np.empty(len(numbers))
        starts = self.schedule.shards.starts
        own = np.searchsorted(starts, numbers, side="right") - 1
        for window, _ in self.schedule.positions(step):
            for shard, loaded in self._window(window).result().shards.items():
                of_shard = own == shard
                rows = numbers[of_shard] - starts[shard]
                lat_deg[of_shard], lon_deg[of_shard] = loaded.index["lat_deg"][rows], loaded.index["lon_deg"][rows]
        return lat_deg, lon_deg

    def _window(self, window: Window) -> Future[_Held]:
        if window not in self._windows:
            self._windows[window] = self._reader.submit(self._load, window)
        return self._windows[window]

    def _load(self, window: Window) -> _Held:
        names = self.schedule.shards.names
        numbers = self.schedule.windows(window.epoch)[window.number].tolist()
        shards = {number: self.packed.load(self.split, names[number]) for number in numbers}
        cells = []
        if self.cells is not None:
            columns = ("group", "lat_deg", "lon_deg")
            cells = [self.cells.rows(*(shard.index[name] for name in columns)) for shard in shards.values()]
        return _Held(shards, cells)

    def _draws(self, window: Window, held: _Held) -> Int64:
        """Draw a window, (draws, photos_per_place), when its first batch is begun: its clusters may be made just before."""
        if window not in self._drawn:
            groups = [shard.index["group"] for shard in held.shards.values()]
            weight = self.cells.weight if self.cells is not None else None
            weights = [weight[rows] for rows in held.cells] if weight is not None else None
            drawn = self.schedule.draws(window, groups, weights)
            labels = self.alike.at(self.schedule.first_step(window)) if self.alike is not None else None
            if self.cells is not None and labels is not None:
                prototypes = self.cells.prototypes[self._of_window(held, drawn[:, 0])]
                drawn = drawn[self.schedule.grouped(window, labels, prototypes)]
            self._drawn[window] = drawn
        return self._drawn[window]

    def _of_window(self, held: _Held, numbers: Int64) -> Int64:
        """Return the rows of the cells of photos of a window."""
        starts = self.schedule.shards.starts
        shard = np.searchsorted(starts, numbers, side="right") - 1
        made = np.empty(len(numbers), np.int64)
        for own, rows in zip(held.shards, held.cells, strict=True):
            of_shard = shard == own
            made[of_shard] = rows[numbers[of_shard] - starts[own]]
        return made

    def _let_go(self, step: int) -> None:
        """Drop the windows before this step's, and begin to read the one after those of the next steps."""
        needed = [window for number in range(step, step + AHEAD + 1) for window, _ in self.schedule.positions(number)]
        following = self.schedule.after(needed[-1])
        self._window(following)
        self._windows = {window: held for window, held in self._windows.items() if window in (*needed, following)}
        self._drawn = {window: drawn for window, drawn in self._drawn.items() if window in needed}


def replacements(damaged: Bools, photos_per_place: int) -> Int64:
    """Return which photo of a batch stands in for each, (B,): itself, another of its place, or one of the next places.

    Args:
        damaged: (B,), photos of a place are neighbours; not all of them are.
    """
    rows = np.arange(len(damaged)).reshape(-1, photos_per_place)
    broken = damaged.reshape(rows.shape)
    first_whole = np.argmin(broken, axis=1)  # of each place
    rows = np.where(broken, rows[:, :1] + first_whole[:, None], rows)
    whole_places = np.flatnonzero(~broken.all(axis=1))
    following = whole_places[np.searchsorted(whole_places, np.arange(len(rows))) % len(whole_places)]
    return np.asarray(rows[following].ravel())


class StreamedPhotos:
    """Photos of a stream as augmented pixels; see `Photos`."""

    def __init__(self, stream: Stream, config: Config) -> None:
        self.stream, self.config = stream, config

    def draw(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw augmented photos (B, H, W, 3) float32 of the batch that was read last."""
        batch, rows = self.stream.current(indices)
        images = augmentation.photos(torch.from_numpy(batch.pixels[rows]), self.config.augmentation, random)
        return Sample(images, batch.lat_deg[rows], batch.lon_deg[rows])


class StreamedTiles(Tiles):
    """Tiles around the photos of a stream; see `Tiles`."""

    def __init__(self, store: CellTiles, stream: Stream, config: Config) -> None:
        none = np.zeros(0)
        super().__init__(store, none, none, config)
        self.stream = stream

    def around(self, indices: Int64, random: Generator = torch.default_generator) -> Sample:
        """Draw a tile around each photo of the batch that was read last."""
        batch, rows = self.stream.current(indices)
        lat_deg, lon_deg = batch.lat_deg[rows], batch.lon_deg[rows]
        return self._cut(self.store.rows(lat_deg, lon_deg, self.config.levels.cell), lat_deg, lon_deg, random)
