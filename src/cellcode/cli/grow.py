"""cellcode grow."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import Aerial, Device, Precision, Region, machine


def command(
    database: Annotated[Path, Argument(help="A cell-code database that keeps its terms.")],
    out: Annotated[Path, Option(help="Folder for the grown database.")],
    photos: Annotated[Path | None, Option(help="A photo table: its training photos give cells prototypes.")] = None,
    run: Annotated[Path | None, Option(help="With --aerial: the run that the database was built from.")] = None,
    aerial: Aerial = None,
    region: Region = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Add photos or new imagery to a database without training.

    Give either --photos, or --run and --aerial. Cells of --region that are missing are added.
    """
    from cellcode.database import grow, reimage
    from cellcode.errors import UsageError

    settings = machine(device, precision)
    if photos is not None and run is None and aerial is None:
        grow(database, photos, region, out=out, machine=settings)
    elif photos is None and run is not None and aerial is not None:
        reimage(database, run, aerial, region, out=out, machine=settings)
    else:
        raise UsageError("give either --photos, or --run and --aerial, to grow a database")
    print(out)
