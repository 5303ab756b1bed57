"""When a photo was taken: in UTC wherever the time zone is known, else as the camera's clock showed it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from PIL import ExifTags

from cellcode.errors import UsageError
from cellcode.geography.numbers import parse_number

# Time of the exposure, of the digitisation, of the last change: each with its fraction of a second and its zone.
_TIMES = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal, ExifTags.Base.OffsetTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized, ExifTags.Base.OffsetTimeDigitized),
    (ExifTags.Base.DateTime, ExifTags.Base.SubsecTime, ExifTags.Base.OffsetTime),
)
_DATE = re.compile(r"(\d{4})([:/.-]?)(\d{2})\2(\d{2})", re.ASCII)
# As the standard has it, and as devices and programs spell it: 2024-05-06T07:08:09.5+02:00, 2024/05/06 07:08, ...
_TIME = re.compile(
    r"(\d{4})[:/.-](\d{1,2})[:/.-](\d{1,2})[T ] *(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?[: ]*(Z|UTC|[+-]\d\d:?\d\d)?",
    re.ASCII | re.IGNORECASE,
)
_WIDEST_ZONE = timedelta(hours=14)
_ZONE_STEP = timedelta(minutes=15)
_LARGEST_OFFSET_S = 100 * 365 * 86_400  # cameras without a battery begin in 1970 or 1980
_LATEST_FIX = timedelta(minutes=1)  # between a fix and the exposure, or the errors of the clock
_ROLLOVER = timedelta(weeks=1024)  # receivers count weeks with ten bits: old ones begin again in 1999 and 2019
FIRST_PHOTO = datetime(1826, 1, 1)
# Seconds, milliseconds, microseconds and nanoseconds since 1970 differ in size, from 1973 to 2286.
_UNITS = ((1e8, 1e10, 1.0), (1e11, 1e13, 1e3), (1e14, 1e16, 1e6), (1e17, 1e19, 1e9))


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

    The camera's time counts if its zone is stated; else the satellites' time (UTC, of the last fix, so seconds older) unless
    it contradicts the camera's; else the camera's time in the zone that the user gives; else as it is. The mappings are the
    three directories of the EXIF.
    """
    shown, zone = _camera_time(tags, detail)
    with suppress(OverflowError):  # the year 1 or 9999
        true = None if shown is None else shown + timedelta(seconds=clock.offset_s)
        satellites = _satellite_time(gps, true)
        if zone is None and satellites is not None and not (true and _is_stale(satellites, true, clock.zone)):
            return _moment(satellites, UTC)
        return None if true is None else _moment(true, zone or clock.zone)
    return None


def parse_time(text: str) -> datetime:
    """Return a date and time as text: with tzinfo where it states a zone; a time of day may lack its seconds.

    A second 60 is a leap second, the first of the next minute.

    Raises:
        ValueError: it is none, or no time of day is stated.
    """
    if (match := _TIME.fullmatch(text.strip())) is None:
        raise ValueError(f"{text!r} is no date and time")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if zone and _offset(zone) is None:
        raise ValueError(f"{zone} is no time zone")
    leap = second == "60"
    clock = (int(hour), int(minute), 59 if leap else int(second or 0))
    time = datetime(int(year), int(month), int(day), *clock, tzinfo=_offset(zone) if zone else None)
    return time + timedelta(seconds=1 if leap else float(f"0.{fraction or 0}"))


def parse_listed_time(text: str) -> datetime:
    """Return the time that a list states, UTC if with a zone: ISO 8601, as EXIF spells it, or a number since 1970.

    Raises:
        ValueError: it is none of these, or no photo can be of that time.
    """
    text = text.strip()
    try:
        number = None if text[4:5] == "-" or _DATE.fullmatch(text) else parse_number(text)
    except ValueError:
        number = None
    if number is not None:
        return from_epoch(number)
    try:
        return _plausible(datetime.fromisoformat(text))
    except ValueError:
        return _plausible(parse_time(text))


def from_epoch(number: float) -> datetime:
    """Return the UTC time, without tzinfo, of seconds, milliseconds, ... since 1970; ValueError: no photo is of that time."""
    unit = next((unit for lowest, highest, unit in _UNITS if lowest <= number < highest), None)
    if unit is None and number:
        raise ValueError(f"{number:g} is neither seconds nor milliseconds since 1970")
    return _plausible(datetime(1970, 1, 1) + timedelta(milliseconds=round(number / (unit or 1) * 1000)))


def tomorrow() -> datetime:
    """Return the latest time that a photo can state: a day from now, for zones and clocks that are fast."""
    return datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)


def _plausible(time: datetime) -> datetime:
    """The time as UTC without a zone, if a photo can be of it."""
    if time.tzinfo:
        with suppress(OverflowError):  # then it is of the year 1 or 9999
            time = time.astimezone(UTC)
        time = time.replace(tzinfo=None)
    if not FIRST_PHOTO <= time <= tomorrow():
        raise ValueError(f"no photo is of {time}")
    return time


def _moment(time: datetime, zone: tzinfo | None) -> Moment | None:
    try:  # whole milliseconds are what a photo table can hold
        time = time.replace(microsecond=time.microsecond // 1000 * 1000, tzinfo=zone)
        return Moment(_plausible(time), zone is not None)
    except ValueError:
        return None


def _camera_time(tags: Mapping[int, Any], detail: Mapping[int, Any]) -> tuple[datetime | None, tzinfo | None]:
    for date, fraction, offset in _TIMES:
        try:
            time = parse_time(tag_text(detail.get(date) or tags.get(date)))
        except ValueError:
            continue
        digits = tag_text(detail.get(fraction))
        if digits.isdecimal() and digits.isascii() and not time.microsecond:
            time += timedelta(seconds=float(f"0.{digits}"))
        return time.replace(tzinfo=None), time.tzinfo or _offset(tag_text(detail.get(offset)))
    return None, None


def _satellite_time(gps: Mapping[int, Any], shown: datetime | None) -> datetime | None:
    """The time of the last fix, brought near the camera's time where the receiver's count of weeks began again."""
    if tag_text(gps.get(ExifTags.GPS.GPSStatus)).upper() == "V":  # there was no fix, so it is that of an earlier one
        return None
    try:
        match = _DATE.fullmatch(tag_text(gps.get(ExifTags.GPS.GPSDateStamp))[:10].strip())
        stamp = gps.get(ExifTags.GPS.GPSTimeStamp)
        hours, minutes, seconds = map(float, stamp if isinstance(stamp, tuple) else ())
        # Seconds of 60 are a leap second.
        if match is None or not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds <= 60):
            return None
        day = datetime(int(match[1]), int(match[3]), int(match[4]))
        time = day + timedelta(hours=hours, minutes=minutes, seconds=seconds)
    except (TypeError, ValueError, OverflowError):
        return None
    return time + _ROLLOVER * min(max(round((shown - time) / _ROLLOVER), 0), 2) if shown else time


def _is_stale(satellites: datetime, true: datetime, zone: tzinfo | None) -> bool:
    """Return True if a fix is older than the camera's time allows, in its zone or, where that is unknown, in every zone."""
    if zone is not None:
        return true.replace(tzinfo=zone) - satellites.replace(tzinfo=UTC) > _LATEST_FIX
    apart = true - satellites
    beside = abs(apart - round(apart / _ZONE_STEP) * _ZONE_STEP)
    return apart > _WIDEST_ZONE + _LATEST_FIX or (apart >= -_WIDEST_ZONE and beside > _LATEST_FIX)


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
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")
