"""cellcode train."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    config: Annotated[Path, Argument(help="A YAML configuration; configs/ has some.")],
    photos: Annotated[
        str,
        Option(
            help="Photo table, or packed photos: their folder, a folder of several such folders, or an address such as "
            "s3://BUCKET/SHARDS."
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the run.")],
    aerial: Annotated[
        str | None, Option(help="GeoTIFF, COG, VRT or a folder of them; without it, prototypes only.")
    ] = None,
    overrides: Annotated[list[str] | None, Option("--set", help="Override a setting: a.b=c; may be repeated.")] = None,
    resume: Annotated[bool, Option("--resume", help="Continue from the checkpoint in --out.")] = False,
) -> None:
    """Train the encoders and the prototypes."""
    from cellcode import config as configuration
    from cellcode.distributed import torchrun
    from cellcode.training import train

    resume = resume or torchrun.restarts() > 0  # what is done is not thrown away
    train(configuration.load(config, overrides or ()), photos, aerial, out=out, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one tells
        print(out)
