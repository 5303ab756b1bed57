"""The order in which packed photos are shown: a function of seed and step, from the numbers of photos in each shard.

An epoch shows the shards in random order, distributed over the processes in turn. A process holds a window of a few shards at a
time and shows its places in random order; windows follow one another. Photos are packed in random order, so that a
window has places from all over the region.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cellcode.errors import InputError, UsageError
from cellcode.geography import s2
from cellcode.photos.packed.shards import ShardList
from cellcode.training.data.sampling import hard_order, systematic
from cellcode.types import Float64, Ids, Int32, Int64


class Window(NamedTuple):
    """Shards that are in memory together: the `number`th ones of an epoch, shown for the `turn`th time in it."""

    epoch: int
    number: int
    turn: int = 0


class _Epoch(NamedTuple):
    """Windows of a process, and how many draws there are up to the end of each."""

    windows: list[Int64]
    ends: Int64


@dataclass(frozen=True)
class Schedule:
    """Which shards a process holds, and when.

    A draw is one place with `photos_per_place` of its photos. In an epoch a group of g photos is drawn
    ceil(g / photos_per_place) times, which shows every photo. Weights make some groups of a window more frequent at the cost of
    others: the number of draws of a window is known before it is read, and does not change.
    """

    shards: ShardList
    batch_size: int  # photos of all processes; rounded down to a multiple of `photos_per_place`
    photos_per_place: int
    seed: int
    window_shards: int = 4  # in memory together
    rank: int = 0
    world: int = 1
    hard_group_size: int = 1  # draws of one cluster that come together

    def __post_init__(self) -> None:
        """Refuse shards and batches that leave a process without photos."""
        count, advice = len(self.shards.names), "set training.batch_size so that they do"
        if not count:
            raise InputError("the packed photos have none in this split")
        if count < self.world:
            too_few = f"{count} shards are too few for {self.world} processes"
            raise UsageError(f"{too_few}; pack the photos again with a smaller --shard-photos")
        if self.places_per_batch % self.world:
            raise UsageError(
                f"{self.places_per_batch} places per batch do not divide by {self.world} processes; {advice}"
            )
        if self._share % self.hard_group_size:
            places = f"{self._share} places of a process in a batch"
            raise UsageError(f"{places} do not divide by training.hard_group_size {self.hard_group_size}; {advice}")

    @property
    def places_per_batch(self) -> int:
        """Draws of a batch, all processes together."""
        return int(max(1, min(self.batch_size, int(self.shards.photos.sum())) // self.photos_per_place))

    @property
    def _share(self) -> int:
        return self.places_per_batch // self.world

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
        turn, places = np.divmod(number * self._share + np.arange(self._share), ends[-1])
        window = np.searchsorted(ends, places, side="right")
        cuts = np.flatnonzero(np.diff(window) | np.diff(turn)) + 1
        return [
            (Window(epoch, int(at[0]), int(again[0])), run - (int(ends[at[0] - 1]) if at[0] else 0))
            for at, again, run in zip(*(np.split(each, cuts) for each in (window, turn, places)), strict=True)
        ]

    def locate(self, numbers: Int64) -> tuple[Int64, Int64]:
        """Return the shard of each photo number, and its row in it."""
        shards = np.searchsorted(self.shards.starts, numbers, side="right") - 1
        return shards, numbers - self.shards.starts[shards]

    def begin(self, step: int) -> int:
        """Return the first step that shows a part of the first window that this step shows."""
        return self.first_step(self.positions(step)[0][0])

    def first_step(self, window: Window) -> int:
        """Return the first step that shows a part of a window."""
        return window.epoch * self.steps_per_epoch + self._before(window) // self._share

    def after(self, window: Window) -> Window:
        """Return the window that follows."""
        if window.number + 1 < len(self.windows(window.epoch)):
            return window._replace(number=window.number + 1)
        return Window(window.epoch + 1, 0)

    def draws(self, window: Window, groups: list[Int64], weights: list[Float64] | None = None) -> Int64:
        """Numbers of the photos of each draw of a window, shuffled, (draws, photos_per_place).

        For each shard of the window, `groups` are those of its photos, rising, and `weights` their relative frequencies; None:
        every photo is shown once.
        """
        shards = self.windows(window.epoch)[window.number]
        rng = np.random.default_rng([self.seed, 2, window.epoch, window.number, self.rank])
        often = [self._plain(group) for group in groups]
        if weights is not None:
            firsts = [np.unique(group, return_index=True)[1] for group in groups]
            weight = [plain * own[first] for plain, own, first in zip(often, weights, firsts, strict=True)]
            drawn = systematic(np.concatenate(weight), int(np.concatenate(often).sum()), rng)
            often = np.split(drawn, np.cumsum([len(each) for each in often])[:-1])
        made = [
            self.shards.starts[shard] + draw_groups(group, each, self.photos_per_place, rng)
            for shard, group, each in zip(shards, groups, often, strict=True)
        ]
        return rng.permutation(np.concatenate(made))

    def hard_order(self, window: Window, labels: Int32, prototypes: Int64) -> Int64:
        """Order the draws of a window by the clusters of their prototypes; groups begin where a batch does."""
        rng = np.random.default_rng([self.seed, 8, *window, self.rank])
        lead = -self._before(window) % self.hard_group_size
        return hard_order(labels, prototypes, self.hard_group_size, rng, lead)

    def _before(self, window: Window) -> int:
        """Draws of an epoch before a window."""
        ends = self._epoch(window.epoch).ends
        return int(window.turn * ends[-1] + (ends[window.number - 1] if window.number else 0))

    def _plain(self, group: Int64) -> Int64:
        """How often each group is drawn when every photo is shown once."""
        return np.asarray(-(-np.unique(group, return_counts=True)[1] // self.photos_per_place))

    def _epoch(self, epoch: int) -> _Epoch:
        """Distribute the shards of an epoch; the last epochs are remembered, since every step needs them."""
        if epoch not in self._epochs:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.shards.names))
            own = order[self.rank :: self.world]
            windows = [own[first : first + self.window_shards] for first in range(0, len(own), self.window_shards)]
            for old in list(self._epochs)[:-1]:
                del self._epochs[old]
            self._epochs[epoch] = _Epoch(windows, np.cumsum([self._draws[window].sum() for window in windows]))
        return self._epochs[epoch]

    @cached_property
    def _epochs(self) -> dict[int, _Epoch]:
        return {}

    @cached_property
    def _draws(self) -> Int64:
        """Draws of each shard, (S,)."""
        sizes = 1 + np.arange(self.shards.groups.shape[1])
        return np.asarray(self.shards.groups @ -(-sizes // self.photos_per_place), np.int64)


def draw_groups(group: Int64, often: Int64, photos_per_place: int, rng: np.random.Generator) -> Int64:
    """Draw photos of each group `often` times, (draws, photos_per_place), in turn and then again from the first.

    A group with fewer photos repeats them; augmentation makes the copies differ.
    """
    _, start, count = np.unique(group, return_index=True, return_counts=True)
    order = np.lexsort((rng.random(len(group)), group))  # random within each group
    number = np.arange(often.sum()) - np.repeat(np.cumsum(often) - often, often)
    rank = number[:, None] * photos_per_place + np.arange(photos_per_place)
    return np.asarray(order[np.repeat(start, often)[:, None] + rank % np.repeat(count, often)[:, None]])


@dataclass(frozen=True)
class Cells:
    """The cells with photos (C,), sorted, of one level, for an order that depends on them.

    Each has the relative frequency of its photos (None: all the same) and the row of the prototype that it is in.
    """

    ids: Ids
    weight: Float64 | None
    prototypes: Int64

    @classmethod
    def of(cls, ids: Ids, photos: Int32, sampling_exponent: float, level: int) -> Cells:
        """Weigh cells so that one with n photos is shown in proportion to n**sampling_exponent; `level` is the prototypes'."""
        prototypes = np.unique(s2.parents(ids, level), return_inverse=True)[1]
        weight = photos.astype(np.float64) ** (sampling_exponent - 1) if sampling_exponent != 1 else None
        return cls(ids, weight, prototypes)

    def rows(self, group: Int64, lat_deg: Float64, lon_deg: Float64) -> Int64:
        """Return the row of the cell of each photo's group, (N,); the position of a group is that of its first photo."""
        _, first, own = np.unique(group, return_index=True, return_inverse=True)
        level = int(s2.levels(self.ids[:1])[0])
        return np.searchsorted(self.ids, s2.cell_ids(lat_deg[first], lon_deg[first], level))[own]
