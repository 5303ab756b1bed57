"""The recipe's `locate`."""

from pathlib import Path

from cellcode.client.answers import Answer
from cellcode.config import MachineConfig
from cellcode.database import Database
from cellcode.geography import Region
from cellcode.search.locator import Locator, Source


def locate(
    cells: Database | Path | str,
    photo: Source,
    *,
    top: int = 5,
    region: Region | Path | str | None = None,
    machine: MachineConfig | None = None,
) -> Answer:
    """Locate one photo in a database; see `Locator.locate`. A `Locator` is faster for more than one: it loads the encoder once.

    Args:
        cells: an open database, its folder, or a folder of its shards.
        photo, top, region: see `Locator.locate`.
        machine: device and precision of the encoder; see `Locator`.

    Raises:
        InputError: the database is damaged, or no cell lies in the region.
        PhotoError: the photo cannot be read.
    """
    with Locator.open(cells, machine=machine) as locator:
        return locator.locate(photo, top=top, region=region)
