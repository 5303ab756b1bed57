"""When a photo was taken: in UTC wherever the time zone is known, else as the camera's clock showed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from PIL import ExifTags

from cellcode.errors import UsageError

# Time of the exposure, of the digitisation, of the last change: each with its fraction of a second and its zone.
_TIMES = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal, ExifTags.Base.OffsetTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized, ExifTags.Base.OffsetTimeDigitized),
    (ExifTags.Base.DateTime, ExifTags.Base.SubsecTime, ExifTags.Base.OffsetTime),
)
_WIDEST_ZONE = timedelta(hours=14)
_LARGEST_OFFSET_S = 100 * 365 * 86_400  # cameras without a battery begin in 1970 or 1980


@dataclass(frozen=True)
class Clock:
    """What the user knows of the camera's clock.

    Attributes:
        zone: time zone it shows, for photos that state none.
        offset_s: seconds to add to have the true time; negative for a clock that is fast.

    Raises:
        UsageError: the offset is too large.
    """

    zone: tzinfo | None = None
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        if not abs(self.offset_s) < _LARGEST_OFFSET_S:
            raise UsageError(f"the offset of the clock is {self.offset_s:g} s, it must be less than a hundred years")

    @classmethod
    def parse(cls, zone: str | None, offset_s: float = 0.0) -> Clock:
        """Read a zone as the command line spells it, such as Europe/Paris or +02:00; UsageError if it is neither."""
        try:
            return cls(None if zone is None else _offset(zone) or ZoneInfo(zone), offset_s)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"{zone!r} is no time zone; write +02:00, UTC or a name such as Europe/Paris") from None


@dataclass(frozen=True)
class Moment:
    """A capture time without tzinfo; UTC if `utc`, else what a clock of unknown zone showed."""

    time: datetime
    utc: bool


def capture_moment(
    tags: Mapping[int, Any], detail: Mapping[int, Any], gps: Mapping[int, Any], clock: Clock
) -> Moment | None:
    """Return the time of capture of a photo; None where no tag is usable.

    The camera's time counts if its zone is stated; else the satellites' time (UTC, of the last fix, so seconds older); else
    the camera's time in the zone that the user gives; else as it is. The mappings are the three directories of the EXIF.
    """
    shown, zone = _camera_time(tags, detail)
    satellites = _satellite_time(gps)
    if satellites is not None and zone is None:
        return Moment(_whole_ms(satellites), True)
    if shown is None:
        return None
    try:
        true = _whole_ms(shown + timedelta(seconds=clock.offset_s))
        if zone := zone or clock.zone:
            return Moment(true.replace(tzinfo=zone).astimezone(UTC).replace(tzinfo=None), True)
        return Moment(true, False)
    except OverflowError:  # the year 1 or 9999
        return None


def _camera_time(tags: Mapping[int, Any], detail: Mapping[int, Any]) -> tuple[datetime | None, tzinfo | None]:
    for date, fraction, offset in _TIMES:
        try:
            time = datetime.strptime(tag_text(detail.get(date) or tags.get(date))[:19], "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
        digits = tag_text(detail.get(fraction))
        if digits.isdecimal():
            time += timedelta(seconds=float(f"0.{digits}"))
        return time, _offset(tag_text(detail.get(offset)))
    return None, None


def _satellite_time(gps: Mapping[int, Any]) -> datetime | None:
    try:
        day = datetime.strptime(tag_text(gps.get(ExifTags.GPS.GPSDateStamp))[:10], "%Y:%m:%d")
        hours, minutes, seconds = (float(part) for part in gps[ExifTags.GPS.GPSTimeStamp])
        # Seconds of 60 are a leap second.
        if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds <= 60):
            return None
        return day + timedelta(hours=hours, minutes=minutes, seconds=seconds)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _whole_ms(time: datetime) -> datetime:
    """What a photo table can hold."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _offset(text: str) -> tzinfo | None:
    """A zone such as +02:00, -0330 or Z."""
    if text.upper() in ("Z", "UTC"):
        return UTC
    sign, digits = text[:1], text[1:].replace(":", "")
    if sign not in ("+", "-") or len(digits) != 4 or not digits.isascii() or not digits.isdecimal():
        return None
    width = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    possible = int(digits[2:]) <= 59 and width <= _WIDEST_ZONE
    return timezone(width if sign == "+" else -width) if possible else None


def tag_text(value: Any) -> str:
    """Return the text of a tag, which may be bytes or missing, without the zeros and blanks around it."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")
