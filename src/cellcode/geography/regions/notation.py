"""Regions as the command line spells them."""

import re
from pathlib import Path

from cellcode.errors import InputError, UsageError
from cellcode.geography import s2
from cellcode.geography.regions import countries, geojson, polygon
from cellcode.geography.regions.cap import CapArea
from cellcode.geography.regions.cell_set import CellsArea
from cellcode.geography.regions.polygon import PolygonArea

Area = PolygonArea | CapArea | CellsArea
_NAMES = re.compile(r"[^\W\d_]+(\s*\+\s*[^\W\d_]+)*")  # words of letters alone, joined by +


def parse(text: str) -> tuple[Area, bool]:
    """Return the area of a text, and whether its complement is meant; see `Region.parse` for the forms.

    Raises:
        UsageError: the text has none of the forms, or numbers out of range.
        InputError: the file that it names is no region.
    """
    rest = text.strip()
    inverted = rest.startswith("not:")
    rest = rest.removeprefix("not:").strip()
    if rest.startswith("cap:"):
        return CapArea(*_numbers(text, rest.removeprefix("cap:"), "cap:LAT,LON,RADIUS_M", 3)), inverted
    if rest.startswith("cells:"):
        return _cells(text, rest.removeprefix("cells:").strip()), inverted
    if Path(rest).is_file():
        return PolygonArea(geojson.read(Path(rest))), inverted
    if rest.count(",") == 3:
        return polygon.box(*_numbers(text, rest, "west,south,east,north", 4)), inverted
    if _NAMES.fullmatch(rest):
        return PolygonArea(countries.outline(rest)), inverted
    raise UsageError(
        f"region {text!r} is neither west,south,east,north in degrees nor a GeoJSON file, nor cap:LAT,LON,RADIUS_M, "
        "cells:TOKEN,..., cells:FILE or codes of countries such as BE+DE+NL; not: before any of them means the rest of the "
        "Earth"
    )


def _numbers(text: str, values: str, form: str, count: int) -> list[float]:
    try:
        numbers = [float(value) for value in values.split(",")]
        if len(numbers) == count:
            return numbers
    except ValueError:
        pass
    raise UsageError(f"region {text!r}: {form} must be {'three' if count == 3 else 'four'} numbers")


def _cells(text: str, rest: str) -> CellsArea:
    if not Path(rest).is_file():
        try:
            return CellsArea.of(s2.from_tokens([token.strip() for token in rest.split(",")]))
        except InputError as error:
            raise UsageError(f"region {text!r}: {error}, and no file of tokens has that name") from None
    try:
        lines = Path(rest).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{rest} cannot be read as a text file with one cell token per line") from None
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise InputError(f"{rest} holds no cell tokens; it must have one per line")
    try:
        return CellsArea.of(s2.from_tokens(tokens))
    except InputError as error:
        raise InputError(f"{rest}: {error}; the file must have one token per line") from None
