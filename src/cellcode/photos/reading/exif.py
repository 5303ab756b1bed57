"""Position, direction, time and field of view out of EXIF, and of XMP where EXIF has none."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from cellcode.photos.reading import xmp
from cellcode.photos.reading.capture_time import Clock, capture_moment
from cellcode.photos.reading.image import PhotoError, is_turned
from cellcode.photos.reading.panorama import Panorama

_FILM_WIDTH_MM, _FILM_HEIGHT_MM = 36.0, 24.0


@dataclass(frozen=True)
class Facts:
    """What a photo states about itself; None where it states nothing usable. Angles in degrees, WGS84.

    Attributes:
        lat_deg, lon_deg: NaN where there is no position, for the reason `position_fault`.
        heading_deg: true.
        magnetic_heading_deg: the same from magnetic north, where the photo states that one.
        captured_at: UTC if `in_utc`, else what the camera's clock showed.
    """

    lat_deg: float
    lon_deg: float
    heading_deg: float | None
    fov_deg: float | None
    captured_at: datetime | None
    device: str | None
    attribution: str | None
    accuracy_m: float | None
    magnetic_heading_deg: float | None = None
    in_utc: bool = False
    licence: str | None = None
    panorama: Panorama | None = None
    position_fault: str | None = None


def read_facts(image: Image.Image, name: str, clock: Clock | None = None, *, need_position: bool = True) -> Facts:
    """Read the facts of an opened photo.

    Args:
        clock: what is known of the camera's clock.

    Raises:
        PhotoError: there is no position, or one that is not on the globe, and one is needed; or its tags are damaged.
    """
    try:
        tags = image.getexif()
        gps, detail = tags.get_ifd(ExifTags.IFD.GPSInfo), tags.get_ifd(ExifTags.IFD.Exif)
    except Exception:  # Pillow raises anything on damaged tags
        raise PhotoError(f"{name}: its EXIF is damaged") from None
    properties = xmp.read_properties(image, name)
    lat, lon, fault = _position(gps, properties)
    if fault and need_position:
        raise PhotoError(f"{name}: {fault}")
    upright = image.size[::-1] if is_turned(image) else image.size
    words = [str(tags[tag]).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model) if tags.get(tag)]
    heading, magnetic = _heading(gps)
    moment = capture_moment(tags, detail, gps, clock or Clock())
    return Facts(
        lat_deg=lat,
        lon_deg=lon,
        heading_deg=None if magnetic else heading,
        fov_deg=_field_of_view(detail, upright),
        captured_at=moment.time if moment else None,
        device=" ".join(words) or None,
        attribution=str(tags.get(ExifTags.Base.Artist) or "").strip("\0 ") or None,
        accuracy_m=_number(gps.get(ExifTags.GPS.GPSHPositioningError)),
        magnetic_heading_deg=heading if magnetic else None,
        in_utc=moment is not None and moment.utc,
        licence=xmp.licence(properties),
        panorama=xmp.panorama(properties, upright, name),
        position_fault=fault,
    )


def _position(gps: dict[int, Any], properties: xmp.Properties) -> tuple[float, float, str | None]:
    """Latitude, longitude and no fault, or NaN and the fault of the EXIF position."""
    lat = _angle(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "N", "S")
    lon = _angle(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "E", "W")
    stated = ExifTags.GPS.GPSLatitude in gps and ExifTags.GPS.GPSLongitude in gps
    fault = _position_fault(lat, lon, stated)
    if fault is None and lat is not None and lon is not None:
        return lat, lon, None
    other = xmp.position(properties)
    if other is not None and _position_fault(*other, stated=True) is None:
        return *other, None
    return math.nan, math.nan, fault


def _position_fault(lat: float | None, lon: float | None, stated: bool) -> str | None:
    if not stated:
        return "no GPS position in its EXIF"
    if lat is None or lon is None:
        return "its GPS position is damaged (not numbers, 0/0, or no hemisphere)"
    if abs(lat) > 90 or abs(lon) > 180:
        return f"its GPS position {lat:.6f}, {lon:.6f} is not on the globe"
    if lat == 0 and lon == 0:
        return "its GPS position is exactly 0, 0, which cameras write when they have none"
    return None


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


def _heading(gps: dict[int, Any]) -> tuple[float | None, bool]:
    """Direction of view, and whether it is from magnetic north rather than true north."""
    value = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    reference = gps.get(ExifTags.GPS.GPSImgDirectionRef) or "T"
    reference = reference.decode("ascii", "replace") if isinstance(reference, bytes) else str(reference)
    if value is None or not 0 <= value <= 360:
        return None, False
    return value % 360, reference.strip("\0 ").upper()[:1] == "M"


def _field_of_view(detail: dict[int, Any], size: tuple[int, int]) -> float | None:
    """Horizontal field of view of the upright picture, from the focal length on 35 mm film."""
    focal_mm = _number(detail.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if not focal_mm:
        return None
    film_mm = _FILM_WIDTH_MM if size[0] >= size[1] else _FILM_HEIGHT_MM
    return math.degrees(2 * math.atan(film_mm / 2 / focal_mm))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
