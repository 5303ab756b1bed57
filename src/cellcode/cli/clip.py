"""cellcode clip."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import REGION_FORMS


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    region: Annotated[str, Option(help=f"Keep the cells of this region: {REGION_FORMS}")],
    out: Annotated[Path, Option(help="Folder for the smaller database.")],
) -> None:
    """Cut a region out of a database; the part answers as the whole does there."""
    from cellcode.database.editing import reshape
    from cellcode.geography import Region

    reshape.clip(database, Region.parse(region), out=out)
    print(out)
