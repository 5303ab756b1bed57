"""Hard batches: places of one cluster of prototypes come together, which are harder to tell apart than random ones.

Every `prototypes.mine_every_steps` steps the prototypes are clustered as training has made them so far (`loop.mining`).
Samplers reorder what they would show anyway so that `training.hard_group_size` places of one cluster come together: nothing
is shown more or less often. After Fervers et al. (ECCV 2024), who embed the photos and tiles of the next batches and gather
around a random one those most similar to it; prototypes are there already and need no pass over photos.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cellcode.config import Config
from cellcode.types import Int32, Int64

LOOKAHEAD = 8  # batches; more than are begun before the training needs them, by `prefetch` and `stream` together


@dataclass
class HardBatches:
    """The cluster of each prototype at several times, for samplers that run ahead of the training.

    A stretch of batches (part of a pass, or a window of shards) is ordered by the latest clusters made at least `LOOKAHEAD`
    batches before it begins, however early it is prepared; so its order is a function of seed and step. Where there are no
    such clusters yet nothing is reordered.

    Attributes:
        group_size: places of one cluster that come together.
        period: batches between two clusterings.
        labels: (P,) int32, the cluster of each prototype, by the batch before which they were clustered; those still needed.
    """

    group_size: int
    period: int
    labels: dict[int, Int32] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> HardBatches | None:
        """Return what a configuration requires; None: places come as they are drawn."""
        rule = config.training
        if rule.hard_group_size == 1:
            return None
        return cls(rule.hard_group_size, config.prototypes.mine_every_steps * rule.gradient_accumulation)

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

    Args:
        labels: (P,) the cluster of each prototype.
        rows: (N,) the prototype of each draw; rows are in the order of the S2 curve.
        lead: draws before the first whole group.

    Returns:
        (N,) numbers of the draws in their new order; after `lead` and each multiple of `size` more a group begins.
    """
    groups, left = _groups(labels, rows, size, rng)
    arranged = np.concatenate([groups.ravel(), left])
    lead = min(lead, len(rows))
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
