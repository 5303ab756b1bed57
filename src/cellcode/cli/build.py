"""cellcode build."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import Aerial, Device, OutOfRegion, Overrides, Precision, Region, machine


def command(
    run: Annotated[Path, Argument(help="A trained run.")],
    out: Annotated[Path, Option(help="Folder for the database.")],
    aerial: Aerial = None,
    region: Region = None,
    reuse: Annotated[
        Path | None, Option(help="An earlier database: tiles that have not changed since are not encoded again.")
    ] = None,
    out_of_region: OutOfRegion = None,
    elsewhere: Annotated[Path | None, Option(hidden=True)] = None,
    cluster: Annotated[
        str | None,
        Option(
            help="Encode on a Ray cluster: its address, auto for the one of this machine, local for all its cores. Paths "
            "must be the same on every node. Needs the extra ray."
        ),
    ] = None,
    overrides: Overrides = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Build a cell-code database from a run and imagery; an interrupted build resumes when run again.

    Without imagery the codes are made of prototypes alone. With out-of-region photos, answers state how probable it is that a
    photo was taken in the region. --set takes keys of the block build.
    """
    from cellcode.database import build
    from cellcode.errors import UsageError

    if elsewhere is not None:
        raise UsageError("--elsewhere is now --out-of-region")
    build(
        run,
        aerial,
        region,
        out=out,
        reuse=reuse,
        out_of_region=out_of_region,
        overrides=overrides or (),
        cluster=cluster,
        machine=machine(device, precision),
    )
    print(out)
