"""cellcode clip."""

from pathlib import Path
from typing import Annotated

from typer import Option

from cellcode.cli.common import REGION_FORMS, DatabaseFolder


def command(
    database: DatabaseFolder,
    region: Annotated[str, Option(help=f"Keep the cells of this region: {REGION_FORMS}")],
    out: Annotated[Path, Option(help="Folder for the smaller database.")],
) -> None:
    """Extract a region; results inside it are unchanged."""
    from cellcode.database import clip

    clip(database, region, out=out)
    print(out)
