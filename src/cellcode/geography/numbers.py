"""Numbers as people and devices write them."""

import re

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def parse_number(text: str) -> float:
    """Return the number of a text, with blanks around it or none.

    Raises:
        ValueError: it is none, or one that nobody means: Python also reads 1_0, nan, inf, 1e-400 as 0, and foreign digits.
    """
    if _NUMBER.fullmatch(text.strip()):
        value = float(text)
        if abs(value) < float("inf") and (value or not text.lower().partition("e")[0].strip("+-0. ")):
            return value
    raise ValueError(f"{text!r} is not a number")
