"""Numbers as people and devices write them."""

import math


def parse_number(text: str) -> float:
    """Return the number of a text, with blanks around it or none.

    Raises:
        ValueError: it is none, or one that nobody means: Python also reads 1_0, nan, inf, 1e-400 as 0, and foreign digits.
    """
    text = text.strip()
    value = float(text) if text.isascii() and "_" not in text else math.nan
    if math.isfinite(value) and (value or not text.lower().partition("e")[0].strip("+-0.")):
        return value
    raise ValueError(f"{text!r} is not a number")
