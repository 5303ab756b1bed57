"""cellcode build."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import REGION_FORMS


def command(
    run: Annotated[Path, Argument(help="A trained run.")],
    out: Annotated[Path, Option(help="Folder for the database.")],
    aerial: Annotated[
        str | None, Option(help="GeoTIFF, COG, VRT or a folder of them; without it, prototypes only.")
    ] = None,
    region: Annotated[str | None, Option(help=f"Build only here: {REGION_FORMS}")] = None,
    reuse: Annotated[
        Path | None, Option(help="An earlier database: tiles that have not changed since are not encoded again.")
    ] = None,
    out_of_region: Annotated[
        Path | None,
        Option(help="Photo table from outside the region: answers then have the probability that a photo is inside."),
    ] = None,
    elsewhere: Annotated[Path | None, Option(hidden=True)] = None,
    cluster: Annotated[
        str | None,
        Option(
            help="Encode on a Ray cluster: its address, auto for the one of this machine, local for all its cores. Paths "
            "are the same on every node. Needs the extra ray."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, Option("--set", help="Override a setting: build.a=b; may be repeated.")
    ] = None,
) -> None:
    """Build a cell-code database; an interrupted build continues when it is started again."""
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
    )
    print(out)
