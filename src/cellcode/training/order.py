"""The order in which packed photos are shown: a function of seed and step, from the numbers of photos in each shard.

An epoch shows the shards in random order, dealt to the processes like cards. A process holds a window of a few shards at a
time and shows its places in random order; windows follow one another. Photos are packed in random order, so that a
window has places from all over the region: the window mixes what the packing has mixed already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError, UsageError
from cellcode.photos.shards import ShardList

Int64 = npt.NDArray[np.int64]


class Window(NamedTuple):
    """Shards that are in memory together: the `number`th ones of an epoch."""

    epoch: int
    number: int


class _Epoch(NamedTuple):
    """Windows of a process, and how many draws there are up to the end of each."""

    windows: list[Int64]
    ends: Int64


@dataclass(frozen=True)
class Schedule:
    """Which shards a process holds when.

    A draw is one place with `photos_per_place` of its photos. In an epoch a group of g photos is drawn
    ceil(g / photos_per_place) times, which shows every photo.

    Attributes:
        shards: of the split that is shown.
        batch_size: photos a batch of all processes; rounded down to a multiple of `photos_per_place`.
        window_shards: shards that are in memory together.
        rank, world: number of this process and how many there are.
    """

    shards: ShardList
    batch_size: int
    photos_per_place: int
    seed: int
    window_shards: int = 4
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        """Refuse what leaves a process without photos."""
        if not len(self.shards.names):
            raise InputError("the packed photos have none of the split that is asked for")
        if len(self.shards.names) < self.world:
            raise UsageError(
                f"{len(self.shards.names)} shards are too few for {self.world} processes; pack the photos again with a "
                "smaller --shard-photos"
            )
        if self.places_per_batch % self.world:
            raise UsageError(
                f"{self.places_per_batch} places a batch do not divide by {self.world} processes; set training.batch_size so "
                "that they do"
            )

    @property
    def places_per_batch(self) -> int:
        """Draws of a batch, all processes together."""
        return int(max(1, min(self.batch_size, int(self.shards.photos.sum())) // self.photos_per_place))

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps in which every photo is shown once, but for those of the last batch if it is not full."""
        return int(max(1, int(self._draws.sum()) // self.places_per_batch))

    def windows(self, epoch: int) -> list[Int64]:
        """Numbers of the shards in each window of this process, in the order of their windows."""
        return self._epoch(epoch).windows

    def positions(self, step: int) -> list[tuple[Window, Int64]]:
        """The draws of this process's share of a batch: windows, and positions in their shuffled draws.

        A process whose shards hold fewer draws than an epoch needs of it begins anew with its first window.
        """
        epoch, number = divmod(step, self.steps_per_epoch)
        ends = self._epoch(epoch).ends
        share = self.places_per_batch // self.world
        places = (number * share + np.arange(share)) % ends[-1]
        window = np.searchsorted(ends, places, side="right")
        cuts = np.flatnonzero(np.diff(window)) + 1
        return [
            (Window(epoch, int(part[0])), run - (int(ends[part[0] - 1]) if part[0] else 0))
            for part, run in zip(np.split(window, cuts), np.split(places, cuts), strict=True)
        ]

    def after(self, window: Window) -> Window:
        """Return the window that follows."""
        if window.number + 1 < len(self.windows(window.epoch)):
            return Window(window.epoch, window.number + 1)
        return Window(window.epoch + 1, 0)

    def draws(self, window: Window, groups: list[Int64]) -> Int64:
        """Numbers of the photos of each draw of a window, shuffled, (draws, photos_per_place).

        Args:
            groups: for each shard of the window, the group of every photo, rising.
        """
        shards = self.windows(window.epoch)[window.number]
        rng = np.random.default_rng([self.seed, 2, *window, self.rank])
        made = [
            self.shards.starts[shard] + draw_groups(group, self.photos_per_place, rng)
            for shard, group in zip(shards, groups, strict=True)
        ]
        return rng.permutation(np.concatenate(made))

    def _epoch(self, epoch: int) -> _Epoch:
        """Deal the shards of an epoch; the last epochs asked for are remembered, as they are asked for in every step."""
        if epoch not in self._dealt:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.shards.names))
            own = order[self.rank :: self.world]
            windows = [own[first : first + self.window_shards] for first in range(0, len(own), self.window_shards)]
            for old in list(self._dealt)[:-1]:
                del self._dealt[old]
            self._dealt[epoch] = _Epoch(windows, np.cumsum([self._draws[window].sum() for window in windows]))
        return self._dealt[epoch]

    @cached_property
    def _dealt(self) -> dict[int, _Epoch]:
        return {}

    @cached_property
    def _draws(self) -> Int64:
        """Draws of each shard, (S,)."""
        sizes = 1 + np.arange(self.shards.groups.shape[1])
        return np.asarray(self.shards.groups @ -(-sizes // self.photos_per_place), np.int64)


def draw_groups(group: Int64, photos_per_place: int, rng: np.random.Generator) -> Int64:
    """Draw photos of each group until all are drawn, (draws, photos_per_place); the last draw is filled up from the first.

    A group with fewer photos than that repeats them; augmentation makes the copies differ.
    """
    _, start, count = np.unique(group, return_index=True, return_counts=True)
    order = np.lexsort((rng.random(len(group)), group))  # random within each group
    draws = -(-count // photos_per_place)
    number = np.arange(draws.sum()) - np.repeat(np.cumsum(draws) - draws, draws)
    rank = number[:, None] * photos_per_place + np.arange(photos_per_place)
    return np.asarray(order[np.repeat(start, draws)[:, None] + rank % np.repeat(count, draws)[:, None]])
