"""cellcode merge."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    databases: Annotated[list[Path], Argument(help="Databases of one run that share no cell.")],
    out: Annotated[Path, Option(help="Folder for the merged database.")],
) -> None:
    """Merge databases of one run."""
    from cellcode.database import merge

    merge(databases, out=out)
    print(out)
