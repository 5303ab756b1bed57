"""cellcode compress."""

from pathlib import Path
from typing import Annotated

from typer import Option

from cellcode.cli.common import DatabaseFolder


def command(
    database: DatabaseFolder,
    out: Annotated[Path, Option(help="Folder for the smaller database.")],
    code_bytes: Annotated[int, Option("--bytes", help="Bytes per cell; a divisor of the codes' width.")] = 64,
) -> None:
    """Write a database with codes of a few bytes, and report top-1 agreement with the original."""
    from cellcode.database import compress

    compress(database, code_bytes, out=out)
    print(out)
