"""Outlines of countries by their ISO 3166-1 codes, from Natural Earth (public domain), 1:50 million.

A code means what ISO 3166-1 says: overseas parts that have a code of their own are not part of the country (FR is France in
Europe, GF French Guiana; NL the Netherlands in Europe, BQ Bonaire and the others), those without one are (ES has the Canary
Islands, PT the Azores and Madeira, US Alaska and Hawaii). `tools/outlines.py` makes the file and says how far it is off.
"""

import difflib
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.errors import UsageError

UNITS_PER_DEGREE = 10_000
# BEDENL is named by its countries. The paper draws EuropeWest on a map and we have found no list of it: ours is what the United
# Nations call Western Europe (M49, code 155).
PRESETS = {"BEDENL": ("BE", "DE", "NL"), "EuropeWest": ("AT", "BE", "CH", "DE", "FR", "LI", "LU", "MC", "NL")}


def outline(text: str) -> BaseGeometry:
    """Return the shape of codes (two or three letters) and presets joined by `+`; UsageError names the nearest to another."""
    codes = {code for word in text.split("+") for code in _codes(word.strip(), text)}
    return shapely.union_all([row["outline"] for row in table() if row["code"] in codes])


def _codes(word: str, text: str) -> tuple[str, ...]:
    known = {name.casefold(): codes for name, codes in PRESETS.items()}
    near = {name.casefold(): name for name in PRESETS}
    for row in table():
        code = row["code"]
        known[code.casefold()] = known[row["alpha3"].casefold()] = (code,)
        for spelling in (code, row["alpha3"], row["name"]):
            near[spelling.casefold()] = f"{code} ({row['name']})"
    if word.casefold() in known:
        return known[word.casefold()]
    nearest = near[difflib.get_close_matches(word.casefold(), near, n=1, cutoff=0.0)[0]]
    raise UsageError(
        f"region {text!r}: {word!r} is no code of ISO 3166-1, no preset ({', '.join(PRESETS)}) and no file; "
        f"the nearest code is {nearest}"
    )


@cache
def table() -> list[dict[str, Any]]:
    """Return rows with code, alpha3, name and outline (a shapely geometry)."""
    import pyarrow.parquet as pq  # a quarter of what importing this package would take, for regions that few name

    with as_file(files(__package__) / "outlines.parquet") as path:
        rows = pq.read_table(path)
    # Polygons, rings and points are lists in each other, as GeoArrow has them; points in ten thousandths of a degree.
    nested, offsets = rows.column("outline").combine_chunks(), list[Any]()
    for _ in range(3):
        offsets.insert(0, nested.offsets.to_numpy())
        nested = nested.values
    degrees = np.stack([nested.field(axis).to_numpy() for axis in ("x", "y")], axis=1) / UNITS_PER_DEGREE
    outlines = shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, degrees, tuple(offsets))
    named = rows.drop_columns("outline").to_pylist()
    return [row | {"outline": shape} for row, shape in zip(named, outlines, strict=True)]
