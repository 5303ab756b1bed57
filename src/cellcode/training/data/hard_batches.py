"""Batches of places that look alike, which a model tells apart with more effort than places taken at random.

Every `prototypes.mine_every_steps` steps the prototypes are clustered by what training has made of them so far. Samplers order
what they were going to show anyway so that places of one cluster come together, `training.hard_group_size` of them: nothing
is shown more or less often. After Fervers et al. (ECCV 2024), who embed the photos and tiles of the next batches and gather
around a random one those that look most like it; prototypes are there already and need no pass over photos.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.model.prototypes.protocol import PrototypeTable
from cellcode.types import Int32, Int64

LOOKAHEAD = 8  # batches; more than are begun ahead of the training, by `ahead.AHEAD` and `stream.AHEAD` together


@dataclass
class Alike:
    """The cluster of each prototype at several times, for samplers that are ahead of the training.

    A stretch of batches (part of a pass, or a window of shards) is ordered by the latest clusters that were made `LOOKAHEAD`
    batches before it begins or earlier, however far ahead it is prepared; so its order is a function of seed and step. Where
    there are no such clusters yet nothing is reordered.

    Attributes:
        places: how many that look alike come together.
        period: batches between two clusterings.
        kept: (P,) int32, the cluster of each prototype, by the batch before which it was made; those still needed.
    """

    places: int
    period: int
    kept: dict[int, Int32] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> Alike | None:
        """Return what a configuration asks for; None: places come as they are drawn."""
        rule = config.training
        if rule.hard_group_size == 1:
            return None
        return cls(rule.hard_group_size, config.prototypes.mine_every_steps * rule.gradient_accumulation)

    def at(self, begin: int) -> Int32 | None:
        """Return the clusters for a stretch that begins with this batch."""
        made = self._latest(begin)
        return self.kept[made] if made is not None else None

    def stretch(self, batch: int) -> tuple[int, int]:
        """Return the first batch that has the latest clusters this one can have, and the first one with the next clusters."""
        begin = (batch - LOOKAHEAD) // self.period * self.period + LOOKAHEAD
        return max(0, begin), begin + self.period

    def keep(self, batch: int, labels: Int32, begin: int) -> None:
        """Add clusters made before a batch, and forget those that no stretch from `begin` on needs."""
        oldest = self._latest(begin)
        needed = {made: kept for made, kept in self.kept.items() if oldest is None or made >= oldest}
        self.kept = {**needed, batch: labels}  # replaced, not changed: a thread may be reading it

    def _latest(self, begin: int) -> int | None:
        return max((made for made in self.kept if made + LOOKAHEAD <= begin), default=None)


class Sampler(Protocol):
    """What a `Miner` has to know of a sampler."""

    alike: Alike | None

    def begin(self, step: int) -> int:
        """Return the first batch of the stretch that a batch belongs to."""


@dataclass(frozen=True)
class Miner:
    """Clusters the prototypes when it is time: for hard rows of a sharded table, and for a sampler's places that look alike."""

    config: Config
    prototypes: PrototypeTable | None
    sampler: Sampler

    def mine_if_due(self, step: int) -> None:
        """Cluster before every `prototypes.mine_every_steps`th step; all processes have to call it."""
        table, alike = self.prototypes, self.sampler.alike
        hard = table is not None and table.takes_hard_rows and self.config.prototypes.hard_rows > 0
        # Before the first step prototypes are random: as good as any for hard rows, of no use for places.
        if table is None or step % self.config.prototypes.mine_every_steps or not (hard or (alike and step)):
            return
        found = table.cluster(self.config.training.seed)
        if hard:
            table.clusters = found
        if alike is not None and step:
            batch = step * self.config.training.gradient_accumulation
            begins = collectives.gather_array(np.array([self.sampler.begin(batch)]))  # windows differ between processes
            alike.keep(batch, found.of_row, int(begins.min()))


def grouped(labels: Int32, rows: Int64, size: int, rng: np.random.Generator, lead: int = 0) -> Int64:
    """Order draws so that `size` of one cluster come together, in random order; what a cluster has left over comes last.

    The draws of a cluster are cut into `size` equal runs along the S2 curve and a group has one of each run: its cells look
    alike without being neighbours, where the cluster has others.

    Args:
        labels: (P,) the cluster of each prototype.
        rows: (N,) the prototype of each draw; rows are in the order of the S2 curve.
        lead: draws before the first whole group.

    Returns:
        (N,) numbers of the draws in their new order; after `lead` and each multiple of `size` more a group begins.
    """
    own = labels[rows].astype(np.int64)
    order = np.argsort(own * len(labels) + rows, kind="stable")  # by cluster, along the curve in each
    own = own[order]
    count = np.bincount(own)
    start, groups = np.cumsum(count) - count, count // size
    # Turned at random, so that what is left over is not always from the same end of the curve.
    rank = (np.arange(len(rows)) - start[own] + rng.integers(0, np.maximum(count, 1))[own]) % count[own]
    whole = rank < (groups * size)[own]
    left, order, own, rank = order[~whole], order[whole], own[whole], rank[whole]
    # Each run in random order; the first of all runs of a cluster are a group, the second ones the next.
    shuffled = np.argsort(own * size + rank // groups[own] + rng.random(len(own)), kind="stable")
    order, own = order[shuffled], own[shuffled]
    first = np.cumsum(groups) - groups
    run, at = np.divmod(np.arange(len(own)) - first[own] * size, groups[own])
    arranged = np.empty(len(rows), np.int64)
    arranged[(first[own] + at) * size + run] = order
    arranged[len(order) :] = left  # by cluster: those with near numbers look alike too
    lead = min(lead, len(rows))
    made = (len(rows) - lead) // size
    together, rest = rng.permutation(arranged[: made * size].reshape(made, size)), arranged[made * size :]
    return np.concatenate([rest[:lead], together.ravel(), rest[lead:]])
