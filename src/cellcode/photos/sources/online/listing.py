"""The photos of a service in a region, kept in a file for an interrupted run, and which of them are fetched."""

import hashlib
import heapq
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from cellcode.errors import InputError
from cellcode.files import atomic_path, read_json, write_json
from cellcode.geography import Region
from cellcode.http import redact
from cellcode.photos.options import IngestOptions
from cellcode.photos.sources.online.record import RECORDS, Found, Record, reject
from cellcode.photos.table.item import Reject, lot, utc
from cellcode.progress import LINE_EVERY_S

logger = logging.getLogger(__name__)
FORMAT = "cellcode-listing"
VERSION = 1
MAX_AGE = timedelta(days=1)


@dataclass(frozen=True)
class Listing:
    """A finished listing: photos and rejects of a region, one a line of JSON; `gaps` of it could not be listed."""

    path: Path
    photos: int
    gaps: int

    def __iter__(self) -> Iterator[Found]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    kind, fields = json.loads(line)
                    yield RECORDS.validate_python(fields) if kind == "photo" else Reject(**fields)
                except (ValueError, TypeError, KeyError):
                    raise InputError(f"{self.path} is damaged; delete it and run again") from None


def listing_of(
    find: Callable[[], Iterator[list[Found]]],
    name: str,
    spec: str,
    region: Region | None,
    options: IngestOptions,
    folder: Path,
) -> Listing:
    """Return the listing kept in `folder` if it was made today and for the same question, else ask the service.

    A listing with gaps is not kept for another run: the next one may have none. For `find` see `OnlineSource.find`.
    """
    asked = _question(spec, region, options)
    if (kept := _kept(folder, asked)) is not None:
        return kept
    head, body = folder / "listing.json", folder / "listing.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    head.unlink(missing_ok=True)  # it marks the lines as whole: removed first, written last
    with atomic_path(body) as temporary, temporary.open("w", encoding="utf-8") as file:
        photos, gaps = _write(file, find(), name, region)
    facts = {"asked": asked, "made_at": datetime.now(UTC).isoformat(timespec="seconds"), "photos": photos, "gaps": gaps}
    write_json(head, {"format": FORMAT, "version": VERSION, **facts})
    return Listing(body, photos, gaps)


def _write(file: TextIO, pages: Iterator[list[Found]], name: str, region: Region | None) -> tuple[int, int]:
    """Write what the service finds, without the photos around the region; returns the numbers of photos and gaps."""
    photos = gaps = 0
    last_line = time.monotonic()
    for found in pages:
        for each in _inside(found, region):
            if isinstance(each, Record):
                line = ["photo", RECORDS.dump_python(each, mode="json", exclude_defaults=True)]
                photos += 1
            else:
                line = ["reject", asdict(each)]
                gaps += each.transient
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if time.monotonic() - last_line > LINE_EVERY_S:  # their number is not known before
            last_line = time.monotonic()
            logger.info("listing photos of %s: %s so far", name, f"{photos:,}")
    return photos, gaps


def _inside(found: list[Found], region: Region | None) -> list[Found]:
    records = [each for each in found if isinstance(each, Record)]
    if region is None or not records:
        return found
    inside = region.contains(np.array([r.lat_deg for r in records]), np.array([r.lon_deg for r in records]))
    outside = {record.id for record, keep in zip(records, inside, strict=True) if not keep}
    return [each for each in found if isinstance(each, Reject) or each.id not in outside]


def _question(spec: str, region: Region | None, options: IngestOptions) -> dict[str, Any]:
    """What a listing depends on."""
    outline = json.dumps(region.to_geojson(), sort_keys=True) if region is not None else ""
    kind, _, address = spec.partition(":")
    return {
        "source": f"{kind}:{redact(address)}",
        "region": hashlib.sha256(outline.encode()).hexdigest()[:16] if outline else None,
        "since": options.since.isoformat() if options.since else None,
        "until": options.until.isoformat() if options.until else None,
    }


def _kept(folder: Path, asked: dict[str, Any]) -> Listing | None:
    head, body = folder / "listing.json", folder / "listing.jsonl"
    if not head.is_file() or not body.is_file():
        return None
    try:
        facts = read_json(head)
        same = (facts["format"], facts["version"], facts["asked"], facts["gaps"]) == (FORMAT, VERSION, asked, 0)
        age = datetime.now(UTC) - datetime.fromisoformat(facts["made_at"])
        return Listing(body, int(facts["photos"]), 0) if same and age < MAX_AGE else None
    except (InputError, KeyError, TypeError, ValueError):
        return None  # it is made again


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
    """The photos of a listing: the options accept so many, and so many of them, at most `max_photos`, are wanted."""

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
            elif (objection := self.filter.objection(found)) is not None:
                yield reject(self.source, found.id, objection)
            elif self._last is None or lot(found.id) <= self._last:
                yield found

    def records(self) -> Iterator[Record]:
        """Yield the wanted photos alone."""
        return (found for found in self if isinstance(found, Record))


def choose(listing: Listing, filter: Filter, source: str) -> Choice:
    """Look through a listing once. Of more photos than `max_photos` those with the lowest lots are taken."""
    # Such a choice is spread over the region like the photos, and stays the same when some are added.
    left_out, licences, lots = Counter[str](), dict[int, str | None](), list[int]()
    for found in listing:
        reason = found.reason if isinstance(found, Reject) else filter.objection(found)
        if reason is not None:
            left_out[reason] += 1
        elif isinstance(found, Record):
            lots.append(lot(found.id))
            licences[lots[-1]] = found.licence
    accepted, most, last = len(lots), filter.options.max_photos, None
    if most is not None and accepted > most:
        lots = heapq.nsmallest(most, lots)
        last = lots[-1]
    counted = Counter(licences[each] or "not stated" for each in lots)
    return Choice(listing, filter, source, accepted, len(lots), left_out, counted, last)
