import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags
from PIL.TiffImagePlugin import IFDRational

from cellcode.photos.reading.facts import Facts, read_facts
from cellcode.photos.reading.image import PhotoError, open_photo
from cellcode.simulation.jpeg import Shot
from cellcode.simulation.jpeg import write_photo as write_simulated

GPS = ExifTags.GPS
Write = Callable[..., Path]


def _facts(path: Path) -> Facts:
    return read_facts(open_photo(path), path.name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize(("lat", "lon"), [(48.1234, 2.5678), (48.1, -70.25), (-33.9, 18.4), (-0.0004, -0.0003)])
def test_hemispheres_give_their_sign(lat: float, lon: float, suffix: str, write_photo: Write, tmp_path: Path) -> None:
    facts = _facts(write_photo(tmp_path / f"a{suffix}", lat, lon))
    assert facts.lat_deg == pytest.approx(lat, abs=1e-6)
    assert facts.lon_deg == pytest.approx(lon, abs=1e-6)


@pytest.mark.parametrize(
    ("lat", "lon"), [(90.0, 180.0), (-90.0, -180.0), (0.0, 12.0), (12.0, 0.0)], ids=["ne", "sw", "equator", "greenwich"]
)
def test_positions_at_the_limits_are_kept(lat: float, lon: float, write_photo: Write, tmp_path: Path) -> None:
    facts = _facts(write_photo(tmp_path / "a.jpg", lat, lon))
    assert (facts.lat_deg, facts.lon_deg) == (lat, lon)


def test_minutes_with_a_fraction_and_no_seconds_are_understood(write_photo: Write, tmp_path: Path) -> None:
    parts = (IFDRational(48), IFDRational(51_2345, 10_000), IFDRational(0))
    assert _facts(write_photo(tmp_path / "a.jpg", gps={GPS.GPSLatitude: parts})).lat_deg == 48 + 51.2345 / 60


def test_letters_in_lower_case_are_understood(write_photo: Write, tmp_path: Path) -> None:
    gps = {GPS.GPSLatitudeRef: "s", GPS.GPSLongitudeRef: "w"}
    facts = _facts(write_photo(tmp_path / "a.jpg", 10, 20, gps=gps))
    assert (facts.lat_deg, facts.lon_deg) == (-10, -20)


ZERO_BY_ZERO = (IFDRational(0, 0),) * 3


@pytest.mark.parametrize(
    ("gps", "says"),
    [
        ({GPS.GPSLatitude: None}, "no GPS position"),
        ({GPS.GPSLongitude: None}, "no GPS position"),
        ({GPS.GPSLatitude: ZERO_BY_ZERO}, "0/0"),
        ({GPS.GPSLongitude: ZERO_BY_ZERO}, "0/0"),
        ({GPS.GPSLatitude: (IFDRational(48), IFDRational(1, 0), IFDRational(0))}, "damaged"),
        ({GPS.GPSLatitude: (IFDRational(48), IFDRational(30))}, "damaged"),
        ({GPS.GPSLatitudeRef: None}, "no hemisphere"),
        ({GPS.GPSLongitudeRef: None}, "no hemisphere"),
        ({GPS.GPSLatitudeRef: "X"}, "no hemisphere"),
        ({GPS.GPSLatitudeRef: "E"}, "no hemisphere"),
        (
            {GPS.GPSLatitude: (IFDRational(91), IFDRational(0), IFDRational(0))},
            "91.000000, 2.300000 is not on the globe",
        ),
        ({GPS.GPSLatitude: (IFDRational(90), IFDRational(0), IFDRational(1))}, "not on the globe"),
        ({GPS.GPSLongitude: (IFDRational(181), IFDRational(0), IFDRational(0))}, "not on the globe"),
        ({GPS.GPSLatitude: (IFDRational(0),) * 3, GPS.GPSLongitude: (IFDRational(0),) * 3}, "exactly 0, 0"),
    ],
)
def test_unusable_position_is_refused_in_a_sentence(
    gps: dict[int, Any], says: str, write_photo: Write, tmp_path: Path
) -> None:
    with pytest.raises(PhotoError, match=says) as caught:
        _facts(write_photo(tmp_path / "a.jpg", gps=gps))
    assert str(caught.value).startswith("a.jpg: ")


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({}, None),
        ({GPS.GPSImgDirection: IFDRational(12_345, 100), GPS.GPSImgDirectionRef: "T"}, 123.45),
        ({GPS.GPSImgDirection: IFDRational(90)}, 90),
        ({GPS.GPSImgDirection: IFDRational(360), GPS.GPSImgDirectionRef: "T"}, 0),
        ({GPS.GPSImgDirection: IFDRational(90), GPS.GPSImgDirectionRef: "M"}, None),
        ({GPS.GPSImgDirection: IFDRational(361), GPS.GPSImgDirectionRef: "T"}, None),
        ({GPS.GPSImgDirection: IFDRational(0, 0), GPS.GPSImgDirectionRef: "T"}, None),
    ],
)
def test_only_a_true_heading_is_taken(
    gps: dict[int, Any], expected: float | None, write_photo: Write, tmp_path: Path
) -> None:
    assert _facts(write_photo(tmp_path / "a.jpg", gps=gps)).heading_deg == expected


@pytest.mark.parametrize(("size", "film_mm"), [((48, 32), 36), ((32, 48), 24)])
def test_field_of_view_follows_from_the_focal_length(
    size: tuple[int, int], film_mm: float, write_photo: Write, tmp_path: Path
) -> None:
    path = write_photo(tmp_path / "a.jpg", size=size, detail={ExifTags.Base.FocalLengthIn35mmFilm: 28})
    assert _facts(path).fov_deg == pytest.approx(math.degrees(2 * math.atan(film_mm / 56)))


def test_field_of_view_is_that_of_the_upright_picture(write_photo: Write, tmp_path: Path) -> None:
    """The pixels of a photo, and the width in its row, are those of the upright picture."""
    detail = {ExifTags.Base.FocalLengthIn35mmFilm: 28}
    path = write_photo(tmp_path / "a.jpg", size=(48, 32), tags={ExifTags.Base.Orientation: 6}, detail=detail)
    assert _facts(path).fov_deg == pytest.approx(math.degrees(2 * math.atan(24 / 56)))


def test_missing_or_senseless_details_are_left_out_not_fatal(write_photo: Write, tmp_path: Path) -> None:
    plain = _facts(write_photo(tmp_path / "a.jpg"))
    details = (plain.heading_deg, plain.fov_deg, plain.captured_at, plain.device, plain.attribution, plain.accuracy_m)
    assert details == (None,) * 6
    detail = {ExifTags.Base.FocalLengthIn35mmFilm: 0, ExifTags.Base.DateTimeOriginal: "0000:00:00 00:00:00"}
    odd = _facts(write_photo(tmp_path / "b.jpg", detail=detail, gps={GPS.GPSHPositioningError: IFDRational(0, 0)}))
    assert (odd.fov_deg, odd.captured_at, odd.accuracy_m) == (None, None, None)


def test_device_date_author_and_accuracy_are_read(write_photo: Write, tmp_path: Path) -> None:
    tags = {ExifTags.Base.Make: "Maker\0", ExifTags.Base.Model: "One ", ExifTags.Base.Artist: "A. Person"}
    detail = {ExifTags.Base.DateTimeOriginal: "2024:05:06 07:08:09"}
    path = write_photo(tmp_path / "a.jpg", tags=tags, detail=detail, gps={GPS.GPSHPositioningError: IFDRational(9, 2)})
    facts = _facts(path)
    assert facts.captured_at == datetime(2024, 5, 6, 7, 8, 9)
    assert (facts.device, facts.attribution, facts.accuracy_m) == ("Maker One", "A. Person", 4.5)


def test_date_of_the_file_stands_in_for_that_of_the_exposure(write_photo: Write, tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg", tags={ExifTags.Base.DateTime: "2023:01:02 03:04:05"})
    assert _facts(path).captured_at == datetime(2023, 1, 2, 3, 4, 5)


def test_simulated_photos_read_back_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for turn in range(20):
        lat, lon, heading = rng.uniform(-80, 80), rng.uniform(-180, 180), rng.uniform(0, 360)
        write_simulated(
            tmp_path / "a.jpg",
            rng.integers(0, 256, (32, 48, 3), np.uint8),
            Shot(lat, lon, heading, 65, datetime(2025, 6, 1 + turn, 12), "phone"),
            quality=80,
        )
        facts = _facts(tmp_path / "a.jpg")
        assert (facts.lat_deg, facts.lon_deg) == pytest.approx((lat, lon), abs=3e-9)
        assert facts.heading_deg is not None
        assert abs((facts.heading_deg - heading + 180) % 360 - 180) <= 0.0051
        assert facts.fov_deg == pytest.approx(65, abs=1.5)
        assert facts.captured_at == datetime(2025, 6, 1 + turn, 12)
        assert facts.device == "cellcode phone"
