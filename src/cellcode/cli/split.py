"""cellcode split."""

from pathlib import Path
from typing import Annotated

from typer import Option

from cellcode.cli.common import DatabaseFolder


def command(
    database: DatabaseFolder,
    shards: Annotated[int, Option(help="Number of shards.")],
    out: Annotated[Path, Option(help="Folder for the shards; each is a database.")],
) -> None:
    """Split a database into shards for several machines."""
    from cellcode.database import split

    for shard in split(database, shards, out=out):
        print(shard.folder)
