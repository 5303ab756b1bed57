"""What a source could not give: counted by reason and host, and told at the end of whatever read it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from cellcode.aerial.protocol import AerialSource
from cellcode.errors import InputError


class Missing(NamedTuple):
    """Why something is masked.

    Attributes:
        reason: a few words, the same for the same kind of fault.
        host: that did not give it; for a file its name.
        passing: asking again later may help.
    """

    reason: str
    host: str
    passing: bool = False


def missing(source: AerialSource | None) -> Counter[Missing]:
    """Count what a source has masked so far, each tile or file once; nothing for a source that does not count."""
    return Counter(getattr(source, "missing", None) or {})


def told(counts: Counter[Missing]) -> str:
    """Return one line for people, such as `3 tiles of tiles.example.org missing: 2 not there, 1 blank`."""
    by_host: dict[str, Counter[str]] = {}
    for why, number in counts.items():
        by_host.setdefault(why.host, Counter())[why.reason] += number
    parts = []
    for host, reasons in by_host.items():
        named = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        parts.append(f"{reasons.total()} tile{'s' if reasons.total() > 1 else ''} of {host} missing: {named}")
    return "; ".join(parts)


def passing(counts: Counter[Missing]) -> Counter[Missing]:
    """Return those that asking again later may mend."""
    return Counter({why: number for why, number in counts.items() if why.passing})


def refuse_passing(source: AerialSource | None, kept: str) -> None:
    """Raise if something is missing that may be there later: what was made without it is not complete.

    Args:
        kept: what has been saved and what to do, the end of the sentence.

    Raises:
        InputError: names the hosts, the reasons and the numbers.
    """
    faults = passing(missing(source))
    if faults:
        raise InputError(f"{told(faults)}; {kept}")
