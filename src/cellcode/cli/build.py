"""cellcode build."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    run: Annotated[Path, Argument(help="A trained run.")],
    out: Annotated[Path, Option(help="Folder for the database.")],
    aerial: Annotated[
        str | None, Option(help="GeoTIFF, COG, VRT or a folder of them; without it, prototypes only.")
    ] = None,
    region: Annotated[str | None, Option(help="west,south,east,north in degrees, or a GeoJSON file.")] = None,
) -> None:
    """Build a cell-code database."""
    from cellcode.database import build
    from cellcode.geography import Region

    build.run(run, aerial, Region.parse(region) if region is not None else None, out=out)
    print(out)
