"""What a source could not show: counted by reason and host, and reported at the end of whatever read it."""

from collections import Counter
from typing import NamedTuple

from cellcode.errors import InputError


class Missing(NamedTuple):
    """Why something is masked."""

    reason: str  # a few words, the same for the same kind of error
    host: str  # that did not send it; for a file its name
    transient: bool = False  # a later request may succeed


def summary(counts: Counter[Missing]) -> str:
    """Return one line for people, such as `3 tiles of tiles.example.org missing: 2 not there, 1 blank`."""
    by_host: dict[str, Counter[str]] = {}
    for why, number in counts.items():
        by_host.setdefault(why.host, Counter())[why.reason] += number
    parts = []
    for host, reasons in by_host.items():
        named = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        parts.append(f"{reasons.total()} tile{'s' if reasons.total() > 1 else ''} of {host} missing: {named}")
    return "; ".join(parts)


def transient(counts: Counter[Missing]) -> Counter[Missing]:
    """Return those that a later request may mend."""
    return Counter({why: number for why, number in counts.items() if why.transient})


def refuse_transient(counts: Counter[Missing], advice: str) -> None:
    """Raise InputError if something is missing that may be there later: a result without it is not complete.

    `advice`, what has been saved and what to do, is the end of the sentence; before it stand hosts, reasons and numbers.
    """
    if errors := transient(counts):
        raise InputError(f"{summary(errors)}; {advice}")
