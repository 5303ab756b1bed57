"""Which of the listed photos are fetched."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cellcode.photos.options import IngestOptions
from cellcode.photos.sources.online.listing import Listing
from cellcode.photos.sources.online.record import Found, Record, reject
from cellcode.photos.table.item import Reject
from cellcode.photos.table.selection import utc


@dataclass(frozen=True)
class Filter:
    """What the options want of an online photo."""

    options: IngestOptions

    def objection(self, record: Record) -> str | None:
        """Return why a photo is not wanted, in words that are the same for all such photos; None if it is."""
        options = self.options
        dated = options.since is not None or options.until is not None
        if dated and record.captured_at is None:
            return "no capture date"
        if options.since and record.captured_at and record.captured_at < utc(options.since):
            return f"captured before {options.since}"
        if options.until and record.captured_at and record.captured_at > utc(options.until):
            return f"captured after {options.until}"
        if options.min_quality is not None and not (record.quality or 0) >= options.min_quality:
            return "no quality score" if record.quality is None else f"quality score under {options.min_quality:g}"
        if options.max_accuracy_m is not None and record.accuracy_m is None:
            return "no stated accuracy of the position"
        if options.max_accuracy_m is not None and (record.accuracy_m or 0) > options.max_accuracy_m:
            return f"position less accurate than {options.max_accuracy_m:g} m"
        if record.kind == "fisheye":
            return "fisheye, not a perspective photo"
        if record.kind == "panorama" and options.panoramas is None:
            return "a 360 degree photo; --panoramas cuts views out of it"
        return None if record.wide_enough(self.wanted_px(record)) else self.too_narrow(record)

    def too_narrow(self, record: Record) -> str:
        """Return the words for a photo without a picture that is wide enough."""
        return f"narrower than {self.wanted_px(record):.0f} px"

    def wanted_px(self, record: Record) -> float:
        """Return the width that is needed of a photo; of a panorama, a part is seen at a time."""
        panoramas, width_px = self.options.panoramas, self.options.min_width_px
        if record.kind == "panorama" and panoramas is not None:
            return width_px * 360 / panoramas.fov_deg * record.area.width
        return width_px


@dataclass(frozen=True)
class Choice:
    """The photos of a listing that are wanted.

    Attributes:
        accepted: number of photos to which the options have no objection.
        wanted: number of photos to fetch, at most `max_photos`.
    """

    listing: Listing
    filter: Filter
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
            objection = self.filter.objection(found)
            if objection is not None:
                yield reject(self.source, found.id, objection)
            elif self._last is None or _lot(found) <= self._last:
                yield found

    def records(self) -> Iterator[Record]:
        """Yield the wanted photos alone."""
        return (found for found in self if isinstance(found, Record))


def choose(listing: Listing, filter: Filter, source: str) -> Choice:
    """Look through a listing once.

    Where there are more photos than `max_photos`, those with the lowest lots are taken: a choice that is spread over
    the region like the photos, and stays the same when some are added.
    """
    left_out, licences, lots = Counter[str](), dict[int, str | None](), list[int]()
    for found in listing:
        reason = found.reason if isinstance(found, Reject) else filter.objection(found)
        if reason is not None:
            left_out[reason] += 1
        elif isinstance(found, Record):
            lots.append(_lot(found))
            licences[lots[-1]] = found.licence
    accepted, most = len(lots), filter.options.max_photos
    last = None
    if most is not None and accepted > most:
        lots = heapq.nsmallest(most, lots)
        last = lots[-1]
    counted = Counter(licences[lot] or "not stated" for lot in lots)
    return Choice(listing, filter, source, accepted, len(lots), left_out, counted, last)


def _lot(record: Record) -> int:
    return int.from_bytes(hashlib.sha256(record.id.encode()).digest()[:8], "big")
