from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from PIL import ExifTags
from PIL.TiffImagePlugin import IFDRational

from cellcode.errors import UsageError
from cellcode.photos.reading.capture_time import Clock
from cellcode.photos.reading.facts import Facts, read_facts
from cellcode.photos.reading.image import open_photo

BASE, GPS = ExifTags.Base, ExifTags.GPS
SHOWN = {BASE.DateTimeOriginal: "2024:07:06 09:30:00"}
STAMPS = {GPS.GPSDateStamp: "2024:07:06", GPS.GPSTimeStamp: (IFDRational(7), IFDRational(29), IFDRational(595, 10))}
Write = Callable[..., Path]


@pytest.fixture
def facts(write_photo: Write, tmp_path: Path) -> Callable[..., Facts]:
    def make(clock: Clock | None = None, **tags: Any) -> Facts:
        return read_facts(open_photo(write_photo(tmp_path / "a.jpg", **tags)), "a.jpg", clock)

    return make


@pytest.mark.parametrize(
    ("offset", "utc"),
    [("+02:00", (7, 30)), ("-03:30", (13, 0)), ("+00:00", (9, 30)), ("Z", (9, 30)), ("+05:45\0", (3, 45))],
)
def test_stated_zone_makes_utc(offset: str, utc: tuple[int, int], facts: Callable[..., Facts]) -> None:
    got = facts(detail={**SHOWN, BASE.OffsetTimeOriginal: offset})
    assert got.captured_at == datetime(2024, 7, 6, *utc)
    assert got.in_utc


@pytest.mark.parametrize("offset", ["", "   :  ", "+25:00", "02:00", "+2:00", "+02:99", "Paris"])
def test_senseless_zone_counts_as_none(offset: str, facts: Callable[..., Facts]) -> None:
    got = facts(detail={**SHOWN, BASE.OffsetTimeOriginal: offset})
    assert got.captured_at == datetime(2024, 7, 6, 9, 30)
    assert not got.in_utc


def test_satellites_tell_the_time_where_no_zone_is_stated(facts: Callable[..., Facts]) -> None:
    got = facts(detail=SHOWN, gps=STAMPS)
    assert (got.captured_at, got.in_utc) == (datetime(2024, 7, 6, 7, 29, 59, 500_000), True)
    stated = facts(detail={**SHOWN, BASE.OffsetTimeOriginal: "+02:00"}, gps=STAMPS)
    assert stated.captured_at == datetime(2024, 7, 6, 7, 30)
    assert facts(gps=STAMPS).captured_at == datetime(2024, 7, 6, 7, 29, 59, 500_000)


@pytest.mark.parametrize(
    "stamps",
    [
        {**STAMPS, GPS.GPSDateStamp: "0000:00:00"},
        {**STAMPS, GPS.GPSTimeStamp: (IFDRational(0, 0),) * 3},
        {**STAMPS, GPS.GPSTimeStamp: (IFDRational(25), IFDRational(0), IFDRational(0))},
        {GPS.GPSDateStamp: "2024:07:06"},
        {GPS.GPSTimeStamp: STAMPS[GPS.GPSTimeStamp]},
    ],
)
def test_half_or_damaged_stamps_are_no_time(stamps: dict[int, Any], facts: Callable[..., Facts]) -> None:
    got = facts(detail=SHOWN, gps=stamps)
    assert (got.captured_at, got.in_utc) == (datetime(2024, 7, 6, 9, 30), False)


def test_zone_of_the_user_is_for_photos_that_state_none(facts: Callable[..., Facts]) -> None:
    clock = Clock.parse("Europe/Paris")
    assert facts(clock, detail=SHOWN).captured_at == datetime(2024, 7, 6, 7, 30)
    winter = facts(clock, detail={BASE.DateTimeOriginal: "2024:01:06 09:30:00"})
    assert (winter.captured_at, winter.in_utc) == (datetime(2024, 1, 6, 8, 30), True)
    stated = facts(clock, detail={**SHOWN, BASE.OffsetTimeOriginal: "-01:00"})
    assert stated.captured_at == datetime(2024, 7, 6, 10, 30)


def test_offset_of_the_clock_is_added_but_not_to_the_time_of_the_satellites(facts: Callable[..., Facts]) -> None:
    slow = Clock(UTC, 90.5)
    assert facts(slow, detail=SHOWN).captured_at == datetime(2024, 7, 6, 9, 31, 30, 500_000)
    east = Clock.parse("+02:00", 30)
    assert facts(east, detail=SHOWN, gps=STAMPS).captured_at == datetime(2024, 7, 6, 7, 29, 59, 500_000)


def _stamps(moment: datetime, date: str = "%Y:%m:%d") -> dict[int, Any]:
    parts = (moment.hour, moment.minute, moment.second)
    return {GPS.GPSDateStamp: moment.strftime(date), GPS.GPSTimeStamp: tuple(IFDRational(part) for part in parts)}


@pytest.mark.parametrize(
    ("zone", "satellites", "expected", "in_utc"),
    [
        # SHOWN is 09:30; with a zone that the user gives, a fix may be a minute older, and newer.
        ("+02:00", datetime(2024, 7, 6, 7, 29, 30), datetime(2024, 7, 6, 7, 29, 30), True),
        ("+02:00", datetime(2024, 7, 6, 7, 5), datetime(2024, 7, 6, 7, 30), True),
        ("+02:00", datetime(2024, 7, 6, 6, 30), datetime(2024, 7, 6, 7, 30), True),
        ("+02:00", datetime(2024, 7, 3, 7, 30), datetime(2024, 7, 6, 7, 30), True),
        ("+02:00", datetime(2024, 7, 6, 7, 33), datetime(2024, 7, 6, 7, 33), True),
        # Without one, it is right in some zone of whole quarters of an hour, or stale.
        (None, datetime(2024, 7, 6, 3, 44, 10), datetime(2024, 7, 6, 3, 44, 10), True),
        (None, datetime(2024, 7, 6, 7, 5), datetime(2024, 7, 6, 9, 30), False),
        (None, datetime(2024, 7, 5, 7, 30), datetime(2024, 7, 6, 9, 30), False),
        # The clock of a camera without a battery.
        (None, datetime(2026, 7, 6, 7, 5), datetime(2026, 7, 6, 7, 5), True),
        # 1024 and 2048 weeks too early.
        (None, datetime(2024, 7, 6, 7, 29, 59) - timedelta(weeks=1024), datetime(2024, 7, 6, 7, 29, 59), True),
        ("+02:00", datetime(2024, 7, 6, 7, 29, 59) - timedelta(weeks=2048), datetime(2024, 7, 6, 7, 29, 59), True),
        ("+02:00", datetime(2024, 7, 6, 7, 5) - timedelta(weeks=1024), datetime(2024, 7, 6, 7, 30), True),
    ],
)
def test_fix_that_contradicts_the_camera_does_not_date_the_photo(
    zone: str | None, satellites: datetime, expected: datetime, in_utc: bool, facts: Callable[..., Facts]
) -> None:
    got = facts(Clock.parse(zone), detail=SHOWN, gps=_stamps(satellites))
    assert (got.captured_at, got.in_utc) == (expected, in_utc)
    stated = facts(detail={**SHOWN, BASE.OffsetTimeOriginal: "+02:00"}, gps=_stamps(satellites))
    assert stated.captured_at == datetime(2024, 7, 6, 7, 30)


@pytest.mark.parametrize("date", ["%Y:%m:%d", "%Y-%m-%d", "%Y%m%d", "%Y/%m/%d"])
def test_dates_of_satellites_have_several_spellings(date: str, facts: Callable[..., Facts]) -> None:
    moment = datetime(2024, 7, 6, 7, 29, 59)
    assert facts(gps=_stamps(moment, date)).captured_at == moment
    assert facts(gps=_stamps(moment, "%Y-%m:%d")).captured_at is None


@pytest.mark.parametrize(
    ("text", "expected", "in_utc"),
    [
        ("2024-07-06 09:30:00", (9, 30, 0, 0), False),
        ("2024/07/06 09:30:00", (9, 30, 0, 0), False),
        ("2024:7:6  9:30:00", (9, 30, 0, 0), False),
        ("2024-07-06T09:30:00", (9, 30, 0, 0), False),
        ("2024-07-06T09:30:00.25", (9, 30, 0, 250_000), False),
        ("2024-07-06T09:30:00Z", (9, 30, 0, 0), True),
        ("2024:07:06 09:30:00.5+02:00", (7, 30, 0, 500_000), True),
        ("2024:07:06 09:30:00-0330", (13, 0, 0, 0), True),
        ("2024:07:06 09:30", (9, 30, 0, 0), False),
        ("2024:07:06 09:30:  ", (9, 30, 0, 0), False),
        ("2024:07:06 09:29:60", (9, 30, 0, 0), False),
        (" 2024:07:06 09:30:00 \0", (9, 30, 0, 0), False),
        *(
            (text, None, False)
            for text in ("    :  :     :  :  ", "0000:00:00 00:00:00", "2024:07:06", "06/07/2024 09:30:00")
        ),
        *((text, None, False) for text in ("2024:07:06 25:00:00", "2024:02:30 09:30:00", "2024:07:06 09:30:00+99:00")),
        *((text, None, False) for text in ("2999:07:06 09:30:00", "1700:07:06 09:30:00", "٢٠٢٤:07:06 09:30:00", "")),
    ],
)
def test_spellings_of_the_camera_time(
    text: str, expected: tuple[int, int, int, int] | None, in_utc: bool, facts: Callable[..., Facts]
) -> None:
    got = facts(detail={BASE.DateTimeOriginal: text})
    assert (got.captured_at, got.in_utc) == (expected and datetime(2024, 7, 6, *expected), in_utc)


@pytest.mark.parametrize(("digits", "ms"), [("5", 500), ("25", 250), ("007", 7), ("1239", 123), ("x", 0), ("", 0)])
def test_fractions_of_a_second_are_kept_to_the_millisecond(digits: str, ms: int, facts: Callable[..., Facts]) -> None:
    got = facts(detail={**SHOWN, BASE.SubsecTimeOriginal: digits})
    assert got.captured_at == datetime(2024, 7, 6, 9, 30, 0, ms * 1000)


def test_each_time_goes_with_its_own_zone(facts: Callable[..., Facts]) -> None:
    detail = {
        BASE.DateTimeDigitized: "2024:07:06 09:30:00",
        BASE.OffsetTimeDigitized: "+01:00",
        BASE.OffsetTime: "+09:00",
    }
    assert facts(detail=detail).captured_at == datetime(2024, 7, 6, 8, 30)
    changed = facts(tags={BASE.DateTime: "2024:07:06 09:30:00"}, detail={BASE.OffsetTime: "+09:00"})
    assert changed.captured_at == datetime(2024, 7, 6, 0, 30)


@pytest.mark.parametrize("date", ["0001:01:01 00:00:00", "9999:12:31 23:59:59"])
def test_time_at_the_end_of_the_calendar_is_none_and_no_crash(date: str, facts: Callable[..., Facts]) -> None:
    zone = "+14:00" if date.startswith("0") else "-12:00"
    assert facts(detail={BASE.DateTimeOriginal: date, BASE.OffsetTimeOriginal: zone}).captured_at is None


def test_zones_are_read_as_names_or_offsets() -> None:
    assert Clock.parse(None) == Clock()
    assert Clock.parse("Asia/Kathmandu", 3).zone == ZoneInfo("Asia/Kathmandu")
    assert Clock.parse("-0330").zone == timezone(-timedelta(hours=3, minutes=30))
    assert Clock.parse("UTC").zone is UTC
    for wrong in ("Middle/Earth", "+2", "", "../etc/passwd"):
        with pytest.raises(UsageError, match="no time zone"):
            Clock.parse(wrong)


@pytest.mark.parametrize("offset_s", [float("nan"), float("inf"), -1e10])
def test_offset_that_cannot_be_meant_is_refused(offset_s: float) -> None:
    with pytest.raises(UsageError, match="offset of the clock"):
        Clock(UTC, offset_s)
