"""What a source yields (rows, and why photos were left out), and which of it is wanted: by place, by date, at random."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from cellcode.geography import Region
from cellcode.types import Bools


@dataclass(frozen=True)
class Reject:
    """A photo left out.

    Attributes:
        line: the line of the list it came from; None in a folder.
        reason: why, for people.
        transient: the error is temporary: the photo is missing, and a later run may get it.
        kind: the reason in words that are the same for all such photos, to count by; None: the reason is in such words.
    """

    file: str
    line: int | None
    reason: str
    transient: bool = False
    kind: str | None = None


@dataclass(frozen=True)
class Batch:
    """Some photos of a source.

    Attributes:
        rows: accepted ones, a pyarrow table of the photo table's schema.
        left_out: numbers of photos that were not asked for (outside the region, ...), by the reason.
    """

    rows: pa.Table
    rejects: list[Reject] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Selection:
    """Conditions for a photo.

    Attributes:
        since, until: first and last capture time; without a zone they are UTC. Photos without a date are then left out.
        max_photos: a random subset of so many, the same in every run; None: all.
    """

    region: Region | None = None
    since: datetime | None = None
    until: datetime | None = None
    max_photos: int | None = None

    def mask(self, rows: pa.Table) -> tuple[Bools, Counter[str]]:
        """Return the rows (N,) of a photo table in the region and between the dates, and the number of others by reason."""
        wanted, left_out = np.ones(len(rows), bool), Counter[str]()
        if self.region is not None and len(rows):
            wanted = self.region.contains(rows["lat_deg"].to_numpy(), rows["lon_deg"].to_numpy())
            left_out["outside the region"] = int((~wanted).sum())
        if self.since is not None or self.until is not None:
            taken = np.asarray(rows["captured_at"].to_numpy(), "datetime64[ms]")
            unknown, outside = np.isnat(taken), np.zeros(len(rows), bool)
            if self.since is not None:
                outside |= taken < np.datetime64(utc(self.since), "ms")
            if self.until is not None:
                outside |= taken > np.datetime64(utc(self.until), "ms")
            left_out["without a capture date"] = int((wanted & unknown).sum())
            left_out["outside the dates"] = int((wanted & outside).sum())
            wanted = wanted & ~outside & ~unknown
        return wanted, +left_out  # + drops zeros

    def choose(self, rows: pa.Table) -> tuple[Bools, Counter[str]]:
        """Return the `max_photos` rows (N,) whose names have the lowest digests, whatever the order of the rows."""
        if self.max_photos is None or len(rows) <= self.max_photos:
            return np.ones(len(rows), bool), Counter()
        lots = np.array([lot(file) for file in rows["file"].to_pylist()], np.uint64)
        chosen = np.zeros(len(rows), bool)
        chosen[np.argsort(lots, kind="stable")[: self.max_photos]] = True
        return chosen, Counter({"not chosen": len(rows) - self.max_photos})


def lot(name: str) -> int:
    """Return a number that is drawn for a name, 64 bits, the same in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def keep(rows: pa.Table, wanted: Bools) -> pa.Table:
    """Return the rows of a mask (N,); nothing is copied where all are wanted."""
    return rows if wanted.all() else rows.filter(pa.array(wanted))


def utc(moment: datetime) -> datetime:
    """Return a time as UTC without a zone; one without a zone stays as it is."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
