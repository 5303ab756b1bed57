"""Which photos make a batch: a pure function of seed and step, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class PlaceSampler:
    """Batches of places with several photos each.

    Anchors run through a fresh permutation of all photos; each brings `photos_per_place - 1` other photos of its place,
    drawn at random (a place with one photo repeats it; augmentation makes the copies differ).

    Args:
        places: (N,) any integers; photos with the same one are of one place.
        batch_size: photos a batch; rounded down to a multiple of `photos_per_place`.
        seed: of every draw.
    """

    def __init__(self, places: npt.NDArray[np.integer], batch_size: int, photos_per_place: int, seed: int) -> None:
        self.photos_per_place = photos_per_place
        self.anchors_per_batch = max(1, min(batch_size, len(places)) // photos_per_place)
        self.seed = seed
        self._order = np.argsort(places, kind="stable")
        _, place, self._count = np.unique(places, return_inverse=True, return_counts=True)
        self._start = np.cumsum(self._count) - self._count
        self._place = place
        self._rank = np.empty(len(places), np.int64)  # position of each photo among those of its place
        self._rank[self._order] = np.arange(len(places)) - self._start[place[self._order]]
        self._batches_per_pass = max(1, len(places) // self.anchors_per_batch)
        self._pass: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show as many photos as there are."""
        return max(1, len(self._order) // (self.anchors_per_batch * self.photos_per_place))

    @property
    def photos_per_batch(self) -> int:
        """Photos of a batch."""
        return self.anchors_per_batch * self.photos_per_place

    def batch(self, step: int) -> Indices:
        """Photo indices of a step, (anchors * photos_per_place,); the photos of a place are next to each other."""
        number, position = divmod(step, self._batches_per_pass)
        if self._pass[0] != number:
            self._pass = (number, np.random.default_rng([self.seed, 1, number]).permutation(len(self._order)))
        first = position * self.anchors_per_batch
        anchors = self._pass[1][first : first + self.anchors_per_batch]
        rng = np.random.default_rng([self.seed, 2, step])
        count = self._count[self._place[anchors]][:, None]
        # Distinct companions while the place has enough: a random start, then the next ones around the ring of others.
        others = np.maximum(count - 1, 1)
        begin = rng.integers(0, others)
        turns = 1 + (begin + np.arange(self.photos_per_place - 1)[None]) % others
        ranks = (self._rank[anchors][:, None] + np.concatenate([np.zeros_like(count), turns], axis=1)) % count
        return np.asarray(self._order[self._start[self._place[anchors]][:, None] + ranks].ravel())
