"""The recipe's `locate`."""

from __future__ import annotations

from pathlib import Path

from cellcode.database import Database
from cellcode.geography import Region
from cellcode.search.answer import Answer
from cellcode.search.locator import Locator, Source


def locate(
    database: Database | Path | str, photo: Source, *, top: int = 5, region: Region | str | None = None
) -> Answer:
    """Locate one photo in a database; see `Locator.locate`, which is faster for more than one."""
    opened = database if isinstance(database, Database) else Database.open(database)
    return Locator(opened).locate(photo, top=top, region=region)
