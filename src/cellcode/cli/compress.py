"""cellcode compress."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    out: Annotated[Path, Option(help="Folder for the smaller database.")],
    code_bytes: Annotated[int, Option("--bytes", help="Bytes a cell; a divisor of the codes' width.")] = 64,
) -> None:
    """Write a database with codes of a few bytes, and say how often its best cell stays the same."""
    from cellcode.database.editing import compress

    compress.run(database, code_bytes, out=out)
    print(out)
