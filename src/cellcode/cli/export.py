"""cellcode export."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Target(StrEnum):
    """What a database can be exported as."""

    parquet = "parquet"
    openvino = "openvino"


def command(
    database: Annotated[Path, Argument(help="A cell-code database, or a folder of shards.")],
    to: Annotated[
        Target,
        Option(help="parquet: one row per cell, with its code, for vector stores; openvino: the ground encoder."),
    ],
    out: Annotated[Path, Option("--out", "--uri", help="Parquet: the file to write. OpenVINO: the folder to write.")],
) -> None:
    """Write the cells of a database as a Parquet table, or its ground encoder as an OpenVINO model."""
    from cellcode.database.store.shards import open_database
    from cellcode.search import engines
    from cellcode.search.cell_table import export_parquet

    writers = {Target.parquet: export_parquet, Target.openvino: engines.export_openvino}
    print(writers[to](open_database(database), out))
