"""What can be asked of an ingestion beside its source and region; which doors each option is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import get_args

from cellcode.errors import UsageError
from cellcode.geography import Region
from cellcode.http import Politeness
from cellcode.photos.reading.panorama import PanoramaRule
from cellcode.photos.sources import consent
from cellcode.photos.sources.sizes import Check
from cellcode.photos.table.selection import Selection

_DOORS = {
    "columns": ("list", "webdataset"),
    "check": ("list", "webdataset", "osv5m"),
    "gpx": ("folder",),
    "track_heading": ("folder",),
    "camera_zone": ("folder",),
    "clock_offset_s": ("folder",),
    "panoramas": ("folder", "online"),
    "politeness": ("online",),
    "min_width_px": ("online",),
    "min_quality": ("online",),
    "max_accuracy_m": ("online",),
}


@dataclass(frozen=True)
class Options:
    """How photos are ingested.

    Attributes:
        columns: our name to the list's column, where the names of the format and common others do not tell; an empty
            column: none.
        check: how photos of a list are looked at: "decode" reads each once, "header" opens it only, "none" takes the list's
            width and height and does not touch the files.
        since, until: first and last capture time; without a zone they are UTC. Photos without a date are then left out.
        max_photos: a random choice of so many, the same at every run; None: all.
        gpx: tracks that place photos without a position by their time.
        track_heading: photos without a heading look along the track.
        camera_zone: time zone of the camera's clock, where photos do not state it.
        clock_offset_s: seconds to add to the camera's time to have the true one.
        panoramas: how 360 degree photos are cut into perspective ones; None: they are left out.
        politeness: rate, connections and tries for each host.
        min_width_px: online photos are fetched at least so wide.
        min_quality: 0 to 1, as Mapillary rates its photos.
        max_accuracy_m: stated error of the position of an online photo.
        confirm: is asked before more than 2,000 photos or 500 MB are fetched or unpacked.
        allow_missing: share of the photos that may be missing by passing faults before the run counts as failed.

    Raises:
        UsageError: a value that cannot be meant.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    check: Check = "decode"
    since: datetime | None = None
    until: datetime | None = None
    max_photos: int | None = None
    gpx: tuple[Path, ...] = ()
    track_heading: bool = False
    camera_zone: str | None = None
    clock_offset_s: float = 0.0
    panoramas: PanoramaRule | None = None
    politeness: Politeness = field(default_factory=Politeness)
    min_width_px: int = 480
    min_quality: float | None = None
    max_accuracy_m: float | None = None
    confirm: Callable[[str], bool] = consent.refuse
    allow_missing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.check not in get_args(Check):
            raise UsageError(f"check {self.check!r} is unknown; choose {', '.join(get_args(Check))}")
        if not 0 <= self.allow_missing <= 1:
            raise UsageError(f"allow_missing is {self.allow_missing:g}, it is a share, in 0..1")
        self.selection(None)

    def selection(self, region: Region | None) -> Selection:
        """Return which photos are wanted of a region.

        Raises:
            UsageError: a value that cannot be meant.
        """
        return Selection(region, self.since, self.until, self.max_photos)

    def refuse_unused(self, door: str, source: str) -> None:
        """Refuse options that would be without effect for a source.

        Raises:
            UsageError: one is set that its door does not know.
        """
        plain = Options()
        for each in fields(self):
            doors = _DOORS.get(each.name)
            if doors is not None and door not in doors and getattr(self, each.name) != getattr(plain, each.name):
                raise UsageError(f"{each.name} is set, which has no meaning for {source}: it is for {', '.join(doors)}")
