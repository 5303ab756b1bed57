"""cellcode grow."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import REGION_FORMS


def command(
    database: Annotated[Path, Argument(help="A cell-code database that keeps its terms.")],
    out: Annotated[Path, Option(help="Folder for the grown database.")],
    photos: Annotated[Path | None, Option(help="A photo table: its training photos give cells prototypes.")] = None,
    run: Annotated[Path | None, Option(help="With --aerial: the run that the database was built from.")] = None,
    aerial: Annotated[
        str | None, Option(help="New imagery: GeoTIFF, COG, VRT or a folder of them; needs --run.")
    ] = None,
    region: Annotated[str | None, Option(help=f"Only here; cells that are missing are added: {REGION_FORMS}")] = None,
) -> None:
    """Add photos or new imagery to a database without training."""
    from cellcode.database import grow, reimage
    from cellcode.errors import UsageError

    if photos is not None and run is None and aerial is None:
        grow(database, photos, region, out=out)
    elif photos is None and run is not None and aerial is not None:
        reimage(database, run, aerial, region, out=out)
    else:
        raise UsageError("give either --photos, or --run and --aerial, to grow a database")
    print(out)
