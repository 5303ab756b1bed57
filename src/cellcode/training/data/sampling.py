"""Which photos make a batch: a pure function of seed and step, so that a resumed run draws what it would have drawn."""

from abc import ABC, abstractmethod
from collections import Counter

import numpy as np
import numpy.typing as npt

from cellcode.training.data.hard_batches import HardBatches, hard_order
from cellcode.types import Float64, Int64


class Sampler(ABC):
    """Draws the photos of every batch.

    Attributes:
        photos_per_place: photos of a place in a batch, next to each other.
        hard: the clusters that order what is drawn; None: places come as they are drawn.
        damaged: photos that could not be read, by epoch.
    """

    def __init__(self, photos_per_place: int, hard: HardBatches | None = None) -> None:
        self.photos_per_place, self.hard = photos_per_place, hard
        self.damaged: Counter[int] = Counter()

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
        seed: of every draw.
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
        _, place, self._count = np.unique(places, return_inverse=True, return_counts=True)
        self._start = np.cumsum(self._count) - self._count
        self._place = place
        self._rank = np.empty(len(places), np.int64)  # position of each photo among those of its place
        self._rank[self._order] = np.arange(len(places)) - self._start[place[self._order]]
        self._batches_per_pass = max(1, len(places) // self.anchors_per_batch)
        self._pass: tuple[int, Int64] = (-1, np.empty(0, np.int64))
        self._stretch: tuple[int, Int64] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """See `Sampler`."""
        return max(1, len(self._order) // (self.anchors_per_batch * self.photos_per_place))

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
        """Return the first batch of the part of a pass that is ordered by the same clusters as this one."""
        first_of_pass = step - step % self._batches_per_pass
        return max(first_of_pass, self.hard.stretch(step)[0]) if self.hard is not None else first_of_pass

    def _anchors(self, step: int) -> Int64:
        """Return the anchors of a step, (anchors_per_batch,)."""
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
        """Return the anchors that are drawn for batches `first` to `last` of a pass."""
        if self._pass[0] != number:
            self._pass = (number, self._draw(number))
        return self._pass[1][first * self.anchors_per_batch : last * self.anchors_per_batch]

    def _draw(self, number: int) -> Int64:
        """Draw the anchors of a pass, as many as there are photos."""
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
