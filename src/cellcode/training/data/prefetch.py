"""Batches are prepared in a thread of their own, before the step that trains on them.

Torch, numpy and Pillow release the interpreter lock while they work, so that one thread reads, augments and cuts beside the
training, and nothing is copied between processes. It hides that work where the encoders leave a core free, as on a GPU; where
they use all of them it neither helps nor harms. Each batch has a generator with a seed of its own, so that what is drawn does
not depend on when.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from cellcode.training.data.inputs import Sample
from cellcode.types import Int64

PREFETCHED = 2  # batches that are prepared while one is trained on


@dataclass(frozen=True)
class Batch:
    """A process's share of a batch.

    Attributes:
        number: of the batch since the training began.
        indices: (B,) of its photos.
        photos: of the indices.
        tiles: one per place, then the random negatives; None without imagery.
        random_tiles: how many random negatives there are.
    """

    number: int
    indices: Int64
    photos: Sample
    tiles: Sample | None = None
    random_tiles: int = 0

    def pinned(self) -> Batch:
        """Return the same in pinned memory, from which CUDA copies while the host continues."""
        tiles = self.tiles.pinned() if self.tiles is not None else None
        return Batch(self.number, self.indices, self.photos.pinned(), tiles, self.random_tiles)


class Prefetcher:
    """Prepares the batches that follow the one taken last.

    Args:
        make: makes the batch of a number; called from one thread, and in rising order unless another number is taken.
        device: where batches go to; on CUDA they are pinned.
        stop: batches from this number on are made only when they are taken.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device, stop: int) -> None:
        self._make, self._device, self._stop = make, device, stop
        self._pending: dict[int, Future[Batch]] = {}
        threads = torch.get_num_threads()
        # On a CPU the encoders use all cores: as many threads again would only wait for each other.
        own = max(1, threads // 4) if device.type == "cpu" else threads
        self._maker = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (own,))
        self._maker.submit(torch.get_num_threads).result()
        torch.set_num_threads(threads)  # what a thread sets is also what threads that begin later get

    def take(self, number: int) -> Batch:
        """Return a batch, once, and begin those that follow it.

        Raises:
            Exception: whatever making it raised.
        """
        if number not in self._pending:
            for pending in self._pending.values():
                pending.cancel()
            self._pending = {}
        for each in (number, *range(number + 1, min(number + 1 + PREFETCHED, self._stop))):
            if each not in self._pending:
                self._pending[each] = self._maker.submit(self._ready, each)
        return self._pending.pop(number).result()

    def close(self) -> None:
        """End the thread."""
        self._maker.shutdown(cancel_futures=True)

    def _ready(self, number: int) -> Batch:
        batch = self._make(number)
        return batch.pinned() if self._device.type == "cuda" else batch
