"""The photos of a region, before or after they are fetched."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from cellcode.config import Config
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, s2
from cellcode.photos import PhotoTable

BYTES = 500_000  # of a photo of unknown size: a JPEG about 2048 pixels wide
TEST_SHARE = 0.1  # kept for testing by `ingest` by default
SAMPLE = 200  # photos of a table whose file sizes are read


@dataclass(frozen=True)
class Photos:
    """Photos of a region.

    Attributes:
        source: where they come from, to print.
        count: all of them.
        training: those for training, validation photos included.
        bytes_each: mean size of a file.
        to_fetch: how many are not on this machine.
        visited: cells of each level with training photos, where positions are known: the first of the prototypes, then of the
            database.
    """

    source: str
    count: int
    training: int
    bytes_each: float
    to_fetch: int
    visited: tuple[int, int] | None = None

    @classmethod
    def of_count(cls, count: int) -> Self:
        """Return a number of photos of which nothing else is known.

        Raises:
            UsageError: the count is negative.
        """
        if count < 0:
            raise UsageError(f"the number of photos is {count}, it must be at least 0")
        return cls("as given", count, round(count * (1 - TEST_SHARE)), BYTES, count)

    @classmethod
    def of_table(cls, folder: Path | str, region: Region, config: Config) -> Self:
        """Return the photos of a table that lie in the region.

        Raises:
            InputError: the folder holds no photo table, or one with nothing in the region.
        """
        table = PhotoTable.load(folder)
        table = table.select(region.contains(table.lat_deg, table.lon_deg))
        if not len(table):
            raise InputError(f"{folder}: none of its photos lies in the region; check that both are of one place")
        training = table.select(np.isin(table.split, ["train", "validation"]))
        levels = (config.levels.prototype, config.levels.cell)
        lat, lon = training.lat_deg, training.lon_deg
        visited = [len(np.unique(s2.cell_ids(lat, lon, level))) for level in levels]
        files = table.files[:: max(1, len(table) // SAMPLE)]
        sizes = [path.stat().st_size for path in files if path.is_file()]
        each = float(np.mean(sizes)) if sizes else float(BYTES)
        return cls(str(folder), len(table), len(training), each, 0, (visited[0], visited[1]))

    @classmethod
    def of_service(cls, spec: str, region: Region) -> Self:
        """Return what an online service offers in the region, from its listing and the size of a few photos.

        Raises:
            UsageError: the service is unknown.
            RemoteError: it does not answer.
        """
        from cellcode.photos.sources.registry import estimate

        found = estimate(spec, region)
        if found is None:
            raise InputError(
                f"{spec} fetches nothing, so there is nothing to estimate; ingest it and give the photo table"
            )
        each = found.photo_bytes or float(BYTES)
        training = round(found.photos * (1 - TEST_SHARE))
        return cls(found.source, found.photos, training, each, found.photos - found.present)

    def cells(self, of_region: int, which: int) -> int:
        """Return the cells of the region that have training photos: 0 those of the prototypes, 1 those of the database.

        Where positions are unknown, photos are assumed to be spread over the cells at random: real ones keep to streets, and
        to fewer cells.
        """
        if self.visited is not None:
            return min(self.visited[which], of_region)
        return round(-of_region * math.expm1(-self.training / max(of_region, 1)))
