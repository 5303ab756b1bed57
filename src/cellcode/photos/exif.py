"""Position, direction, time and field of view out of EXIF."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from cellcode.photos.image import PhotoError

_DATE = "%Y:%m:%d %H:%M:%S"
TURNED = (5, 6, 7, 8)  # orientations that swap the sides
_FILM_WIDTH_MM, _FILM_HEIGHT_MM = 36.0, 24.0


@dataclass(frozen=True)
class Facts:
    """What a photo's EXIF says; None where it says nothing usable. Angles in degrees, WGS84."""

    lat_deg: float
    lon_deg: float
    heading_deg: float | None
    fov_deg: float | None
    captured_at: datetime | None
    device: str | None
    attribution: str | None
    accuracy_m: float | None


def read_facts(image: Image.Image, name: str) -> Facts:
    """Read the facts of an opened photo.

    Raises:
        PhotoError: there is no position, or one that is not on the globe.
    """
    try:
        tags = image.getexif()
        gps, detail = tags.get_ifd(ExifTags.IFD.GPSInfo), tags.get_ifd(ExifTags.IFD.Exif)
    except Exception:  # Pillow raises anything on damaged tags
        raise PhotoError(f"{name}: its EXIF is damaged") from None
    lat, lon = _position(gps, name)
    turned = tags.get(ExifTags.Base.Orientation) in TURNED
    words = [str(tags[tag]).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model) if tags.get(tag)]
    return Facts(
        lat_deg=lat,
        lon_deg=lon,
        heading_deg=_heading(gps),
        fov_deg=_field_of_view(detail, image.size[::-1] if turned else image.size),
        captured_at=_date(detail.get(ExifTags.Base.DateTimeOriginal) or tags.get(ExifTags.Base.DateTime)),
        device=" ".join(words) or None,
        attribution=str(tags.get(ExifTags.Base.Artist) or "").strip("\0 ") or None,
        accuracy_m=_number(gps.get(ExifTags.GPS.GPSHPositioningError)),
    )


def _position(gps: dict[int, Any], name: str) -> tuple[float, float]:
    if ExifTags.GPS.GPSLatitude not in gps or ExifTags.GPS.GPSLongitude not in gps:
        raise PhotoError(f"{name}: no GPS position in its EXIF")
    lat = _angle(gps[ExifTags.GPS.GPSLatitude], gps.get(ExifTags.GPS.GPSLatitudeRef), "N", "S")
    lon = _angle(gps[ExifTags.GPS.GPSLongitude], gps.get(ExifTags.GPS.GPSLongitudeRef), "E", "W")
    if lat is None or lon is None:
        raise PhotoError(f"{name}: its GPS position is damaged (not numbers, 0/0, or no hemisphere)")
    if abs(lat) > 90 or abs(lon) > 180:
        raise PhotoError(f"{name}: its GPS position {lat:.6f}, {lon:.6f} is not on the globe")
    if lat == 0 and lon == 0:
        raise PhotoError(f"{name}: its GPS position is exactly 0, 0, which cameras write when they have none")
    return lat, lon


def _angle(parts: Any, reference: Any, positive: str, negative: str) -> float | None:
    """Degrees of a triple of rationals; None if any is not a number or the hemisphere is missing."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if isinstance(reference, bytes):
        reference = reference.decode("ascii", "ignore")
    letter = str(reference or "").strip("\0 ").upper()[:1]
    if not math.isfinite(value) or min(degrees, minutes, seconds) < 0 or letter not in (positive, negative):
        return None
    return -value if letter == negative else value


def _heading(gps: dict[int, Any]) -> float | None:
    """Direction of view; a magnetic one is left out rather than taken for true north."""
    value = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    reference = gps.get(ExifTags.GPS.GPSImgDirectionRef) or "T"
    reference = reference.decode("ascii", "replace") if isinstance(reference, bytes) else str(reference)
    reference = reference.strip("\0 ").upper()
    if value is None or not 0 <= value <= 360 or reference == "M":
        return None
    return value % 360


def _field_of_view(detail: dict[int, Any], size: tuple[int, int]) -> float | None:
    """Horizontal field of view of the upright picture, from the focal length on 35 mm film."""
    focal_mm = _number(detail.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if not focal_mm:
        return None
    film_mm = _FILM_WIDTH_MM if size[0] >= size[1] else _FILM_HEIGHT_MM
    return math.degrees(2 * math.atan(film_mm / 2 / focal_mm))


def _date(text: Any) -> datetime | None:
    try:
        return datetime.strptime(str(text).strip("\0 ")[:19], _DATE)
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
