"""Opening what is searched: a database, or a folder of its shards in this process or on a Ray cluster."""

from collections.abc import Callable
from pathlib import Path

from cellcode.database import Database
from cellcode.database.store.shards import ShardedDatabase, open_database
from cellcode.errors import UsageError
from cellcode.search.searcher import DatabaseSearcher, Searcher
from cellcode.search.sharded import ShardedSearcher

LOCAL = "local"  # address of a Ray of our own on this machine


def open_searcher(
    cells: Database | Path | str, cluster: str | None = None
) -> tuple[Database, Searcher, Callable[[], None]]:
    """Open what is searched.

    Shards without a first stage are searched as one database. With one, each is searched in two stages, in a thread of its own.

    Args:
        cells: an open database, its folder, or a folder of its shards.
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
        return database, ShardedSearcher([DatabaseSearcher(shard) for shard in shards]), _nothing
    return database, DatabaseSearcher(database), _nothing


def _nothing() -> None:
    """Close what needs no closing."""
