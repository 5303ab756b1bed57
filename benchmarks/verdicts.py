"""How often the verdict on a claimed place is right: true claims, false ones nearby, and false ones anywhere.

    make results
    python benchmarks/claims.py [--quick] [--json FILE] [--cells DATABASE] [--photos TABLE]

Test photos of the benchmark region are claimed to be of their true place, of one 500 m from it in a random direction, and
of a random cell at least 2 km from it.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import report
from report import Row

from cellcode.database import Database
from cellcode.errors import InputError
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels
from cellcode.search import Locator, claims
from cellcode.types import Float64

RESULTS = Path("runs/results")
NEAR_M, FAR_M = 500.0, 2000.0


def main() -> None:
    """Judge all claims and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer photos")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--cells", type=Path, default=RESULTS / "build-hybrid" / "cells", help="database")
    parser.add_argument("--photos", type=Path, default=RESULTS / "region" / "table", help="photo table")
    arguments = parser.parse_args()
    try:
        database, photos = Database.open(arguments.cells), PhotoTable.load(arguments.photos)
    except InputError as error:
        raise SystemExit(f"{error}; `make results` makes both") from None
    report.show(measure(database, photos, 200 if arguments.quick else 2000), arguments.json)


def measure(database: Database, photos: PhotoTable, most: int) -> list[Row]:
    """Judge three claims of each photo."""
    rng = np.random.default_rng(0)
    tested = photos.of_split("test")
    tested = tested.select(np.sort(rng.permutation(len(tested))[:most]))
    locator = Locator(database)
    pixels, failures = load_pixels(tested.files, database.config.photo, description="reading photos")
    if failures:
        raise SystemExit(next(iter(failures.values())))
    queries = locator.embed(pixels)
    answers = locator.answers([str(file) for file in tested.files], queries, 1, None)
    rows: list[Row] = []
    for kind, lat, lon in _claims(database, tested.lat_deg, tested.lon_deg, rng):
        said: Counter[str] = Counter()
        for query, answer, at_lat, at_lon in zip(queries, answers, lat.tolist(), lon.tolist(), strict=True):
            verdict = claims.verification(locator, answer, query, at_lat, at_lon).verdict
            said[verdict] += 1
        rows += [
            {"case": f"{kind}: {verdict}", "value": 100 * said[verdict] / len(tested), "unit": "% of claims"}
            for verdict in ("plausible", "not_sure", "implausible", "outside_database")
        ]
    return rows


def _claims(
    database: Database, lat: Float64, lon: Float64, rng: np.random.Generator
) -> list[tuple[str, Float64, Float64]]:
    """Return kinds of claims with their places."""
    bearing = rng.uniform(0, 2 * np.pi, len(lat))
    near = distance.offset(lat, lon, NEAR_M * np.sin(bearing), NEAR_M * np.cos(bearing))
    far_lat, far_lon = s2.cell_centers(rng.choice(database.ids, len(lat)))
    while (close := distance.haversine_m(lat, lon, far_lat, far_lon) < FAR_M).any():
        far_lat[close], far_lon[close] = s2.cell_centers(rng.choice(database.ids, int(close.sum())))
    return [("true place", lat, lon), ("500 m off", *near), ("a random cell, 2 km off or more", far_lat, far_lon)]


if __name__ == "__main__":
    main()
