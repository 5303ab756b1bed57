"""Windows of shards in memory, and which photos of them a batch shows. A thread reads the next window while one is shown."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cellcode.photos.packed.shards import LoadedShard, PackedPhotos
from cellcode.training.data.hard_batches import HardBatches
from cellcode.training.data.schedule import Cells, Schedule, Window
from cellcode.types import Float64, Int64


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
        return _Held(
            shards, {number: self.cells.rows(*(shard.index[c] for c in columns)) for number, shard in shards.items()}
        )

    def _cells_of(self, held: _Held, numbers: Int64) -> Int64:
        """Return the row of the cell of each photo of a window."""
        shards, rows = self.schedule.locate(numbers)
        found = np.empty(len(numbers), np.int64)
        for shard, cells in held.cells.items():
            found[shards == shard] = cells[rows[shards == shard]]
        return found
