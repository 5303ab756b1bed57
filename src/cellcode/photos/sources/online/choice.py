"""Which of the listed photos are fetched."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cellcode.photos.sources.online.listing import Listing
from cellcode.photos.sources.online.options import Options
from cellcode.photos.sources.online.record import Record
from cellcode.photos.sources.online.service import Found, reject
from cellcode.photos.table.item import Reject


@dataclass(frozen=True)
class Choice:
    """The photos of a listing that are wanted.

    Attributes:
        accepted: number of photos to which the options have no objection.
        wanted: number of photos to fetch, at most `options.max_photos`.
    """

    listing: Listing
    options: Options
    source: str
    accepted: int
    wanted: int
    left_out: Counter[str]
    licences: Counter[str]
    _last: int | None

    def __iter__(self) -> Iterator[Found]:
        """Yield the wanted photos, and a reject for each that the options object to."""
        for found in self.listing:
            if isinstance(found, Reject):
                yield found
                continue
            objection = self.options.objection(found)
            if objection is not None:
                yield reject(self.source, found.id, objection)
            elif self._last is None or _lot(found) <= self._last:
                yield found

    def records(self) -> Iterator[Record]:
        """Yield the wanted photos alone."""
        return (found for found in self if isinstance(found, Record))


def choose(listing: Listing, options: Options, source: str) -> Choice:
    """Look through a listing once.

    Where there are more photos than `options.max_photos`, those with the lowest lots are taken: a choice that is spread over
    the region like the photos, and stays the same when some are added.
    """
    left_out, licences, lots = Counter[str](), dict[int, str | None](), list[int]()
    for found in listing:
        reason = found.reason if isinstance(found, Reject) else options.objection(found)
        if reason is not None:
            left_out[reason] += 1
        elif isinstance(found, Record):
            lots.append(_lot(found))
            licences[lots[-1]] = found.licence
    accepted = len(lots)
    last = None
    if options.max_photos is not None and accepted > options.max_photos:
        lots = heapq.nsmallest(options.max_photos, lots)
        last = lots[-1]
    counted = Counter(licences[lot] or "not stated" for lot in lots)
    return Choice(listing, options, source, accepted, len(lots), left_out, counted, last)


def _lot(record: Record) -> int:
    return int.from_bytes(hashlib.sha256(record.id.encode()).digest()[:8], "big")
