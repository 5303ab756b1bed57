"""Search of disjoint shards: the best of the best cells of every shard are the answer. Opening of what is searched.

Shards are databases of one run with the same calibration, no cell in two of them; `cellcode split` cuts them out of one. A
score is the same figure in whatever shard its cell lies (`index.codeset.score`), so cells and scores of joined exact
searches are bit for bit those of a single database.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from cellcode.client.answers import Searched
from cellcode.database import Database
from cellcode.database.store.shards import Shard, ShardedDatabase, check_shards, common, open_database, same_cells
from cellcode.errors import UsageError
from cellcode.geography import Region
from cellcode.search.searcher import DatabaseSearcher, Hits, Searcher, check_k
from cellcode.types import Float32

LOCAL = "local"  # address of a Ray of our own on this machine
T = TypeVar("T")
R = TypeVar("R")


class ShardedSearcher:
    """Searches shards in threads of this process; a `Searcher`. Not for several threads at once.

    Args:
        searchers: one a shard, at least one; their cells are disjoint, which only `open` can check.
        threads: shards searched at a time; None: one a processor.
    """

    def __init__(self, searchers: Sequence[Searcher], threads: int | None = None) -> None:
        if not searchers:
            raise UsageError("there are no shards to search; give at least one")
        self.searchers = tuple(searchers)
        self._threads = min(len(searchers), threads or os.cpu_count() or 1)

    @classmethod
    def open(cls, folders: Sequence[Path | str], threads: int | None = None) -> Self:
        """Open the databases in some folders as shards.

        Raises:
            InputError: a folder holds no database, or they are no shards of one whole; see `check_shards`.
        """
        databases = [Database.open(folder) for folder in folders]
        for one, other in check_shards([Shard.of(database) for database in databases]):
            if common(databases[one].ids, databases[other].ids):
                raise same_cells(databases[one].folder, databases[other].folder)
        return cls([DatabaseSearcher(database) for database in databases], threads)

    def count(self, region: Region | None = None) -> int:
        """Return the number of cells of all shards in a region."""
        return sum(self._each(lambda searcher: searcher.count(region), self.searchers))

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float | None = None) -> Hits:
        """See `Searcher`. `log_mass` differs a little from one database's: which rows count by their int8 codes differs."""
        counts = self._each(lambda searcher: searcher.count(region), self.searchers)
        check_k(k, sum(counts), region)
        asked = [(searcher, count) for searcher, count in zip(self.searchers, counts, strict=True) if count]
        return merge(self._each(lambda pair: pair[0].search(queries, min(k, pair[1]), region, temperature), asked), k)

    def _each(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call for every item; the first error is raised, so that no shard is ever left out."""
        with ThreadPoolExecutor(self._threads) as threads:
            return list(threads.map(call, items))


def merge(parts: Sequence[Hits], k: int, missing: tuple[str, ...] = ()) -> Hits:
    """Join the answers of disjoint shards to the same queries.

    Args:
        parts: at least one, with at least k columns together.
        missing: shards that gave none, for `Searched.missing`.

    Returns:
        The k best cells of each query; equal scores go to the smaller id. `log_mass` is None if a part has none.
    """
    ids = np.concatenate([part.cell_ids for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    masses = [part.log_mass for part in parts if part.log_mass is not None]
    searched = [part.searched for part in parts]
    return Hits(
        cell_ids=np.take_along_axis(ids, order, axis=1),
        scores=np.take_along_axis(scores, order, axis=1),
        log_mass=np.logaddexp.reduce(masses) if len(masses) == len(parts) else None,
        searched=Searched(
            method="+".join(sorted({each.method for each in searched})),
            cells=sum(each.cells for each in searched),
            exact=all(each.exact for each in searched),
            scored_again=sum(each.scored_again for each in searched),
            missing=missing + tuple(name for each in searched for name in each.missing),
        ),
    )


def open_searcher(
    cells: Database | Path | str, cluster: str | None = None
) -> tuple[Database, Searcher, Callable[[], None]]:
    """Open what is searched.

    Shards without a first stage are searched as one database. With one, each is searched in two stages, in a thread of its own.

    Args:
        cluster: search the shards on a Ray cluster: its address, "auto", or "local" for a Ray of our own on this machine.

    Returns:
        The database, its searcher, and what closes the searcher.

    Raises:
        InputError: no database, no complete set of shards, or a damaged file.
        UsageError: a cluster is given and `cells` is a single database.
        ShardError: shards do not start on the cluster.
        MissingExtraError: Ray is not installed.
    """
    database = open_database(cells)
    shards = database.shards if isinstance(database, ShardedDatabase) else ()
    if cluster is not None:
        if not shards:
            raise UsageError(
                f"{database.folder} is a single database; a cluster searches shards, `cellcode split` cuts them"
            )
        from cellcode.search.cluster import ClusterSearcher

        address = None if cluster == LOCAL else cluster
        remote = ClusterSearcher.start([shard.folder.resolve() for shard in shards], address=address)
        return database, remote, remote.close
    if any(shard.search_settings is not None for shard in shards):
        return database, ShardedSearcher([DatabaseSearcher(shard) for shard in shards]), lambda: None
    return database, DatabaseSearcher(database), lambda: None
