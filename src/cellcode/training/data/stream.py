"""Photos for training that are read from shards when they are needed: memory does not grow with their number.

One thread reads the next window of shards while the present one is shown (`windows`), others decode the next batches. What is
shown is a function of seed and step (`schedule`), so that a resumed training, in the middle of an epoch too, reads the
window in which it stopped and continues with the batch it would have had.
"""

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.photos.packed.shards import LoadedShard, PackedPhotos
from cellcode.photos.reading.image import PhotoError, PhotoSpec, read_pixels
from cellcode.training.data.hard_batches import HardBatches
from cellcode.training.data.sampling import Sampler
from cellcode.training.data.schedule import Cells, Schedule
from cellcode.training.data.windows import Shown, Windows
from cellcode.types import Bools, Float64, Int64, UInt8

logger = logging.getLogger(__name__)
DECODED = 2  # batches that are decoded while one is shown
NAMED = 5  # damaged photos that are named one by one; the rest are counted


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch: numbers, pixels (B, H, W, 3) and positions; photos of a place are neighbours."""

    numbers: Int64
    pixels: UInt8
    lat_deg: Float64
    lon_deg: Float64


class Stream(Sampler):
    """Batches of packed photos in the order of a schedule, and a `PhotoReader` of the batch that was read last.

    Args:
        packed, split: the photos.
        config: size of photos, and `stream`.
        schedule: whose shards are those of the split.
        cells: their weights decide how often a photo is shown; None: all photos equally often.
        hard: orders the draws of a window; needs `cells`.
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
        """Return the batch that was read last, and the rows of photos in it."""
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
