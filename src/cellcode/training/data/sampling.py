"""Which photos make a batch: a pure function of seed and step, so that a resumed run draws what it would have drawn.

In hard batches places of one cluster of prototypes come together, which are harder to tell apart than random ones.
Every `prototypes.mine_every_steps` steps the prototypes are clustered as training has made them so far (`Miner`).
Samplers reorder what they would show anyway so that `training.hard_group_size` places of one cluster come together: nothing
is shown more or less often. After Fervers et al. (ECCV 2024), who embed the photos and tiles of the next batches and gather
around a random one those most similar to it; prototypes are there already and need no pass over photos.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.model.prototypes.protocol import PrototypeTable
from cellcode.types import Float64, Int32, Int64

LOOKAHEAD = 8  # batches; more than are begun before the training needs them, by `Prefetcher` and `Stream` together


@dataclass
class HardBatches:
    """The cluster of each prototype at several times, for samplers that run ahead of the training.

    A stretch of batches (part of a pass, or a window of shards) is ordered by the latest clusters made at least `LOOKAHEAD`
    batches before it begins, however early it is prepared; so its order is a function of seed and step. Where there are no
    such clusters yet nothing is reordered.
    """

    group_size: int  # places of one cluster that come together
    period: int  # batches between two clusterings
    labels: dict[int, Int32] = field(
        default_factory=dict
    )  # (P,), those needed, by the batch before which they were made

    @classmethod
    def of(cls, config: Config) -> HardBatches | None:
        """Return what a configuration requires; None: places come as they are drawn."""
        rule = config.training
        period = config.prototypes.mine_every_steps * rule.gradient_accumulation
        return cls(rule.hard_group_size, period) if rule.hard_group_size > 1 else None

    def at(self, begin: int) -> Int32 | None:
        """Return the clusters for a stretch that begins with this batch."""
        latest = self._latest(begin)
        return self.labels[latest] if latest is not None else None

    def stretch(self, batch: int) -> tuple[int, int]:
        """Return the first batch with the latest clusters that this one can have, and the first one with the next clusters."""
        begin = (batch - LOOKAHEAD) // self.period * self.period + LOOKAHEAD
        return max(0, begin), begin + self.period

    def keep(self, batch: int, labels: Int32, begin: int) -> None:
        """Add clusters made before a batch, and forget those that no stretch from `begin` on needs."""
        oldest = self._latest(begin)
        needed = {made: kept for made, kept in self.labels.items() if oldest is None or made >= oldest}
        self.labels = {**needed, batch: labels}  # replaced, not changed: a thread may be reading it

    def _latest(self, begin: int) -> int | None:
        return max((made for made in self.labels if made + LOOKAHEAD <= begin), default=None)


def hard_order(labels: Int32, rows: Int64, size: int, rng: np.random.Generator, lead: int = 0) -> Int64:
    """Order draws so that `size` of one cluster come together, in random order; what a cluster has left over comes last.

    From the cluster of each prototype (P,), in the order of the S2 curve, and the prototype of each draw (N,): the numbers of
    the draws in their new order (N,), of which `lead` are before the first whole group.
    """
    groups, left = _groups(labels, rows, size, rng)
    arranged, lead = np.concatenate([groups.ravel(), left]), min(lead, len(rows))
    count = (len(rows) - lead) // size
    together, rest = rng.permutation(arranged[: count * size].reshape(count, size)), arranged[count * size :]
    return np.concatenate([rest[:lead], together.ravel(), rest[lead:]])


def _groups(labels: Int32, rows: Int64, size: int, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Divide draws into groups of one cluster, (G, size), and those left over, by cluster, so that neighbours are similar too.

    The draws of a cluster, along the S2 curve, are cut into `size` equal runs and a group has one of each run: its cells
    look alike without being neighbours, where the cluster has others.
    """
    own = labels[rows].astype(np.int64)
    order = np.argsort(own * len(labels) + rows, kind="stable")  # by cluster, along the curve in each
    own = own[order]
    count = np.bincount(own)
    start, groups = np.cumsum(count) - count, count // size
    # Rotated at random, so that what is left over is not always from the same end of the curve.
    rank = (np.arange(len(rows)) - start[own] + rng.integers(0, np.maximum(count, 1))[own]) % count[own]
    whole = rank < (groups * size)[own]
    left, order, own, rank = order[~whole], order[whole], own[whole], rank[whole]
    # Each run in random order; the first of all runs of a cluster are a group, the second ones the next.
    shuffled = np.argsort(own * size + rank // groups[own] + rng.random(len(own)), kind="stable")
    order, own = order[shuffled], own[shuffled]
    first = np.cumsum(groups) - groups
    run, at = np.divmod(np.arange(len(own)) - first[own] * size, groups[own])
    grouped = np.empty((int(groups.sum()), size), np.int64)
    grouped[first[own] + at, run] = order
    return grouped, left


class Sampler(ABC):
    """Draws the photos of every batch, those of a place next to each other, in the order that `hard` may ask for."""

    def __init__(self, photos_per_place: int, hard: HardBatches | None = None) -> None:
        self.photos_per_place, self.hard = photos_per_place, hard
        self.damaged: Counter[int] = Counter()  # photos that could not be read, by epoch

    @property
    @abstractmethod
    def photos_per_batch(self) -> int:
        """Photos of a batch, all processes together."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Batches that show as many photos as there are."""

    @abstractmethod
    def batch(self, step: int) -> Int64:
        """Return the photo indices of a batch, (photos_per_batch,); of other processes they may be -1."""

    @abstractmethod
    def begin(self, step: int) -> int:
        """Return the first batch of the stretch, ordered by the same clusters, that a batch belongs to."""

    def close(self) -> None:  # noqa: B027 - a default
        """End threads."""


class PlaceSampler(Sampler):
    """Batches of places with several photos each.

    Anchors run through a fresh permutation of all photos; each brings `photos_per_place - 1` other photos of its place,
    drawn at random (a place with one photo repeats it; augmentation makes the copies differ).

    Args:
        places: (N,) any integers; photos with the same one are of one place.
        batch_size: photos per batch; rounded down to a multiple of `photos_per_place`.
        sampling_exponent: a place with n photos is drawn in proportion to n to the power of this; 1: every photo once per pass.
        hard: orders the anchors between two clusterings.
        prototypes: (N,) row of each photo's prototype, for `hard`.
    """

    def __init__(
        self,
        places: npt.NDArray[np.integer],
        batch_size: int,
        photos_per_place: int,
        seed: int,
        sampling_exponent: float = 1.0,
        hard: HardBatches | None = None,
        prototypes: Int64 | None = None,
    ) -> None:
        super().__init__(photos_per_place, hard)
        self.anchors_per_batch = max(1, min(batch_size, len(places)) // photos_per_place)
        self.seed, self.sampling_exponent = seed, sampling_exponent
        self._prototypes = prototypes if prototypes is not None else np.zeros(0, np.int64)
        random = np.random.default_rng([seed, 9])
        shuffled = np.arange(len(places)) if sampling_exponent == 1 else random.permutation(len(places))
        self._order = shuffled[np.argsort(places[shuffled], kind="stable")]
        _, self._place, self._count = np.unique(places, return_inverse=True, return_counts=True)
        self._start = np.cumsum(self._count) - self._count
        self._rank = np.empty(len(places), np.int64)  # position of each photo among those of its place
        self._rank[self._order] = np.arange(len(places)) - self._start[self._place[self._order]]
        self._batches_per_pass = max(1, len(places) // self.anchors_per_batch)
        self._pass = self._stretch = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """See `Sampler`."""
        return max(1, len(self._order) // self.photos_per_batch)

    @property
    def photos_per_batch(self) -> int:
        """See `Sampler`."""
        return self.anchors_per_batch * self.photos_per_place

    def batch(self, step: int) -> Int64:
        """See `Sampler`."""
        anchors = self._anchors(step)
        rng = np.random.default_rng([self.seed, 2, step])
        count = self._count[self._place[anchors]][:, None]
        # Distinct companions while the place has enough: a random start, then the next ones around the ring of others.
        others = np.maximum(count - 1, 1)
        begin = rng.integers(0, others)
        turns = 1 + (begin + np.arange(self.photos_per_place - 1)[None]) % others
        ranks = (self._rank[anchors][:, None] + np.concatenate([np.zeros_like(count), turns], axis=1)) % count
        return np.asarray(self._order[self._start[self._place[anchors]][:, None] + ranks].ravel())

    def begin(self, step: int) -> int:
        """See `Sampler`; a stretch is a part of a pass."""
        first_of_pass = step - step % self._batches_per_pass
        return max(first_of_pass, self.hard.stretch(step)[0]) if self.hard is not None else first_of_pass

    def _anchors(self, step: int) -> Int64:
        number, position = divmod(step, self._batches_per_pass)
        begin = self.begin(step)
        labels = self.hard.at(begin) if self.hard is not None else None
        if self.hard is None or labels is None:
            return self._of_pass(number, position, position + 1)
        if self._stretch[0] != begin:
            end = min(self.hard.stretch(step)[1], (number + 1) * self._batches_per_pass)
            drawn = self._of_pass(number, position - (step - begin), position + (end - step))
            rng = np.random.default_rng([self.seed, 8, begin])
            self._stretch = (begin, drawn[hard_order(labels, self._prototypes[drawn], self.hard.group_size, rng)])
        first = (step - begin) * self.anchors_per_batch
        return self._stretch[1][first : first + self.anchors_per_batch]

    def _of_pass(self, number: int, first: int, last: int) -> Int64:
        if self._pass[0] != number:
            self._pass = (number, self._draw(number))
        return self._pass[1][first * self.anchors_per_batch : last * self.anchors_per_batch]

    def _draw(self, number: int) -> Int64:
        rng = np.random.default_rng([self.seed, 1, number])
        if self.sampling_exponent == 1:
            return rng.permutation(len(self._order))
        weight = self._count**self.sampling_exponent
        often = systematic(weight, len(self._order), rng)
        # A place continues in this pass about where it stopped in the one before: its photos are shown equally often.
        before = (number * len(self._order) * (weight / weight.sum())).astype(np.int64)
        place = np.repeat(np.arange(len(often)), often)
        rank = np.arange(len(place)) - np.repeat(np.cumsum(often) - often, often) + before[place]
        return rng.permutation(self._order[self._start[place] + rank % self._count[place]])


def systematic(weight: Float64, draws: int, rng: np.random.Generator) -> Int64:
    """Return how often each is drawn, (N,) from weights (N,): `draws` in all, its share of them rounded down or up."""
    order = rng.permutation(len(weight))
    ends = np.cumsum(weight[order])
    ends *= draws / ends[-1]
    ends[-1] = draws  # exactly
    often = np.empty(len(weight), np.int64)
    often[order] = np.diff(np.floor(ends + rng.random()), prepend=0)
    return often


@dataclass(frozen=True)
class Miner:
    """Clusters the prototypes, if there are any, as training has made them so far: for hard rows and for hard batches."""

    config: Config
    prototypes: PrototypeTable | None
    sampler: Sampler

    def mine_if_due(self, step: int) -> None:
        """Cluster before every `prototypes.mine_every_steps`th step; all processes must call it."""
        table, batches = self.prototypes, self.sampler.hard
        if table is None or step % self.config.prototypes.mine_every_steps:
            return
        rows = table.takes_hard_rows and self.config.prototypes.hard_rows > 0
        # Before the first step prototypes are random: as good as any for hard rows, useless for hard batches.
        if not (rows or (batches is not None and step)):
            return
        found = table.cluster(self.config.training.seed)
        if rows:
            table.clusters = found
        if batches is not None and step:
            batch = step * self.config.training.gradient_accumulation
            begins = collectives.gather_array(np.array([self.sampler.begin(batch)]))  # windows differ between processes
            batches.keep(batch, found.of_row, int(begins.min()))
