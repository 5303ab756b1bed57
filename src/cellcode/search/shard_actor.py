"""What runs on the nodes of a Ray cluster: the search of one shard. Knows nothing of Ray."""

import os

import numpy as np

from cellcode.database.store.shards import Shard, common
from cellcode.errors import CellcodeError
from cellcode.geography import Region
from cellcode.search.searcher import DatabaseSearcher, Hits
from cellcode.types import Float32, Ids


class ShardUnusable(Exception):
    """An actor cannot open its database; another one may."""


class ShardActor:
    """What runs on a node of the cluster: the searcher of one database, opened at the first call.

    Args:
        folder: of the database.
        expected: what the actor before this one had opened there.
    """

    def __init__(self, folder: str, expected: Shard | None = None) -> None:
        self.folder, self.expected = folder, expected
        self._opened: DatabaseSearcher | None = None
        self._region: Region | None = None

    def facts(self) -> Shard:
        """Describe the shard."""
        return Shard.of(self._searcher.database)

    def count(self, region: Region | None) -> int:
        """See `Searcher`."""
        if region != self._region:  # an equal one has its rows remembered by the searcher, which knows it by identity
            self._region = region
        return self._searcher.count(self._region)

    def search(
        self, queries: Float32, k: int, region: Region | None, temperature: float | None
    ) -> tuple[int, Hits | None]:
        """Return the number of cells in the region, and the best k of them or all; None if there are none."""
        count = self.count(region)
        if not count:
            return 0, None
        queries = np.array(queries)  # Ray's arrays are read-only, which torch does not know
        return count, self._searcher.search(queries, min(k, count), self._region, temperature)

    def ids(self) -> Ids:
        """Return the ids of all cells, for the check of `common`."""
        return np.array(self._searcher.database.ids)

    def common(self, ids: Ids) -> int:
        """Return how many of some sorted ids this shard has."""
        return common(self._searcher.database.ids, ids)

    def pid(self) -> int:
        """Return the actor's process on its node."""
        return os.getpid()

    @property
    def _searcher(self) -> DatabaseSearcher:
        if self._opened is None:
            import torch

            torch.set_num_threads(1)
            try:
                opened = DatabaseSearcher.open(self.folder)
            except CellcodeError as error:
                raise ShardUnusable(str(error)) from None
            if self.expected not in (None, Shard.of(opened.database)):
                raise ShardUnusable("its database is another since the search was started; start it again")
            self._opened = opened
        return self._opened
