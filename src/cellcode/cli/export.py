"""cellcode export."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Target(StrEnum):
    """Where codes can be written."""

    milvus = "milvus"


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    to: Annotated[Target, Option(help="The kind of store.")],
    uri: Annotated[
        str, Option(help="Address of a Milvus server (token in $MILVUS_TOKEN), or a local file that ends with .db.")
    ],
    collection: Annotated[str, Option(help="Name of the collection.")] = "cells",
    replace: Annotated[bool, Option("--replace", help="Replace the collection of another database.")] = False,
) -> None:
    """Write the cells of a database to a vector store."""
    from cellcode.database import Database
    from cellcode.search import milvus

    written = milvus.export(Database.open(database), uri, collection, replace=replace)
    print(f"{collection} at {uri}: {written} cells written" if written else f"{collection} at {uri}: already there")
