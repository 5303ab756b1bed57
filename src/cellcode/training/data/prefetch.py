"""Batches made ahead of the step that trains on them, in a thread of their own.

Torch, numpy and Pillow let other threads run while they work, so that one thread reads, augments and cuts beside the training,
and nothing has to be copied between processes. It hides that work where the encoders leave a core free, as on a GPU; where
they have all of them it neither helps nor harms. Each batch has a generator with a seed of its own, so that what is drawn does
not depend on when.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from cellcode.training.data.inputs import Sample
from cellcode.types import Int64

AHEAD = 2  # batches that are made, or being made, while one is trained on


@dataclass(frozen=True)
class Batch:
    """A process's share of a batch.

    Attributes:
        number: of the batch since the training began.
        indices: (B,) of its photos.
        photos: of the indices.
        tiles: one for each place, then those from anywhere; None without imagery.
        strangers: tiles from anywhere.
    """

    number: int
    indices: Int64
    photos: Sample
    tiles: Sample | None = None
    strangers: int = 0

    def pinned(self) -> Batch:
        """Return the same in memory from which CUDA copies while the host goes on."""
        tiles = self.tiles.pinned() if self.tiles is not None else None
        return Batch(self.number, self.indices, self.photos.pinned(), tiles, self.strangers)


class Ahead:
    """Makes the batches that follow the one that was taken last.

    Args:
        make: makes the batch of a number; called from one thread, and in rising order unless another number is asked for.
        device: where batches go to; on CUDA they are pinned.
        stop: batches from this number on are made only when they are asked for.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device, stop: int) -> None:
        self._make, self._device, self._stop = make, device, stop
        self._coming: dict[int, Future[Batch]] = {}
        threads = torch.get_num_threads()
        # On a CPU the encoders have all cores already: as many threads again would only wait for each other.
        own = max(1, threads // 4) if device.type == "cpu" else threads
        self._maker = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (own,))
        self._maker.submit(torch.get_num_threads).result()
        torch.set_num_threads(threads)  # what a thread sets is also what threads that begin later get

    def take(self, number: int) -> Batch:
        """Return a batch, once, and begin those that follow it.

        Raises:
            Exception: whatever making it raised.
        """
        if number not in self._coming:
            for other in self._coming.values():
                other.cancel()
            self._coming = {}
        for coming in (number, *range(number + 1, min(number + 1 + AHEAD, self._stop))):
            if coming not in self._coming:
                self._coming[coming] = self._maker.submit(self._ready, coming)
        return self._coming.pop(number).result()

    def close(self) -> None:
        """End the thread."""
        self._maker.shutdown(cancel_futures=True)

    def _ready(self, number: int) -> Batch:
        batch = self._make(number)
        return batch.pinned() if self._device.type == "cuda" else batch
