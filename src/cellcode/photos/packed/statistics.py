"""What packing has to know of a whole photo table before it writes anything, gathered a part of the table at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.photos.table.batches import Batches
from cellcode.photos.table.photo_table import SPLITS
from cellcode.types import Bools, Float64, Ids, Int8

TRAIN, VALIDATION = SPLITS.index("train"), SPLITS.index("validation")


@dataclass
class Facts:
    """What the manifest states about all photos together.

    Attributes:
        bounds: west, south, east and north edge in degrees.
    """

    bounds: tuple[float, float, float, float] = (np.inf, np.inf, -np.inf, -np.inf)
    licences: set[str] = field(default_factory=set)
    attributions: set[str] = field(default_factory=set)

    def add(self, part: pa.Table) -> None:
        """Count in some more photos."""
        lon, lat = (pc.min_max(part.column(name)).as_py() for name in ("lon_deg", "lat_deg"))
        west, south, east, north = self.bounds
        self.bounds = (min(west, lon["min"]), min(south, lat["min"]), max(east, lon["max"]), max(north, lat["max"]))
        for name, known in (("licence", self.licences), ("attribution", self.attributions)):
            known.update(text for text in pc.unique(part.column(name)).to_pylist() if text)


def gather(table: Batches, level: int) -> tuple[Facts, Ids, Int8]:
    """Return facts of the photos, their cells of a level, (N,), and the numbers of their splits, (N,).

    Raises:
        InputError: a photo is of an unknown split.
    """
    facts = Facts()
    cells, split = np.empty(table.photos, np.uint64), np.empty(table.photos, np.int8)
    first = 0
    for part in table.parts(["lat_deg", "lon_deg", "split", "licence", "attribution"]):
        rows = slice(first, first + len(part))
        first += len(part)
        number = pc.index_in(part.column("split"), value_set=pa.array(SPLITS))
        if number.null_count:
            raise InputError(
                f"the photo table has a split that is none of {', '.join(SPLITS)}; ingest the photos again"
            )
        split[rows] = number.to_numpy()
        cells[rows] = s2.cell_ids(part.column("lat_deg").to_numpy(), part.column("lon_deg").to_numpy(), level)
        facts.add(part)
    return facts, cells, split


def set_validation_apart(table: Batches, split: Int8, choose: Callable[[Float64, Float64], Bools]) -> None:
    """Give the split "validation" to the training photos that `choose` takes by their latitudes and longitudes.

    Raises:
        InputError: there are no training photos.
    """
    trained = np.flatnonzero(split == TRAIN)
    if not len(trained):
        raise InputError("the photo table has no photos in its split 'train'; ingest with a split, or a larger folder")
    lat_deg, lon_deg = (np.empty(len(trained)) for _ in range(2))
    first = done = 0
    for part in table.parts(["lat_deg", "lon_deg"]):
        own = split[first : first + len(part)] == TRAIN
        rows = slice(done, done + int(own.sum()))
        for name, values in (("lat_deg", lat_deg), ("lon_deg", lon_deg)):
            values[rows] = part.column(name).to_numpy()[own]
        first, done = first + len(part), rows.stop
    split[trained[choose(lat_deg, lon_deg)]] = VALIDATION
