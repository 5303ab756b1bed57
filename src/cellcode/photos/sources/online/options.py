"""Which photos of an online service are wanted, and how they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cellcode.errors import UsageError
from cellcode.http import Politeness
from cellcode.photos.reading.panorama import PanoramaRule
from cellcode.photos.sources.online.record import Record
from cellcode.photos.table.selection import utc


@dataclass(frozen=True)
class Options:
    """What is fetched.

    Attributes:
        politeness: rates, tries and limits of every host.
        max_photos: a random choice of so many, the same at every run; None: all.
        since, until: first and last capture time; without a zone they are UTC. Photos without a date are then left out.
        min_width_px: the narrowest picture that is at least so wide is fetched, of a panorama one whose views are; photos that
            have none are left out.
        min_quality: 0 to 1, as Mapillary rates its photos; unrated photos are left out.
        max_accuracy_m: stated error of the position; photos that state none are left out.
        panoramas: how 360 degree photos are cut into perspective ones; None: they are left out.

    Raises:
        UsageError: a value that cannot be meant.
    """

    politeness: Politeness = field(default_factory=Politeness)
    max_photos: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    min_width_px: int = 480
    min_quality: float | None = None
    max_accuracy_m: float | None = None
    panoramas: PanoramaRule | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.max_photos is not None and self.max_photos < 1:
            raise UsageError(f"max_photos is {self.max_photos}, it must be at least 1")
        if self.min_quality is not None and not 0 <= self.min_quality <= 1:
            raise UsageError(f"min_quality is {self.min_quality:g}, not in 0..1")
        if self.max_accuracy_m is not None and not self.max_accuracy_m > 0:
            raise UsageError(f"max_accuracy_m is {self.max_accuracy_m:g}, it must be above 0")
        if self.since and self.until and utc(self.since) > utc(self.until):
            raise UsageError(f"since {self.since} is after until {self.until}")

    def objection(self, record: Record) -> str | None:
        """Return why a photo is not wanted, in words that are the same for all such photos; None if it is."""
        dated = self.since is not None or self.until is not None
        if dated and record.captured_at is None:
            return "no capture date"
        if self.since and record.captured_at and record.captured_at < utc(self.since):
            return f"captured before {self.since}"
        if self.until and record.captured_at and record.captured_at > utc(self.until):
            return f"captured after {self.until}"
        objection = self._quality_objection(record) or self._kind_objection(record)
        if objection is None and not record.wide_enough(self.wanted_px(record)):
            return self.too_narrow(record)
        return objection

    def too_narrow(self, record: Record) -> str:
        """Return the words for a photo without a picture that is wide enough."""
        return f"narrower than {self.wanted_px(record):.0f} px"

    def wanted_px(self, record: Record) -> float:
        """Return the width that is needed of a photo; of a panorama, a part is seen at a time."""
        if record.kind == "panorama" and self.panoramas is not None:
            return self.min_width_px * 360 / self.panoramas.fov_deg * record.area.width
        return self.min_width_px

    def _quality_objection(self, record: Record) -> str | None:
        if self.min_quality is not None:
            if record.quality is None:
                return "no quality score"
            if record.quality < self.min_quality:
                return f"quality score under {self.min_quality:g}"
        if self.max_accuracy_m is not None:
            if record.accuracy_m is None:
                return "no stated accuracy of the position"
            if record.accuracy_m > self.max_accuracy_m:
                return f"position less accurate than {self.max_accuracy_m:g} m"
        return None

    def _kind_objection(self, record: Record) -> str | None:
        if record.kind == "fisheye":
            return "fisheye, not a perspective photo"
        if record.kind == "panorama" and self.panoramas is None:
            return "a 360 degree photo, and cutting them was not asked for"
        return None
