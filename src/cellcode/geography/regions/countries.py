"""Outlines of countries by their ISO 3166-1 codes, from Natural Earth (public domain), 1:50 million.

A code means what ISO 3166-1 says: overseas parts that have a code of their own are not part of the country (FR is France in
Europe, GF French Guiana; NL the Netherlands in Europe, BQ Bonaire and the others), those without one are (ES has the Canary
Islands, PT the Azores and Madeira, US Alaska and Hawaii). `tools/outlines.py` makes the file and says how far it is off.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.errors import UsageError

# BEDENL is named by its countries. The paper draws EuropeWest on a map and we have found no list of it: ours is what the United
# Nations call Western Europe (M49, code 155).
PRESETS = {"BEDENL": ("BE", "DE", "NL"), "EuropeWest": ("AT", "BE", "CH", "DE", "FR", "LI", "LU", "MC", "NL")}


def outline(text: str) -> BaseGeometry:
    """Return the shape of codes (two or three letters) and presets joined by `+`, in any case of letters.

    Raises:
        UsageError: one of them is unknown; the sentence names the nearest.
    """
    codes = {code for word in text.split("+") for code in _codes(word.strip(), text)}
    found = [row for row in _table() if row["code"] in codes]
    return shapely.union_all(shapely.from_wkb([row["outline"] for row in found]))


def _codes(word: str, text: str) -> tuple[str, ...]:
    """Return the alpha-2 codes that a word stands for."""
    known = {name.casefold(): codes for name, codes in PRESETS.items()}
    near = {name.casefold(): name for name in PRESETS}
    for row in _table():
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
def _table() -> list[dict[str, Any]]:
    """Rows with code, alpha3, name and outline (WKB)."""
    import pyarrow.parquet as pq  # a quarter of what importing this package would take, for regions that few name

    with as_file(files(__package__) / "outlines.parquet") as path:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
