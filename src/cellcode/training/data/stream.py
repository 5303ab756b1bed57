"""Photos for training that are read from shards when they are needed: memory does not grow with their number.

One thread reads the next window of shards while the present one is shown (`Windows`), others decode the next batches. What is
shown is a function of seed and step (`schedule`), so that a resumed training, in the middle of an epoch too, reads the
window in which it stopped and continues with the batch it would have had.
"""

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.photos.packed.shards import LoadedShard, PackedPhotos
from cellcode.photos.reading.image import PhotoError, PhotoSpec, read_pixels
from cellcode.training.data.sampling import HardBatches, Sampler
from cellcode.training.data.schedule import Cells, Schedule, Window
from cellcode.types import Bools, Float64, Int64, UInt8

logger = logging.getLogger(__name__)
DECODED = 2  # batches that are decoded while one is shown
NAMED = 5  # damaged photos that are named one by one; the rest are counted


class Shown(NamedTuple):
    """Photos of a batch: their numbers, positions in degrees, and where their images are, (B,) each."""

    numbers: Int64
    lat_deg: Float64
    lon_deg: Float64
    images: list[tuple[LoadedShard, int]]


@dataclass(frozen=True)
class _Held:
    """A window in memory: its shards by number, and of each the rows of its photos' cells, where the order depends on them."""

    shards: dict[int, LoadedShard]
    cells: dict[int, Int64]


class Windows:
    """The windows of this process around the batch that is shown; see `Stream` for the arguments."""

    def __init__(
        self, packed: PackedPhotos, split: str, schedule: Schedule, cells: Cells | None, hard: HardBatches | None
    ) -> None:
        self.packed, self.split, self.schedule, self.cells, self.hard = packed, split, schedule, cells, hard
        self._reader = ThreadPoolExecutor(1, "shards")
        self._held: dict[Window, Future[_Held]] = {}
        self._drawn: dict[Window, Int64] = {}

    def shown(self, step: int) -> Shown:
        """Return the photos of this process's share of a batch; waits until their windows are read."""
        parts = []
        for window, places in self.schedule.positions(step):
            numbers = self.draws(window)[places].ravel()
            shards, rows = self.schedule.locate(numbers)
            held = self._window(window).result().shards
            images = [(held[shard], row) for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)]
            lat_deg, lon_deg = (
                np.array([shard.index[name][row] for shard, row in images], np.float64)
                for name in ("lat_deg", "lon_deg")
            )
            parts.append(Shown(numbers, lat_deg, lon_deg, images))
        numbers, lat_deg, lon_deg = (np.concatenate(each) for each in list(zip(*parts, strict=True))[:3])
        return Shown(numbers, lat_deg, lon_deg, [image for part in parts for image in part.images])

    def draws(self, window: Window) -> Int64:
        """Return the photo numbers of each draw of a window, (draws, photos_per_place).

        They are drawn for its first batch and not before: the clusters that order them may be made just before that.
        """
        if window not in self._drawn:
            held = self._window(window).result()
            groups = [shard.index["group"] for shard in held.shards.values()]
            weight = self.cells.weight if self.cells is not None else None
            weights = [weight[rows] for rows in held.cells.values()] if weight is not None else None
            drawn = self.schedule.draws(window, groups, weights)
            labels = self.hard.at(self.schedule.first_step(window)) if self.hard is not None else None
            if self.cells is not None and labels is not None:
                prototypes = self.cells.prototypes[self._cells_of(held, drawn[:, 0])]
                drawn = drawn[self.schedule.hard_order(window, labels, prototypes)]
            self._drawn[window] = drawn
        return self._drawn[window]

    def keep(self, first: int, last: int) -> None:
        """Drop the windows that the batches first..last do not show, and begin to read the one that follows."""
        needed = [window for step in range(first, last + 1) for window, _ in self.schedule.positions(step)]
        following = self.schedule.after(needed[-1])
        self._window(following)
        self._held = {window: held for window, held in self._held.items() if window in (*needed, following)}
        self._drawn = {window: drawn for window, drawn in self._drawn.items() if window in needed}

    def close(self) -> None:
        """End the thread."""
        self._reader.shutdown(cancel_futures=True)

    def _window(self, window: Window) -> Future[_Held]:
        if window not in self._held:
            self._held[window] = self._reader.submit(self._load, window)
        return self._held[window]

    def _load(self, window: Window) -> _Held:
        names = self.schedule.shards.names
        numbers = self.schedule.windows(window.epoch)[window.number].tolist()
        shards = {number: self.packed.load(self.split, names[number]) for number in numbers}
        if self.cells is None:
            return _Held(shards, {})
        columns = ("group", "lat_deg", "lon_deg")
        rows = {number: self.cells.rows(*(shard.index[c] for c in columns)) for number, shard in shards.items()}
        return _Held(shards, rows)

    def _cells_of(self, held: _Held, numbers: Int64) -> Int64:
        shards, rows = self.schedule.locate(numbers)
        found = np.empty(len(numbers), np.int64)
        for shard, cells in held.cells.items():
            found[shards == shard] = cells[rows[shards == shard]]
        return found


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch: numbers, pixels (B, H, W, 3) and positions; photos of a place are neighbours."""

    numbers: Int64
    pixels: UInt8
    lat_deg: Float64
    lon_deg: Float64


class Stream(Sampler):
    """Batches of packed photos in the order of a schedule, and a `PhotoReader` of the batch that was read last.

    The weights of `cells` decide how often a photo is shown (None: all equally); `hard`, which needs them, orders the draws.
    """

    def __init__(
        self,
        packed: PackedPhotos,
        split: str,
        config: Config,
        schedule: Schedule,
        cells: Cells | None = None,
        hard: HardBatches | None = None,
    ) -> None:
        super().__init__(schedule.photos_per_place, hard)
        self.schedule, self.photo, self.damaged_share = schedule, config.photo, config.stream.damaged_share
        self.windows = Windows(packed, split, schedule, cells, hard)
        self._decoders = ThreadPoolExecutor(config.machine.threads or os.cpu_count(), "photos")
        self._pending: dict[int, tuple[Shown, list[Future[UInt8 | str]]]] = {}
        self._latest: tuple[int, Batch] | None = None

    @property
    def photos_per_batch(self) -> int:
        """See `Sampler`."""
        return self.schedule.places_per_batch * self.photos_per_place

    @property
    def steps_per_epoch(self) -> int:
        """See `Sampler`."""
        return self.schedule.steps_per_epoch

    def batch(self, step: int) -> Int64:
        """See `Sampler`; batches are read in rising order, and photos of other processes are -1."""
        numbers = np.full((self.schedule.world, self.photos_per_batch // self.schedule.world), -1)
        numbers[self.schedule.rank] = self.read(step).numbers
        return numbers.ravel()

    def begin(self, step: int) -> int:
        """Return the first step of the window that this step's share begins in."""
        return self.schedule.begin(step)

    def read(self, step: int) -> Batch:
        """Return this process's share of a batch; a photo that cannot be read is replaced, see `replacements`.

        Raises:
            InputError: more photos than `stream.damaged_share` of an epoch cannot be read.
        """
        if self._latest is None or self._latest[0] != step:
            self._pending = {number: found for number, found in self._pending.items() if number >= step}
            for number in range(step, step + DECODED + 1):
                if number not in self._pending:
                    shown = self.windows.shown(number)
                    decoding = [self._decoders.submit(self._decode, *image) for image in shown.images]
                    self._pending[number] = shown, decoding
            self.windows.keep(step, step + DECODED)
            self._latest = (step, self._finish(step))
        return self._latest[1]

    def pixels_of(self, indices: Int64) -> UInt8:
        """See `PhotoReader`; raises ValueError for photos that are not of the batch read last."""
        batch, rows = self._rows(indices)
        return batch.pixels[rows]

    def positions_of(self, indices: Int64) -> tuple[Float64, Float64]:
        """See `pixels_of`."""
        batch, rows = self._rows(indices)
        return batch.lat_deg[rows], batch.lon_deg[rows]

    def close(self) -> None:
        """End the threads."""
        self.windows.close()
        self._decoders.shutdown(cancel_futures=True)

    def _rows(self, numbers: Int64) -> tuple[Batch, Int64]:
        assert self._latest is not None  # indices come from `batch`
        batch = self._latest[1]
        order = np.argsort(batch.numbers, kind="stable")
        rows = order[np.minimum(np.searchsorted(batch.numbers[order], numbers), len(order) - 1)]
        if not np.array_equal(batch.numbers[rows], numbers):
            raise ValueError("these photos are not of the batch that was read last")
        return batch, rows

    def _decode(self, shard: LoadedShard, row: int) -> UInt8 | str:
        """Return the pixels of a photo, or why it cannot be read."""
        try:
            image = shard.image(row)
        except PhotoError as error:
            return str(error)
        try:
            return read_pixels(image, PhotoSpec.of(self.photo))
        except PhotoError as error:
            return f"{shard.name}, {shard.index['member'][row]}: {str(error).removeprefix('photo: ')}"

    def _finish(self, step: int) -> Batch:
        shown, decoding = self._pending.pop(step)
        decoded = [each.result() for each in decoding]
        reasons = {row: each for row, each in enumerate(decoded) if isinstance(each, str)}
        rows = np.arange(len(decoded))
        if reasons:
            self._count(step, reasons, shown.numbers)
            rows = replacements(np.isin(rows, list(reasons)), self.photos_per_place)
        pixels = np.stack([decoded[row] for row in rows])
        return Batch(shown.numbers[rows], pixels, shown.lat_deg[rows], shown.lon_deg[rows])

    def _count(self, step: int, reasons: dict[int, str], numbers: Int64) -> None:
        """Count damaged photos and name the first ones; stop when there are too many."""
        epoch = step // self.steps_per_epoch
        distinct = {int(numbers[row]): reason for row, reason in reasons.items()}
        process = f"process {self.schedule.rank}: " if self.schedule.world > 1 else ""
        for reason in list(distinct.values())[: max(0, NAMED - self.damaged[epoch])]:
            logger.warning("%sleft out: %s", process, reason)
        self.damaged[epoch] += len(distinct)
        most = self.damaged_share * float(self.schedule.shards.photos.sum()) / self.schedule.world
        if self.damaged[epoch] > most or len(reasons) == len(numbers):
            raise InputError(
                f"{self.damaged[epoch]} photos could not be read in this epoch, more than stream.damaged_share "
                f"{self.damaged_share:g} allows; the last: {next(reversed(distinct.values()))}"
            )


def replacements(damaged: Bools, photos_per_place: int) -> Int64:
    """Return which photo of a batch replaces each, (B,): itself, another of its place, or one of the next places.

    Photos of a place are neighbours; not all of them are damaged.
    """
    rows = np.arange(len(damaged)).reshape(-1, photos_per_place)
    broken = damaged.reshape(rows.shape)
    rows = np.where(broken, rows[:, :1] + np.argmin(broken, axis=1)[:, None], rows)  # the first whole one of each place
    whole_places = np.flatnonzero(~broken.all(axis=1))
    following = whole_places[np.searchsorted(whole_places, np.arange(len(rows))) % len(whole_places)]
    return np.asarray(rows[following].ravel())
