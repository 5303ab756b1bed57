"""cellcode train."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import Aerial, Device, Overrides, Precision, machine


def command(
    config: Annotated[
        Path, Argument(help="A YAML configuration, or the name of a shipped one (`cellcode config list`).")
    ],
    photos: Annotated[
        str,
        Option(
            help="Photo table, or packed photos: their folder, a folder of several such folders, or an address such as "
            "s3://BUCKET/SHARDS."
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the run.")],
    aerial: Aerial = None,
    overrides: Overrides = None,
    resume: Annotated[bool, Option("--resume", help="Continue from the checkpoint in --out.")] = False,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Train the encoders and the prototypes; without imagery, prototypes only."""
    from cellcode import config as configuration
    from cellcode.distributed import torchrun
    from cellcode.training import train

    settings = configuration.load(config, overrides or ())
    resume = resume or torchrun.restarts() > 0  # what is done is not thrown away
    train(settings, photos, aerial, out=out, resume=resume, machine=machine(device, precision, settings.machine))
    if os.environ.get("RANK", "0") == "0":  # of several processes, one prints
        print(out)
