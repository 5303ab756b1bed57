"""cellcode export."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Target(StrEnum):
    """Where parts of a database can be written."""

    milvus = "milvus"
    openvino = "openvino"


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    to: Annotated[Target, Option(help="The kind of store.")],
    uri: Annotated[
        str,
        Option(
            help="Milvus: address of a server (token in $MILVUS_TOKEN), or a local file that ends with .db. OpenVINO: a folder."
        ),
    ],
    collection: Annotated[str, Option(help="Name of the collection.")] = "cells",
    replace: Annotated[bool, Option("--replace", help="Replace the collection of another database.")] = False,
) -> None:
    """Write the cells of a database to a vector store, or its ground encoder as a model of OpenVINO."""
    from cellcode.database import Database
    from cellcode.search import engines, milvus

    if to == Target.openvino:
        print(engines.export_openvino(Database.open(database), Path(uri)))
        return

    written = milvus.export(Database.open(database), uri, collection, replace=replace)
    print(f"{collection} at {uri}: {written} cells written" if written else f"{collection} at {uri}: already there")
