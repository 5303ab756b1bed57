"""cellcode split."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    shards: Annotated[int, Option(help="Number of shards.")],
    out: Annotated[Path, Option(help="Folder for the shards, databases of their own.")],
) -> None:
    """Cut a database into shards for several machines."""
    from cellcode.database import split

    for shard in split(database, shards, out=out):
        print(shard.folder)
