"""What a photo states about itself: EXIF, and in XMP the panorama tags (GPano), position and licence.

The XMP packet is parsed here and not by Pillow's getxmp(), which returns nothing, without a word, where defusedxml is
missing: every panorama would then be taken for an ordinary photo.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from PIL import ExifTags, Image

from cellcode.geography.numbers import parse_number
from cellcode.photos.reading.capture_time import Clock, capture_moment, tag_text
from cellcode.photos.reading.exif import read_exif, upright_size
from cellcode.photos.reading.image import PhotoError
from cellcode.photos.reading.panorama import WHOLE, Area, Panorama, is_whole

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_PANO = "{http://ns.google.com/photos/1.0/panorama/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_LICENCE = "{http://creativecommons.org/ns#}license"
_COORDINATE = re.compile(r"(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?(?:,(\d+(?:\.\d+)?))?([NSEW])", re.ASCII)
_PADDING = b"\0 \t\r\n"
NULL_ISLAND = "its position is exactly 0, 0, which devices write when they have none"
_NO_POSITION = "no GPS position in its EXIF"
_VOID = "its GPS position is void (GPSStatus V): the receiver had no fix, and the position is an older one"
_FILM_WIDTH_MM, _FILM_HEIGHT_MM = 36.0, 24.0
Properties = Mapping[str, str]


def _xmp(image: Image.Image, name: str) -> Properties:
    """The simple properties of a photo's XMP packet, by `{namespace}name`; empty without a packet."""
    packet = image.info.get("xmp")
    packet = packet.encode() if isinstance(packet, str) else packet
    if not isinstance(packet, bytes) or not packet.strip(_PADDING):  # a damaged TIFF has a number there
        return {}
    try:
        root = fromstring(packet.strip(_PADDING))
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        if b"GPano" in packet:
            raise PhotoError(f"{name}: its XMP is damaged, so the kind of panorama is unknown") from None
        return {}
    found: dict[str, str] = {}
    for description in root.iter(f"{_RDF}Description"):
        found.update(description.attrib)
        for child in description:
            found[child.tag] = (child.text or "").strip() or child.get(f"{_RDF}resource", "")
    return found


def _panorama(properties: Properties, size: tuple[int, int], name: str) -> Panorama | None:
    """What is said of a panorama whose picture has a size; None for other photos."""
    projection = properties.get(f"{_PANO}ProjectionType", "").lower()
    if not projection:
        return None
    if projection != "equirectangular":
        raise PhotoError(f"{name}: a panorama in {projection[:40]} projection; only equirectangular ones can be cut")
    heading, pitch, roll = (
        _number(properties.get(f"{_PANO}Pose{each}Degrees"), -math.inf) for each in ("Heading", "Pitch", "Roll")
    )
    area = _xmp_area(properties, size, name)
    return Panorama(None if heading is None else heading % 360, pitch or 0.0, roll or 0.0, area)


def _xmp_position(properties: Properties) -> tuple[float, float, str | None]:
    """As `_position`, of XMP, which spells angles `48,51.5074N` or `48,51,30N`."""
    spelled = [properties.get(f"{_EXIF}GPS{name}", "").strip() for name in ("Latitude", "Longitude")]
    lat, lon = _coordinate(spelled[0], "NS"), _coordinate(spelled[1], "EW")
    if all(spelled) and (lat is None or lon is None):
        shown = " ".join(spelled)[:80]
        return math.nan, math.nan, f"its position {shown!r} is damaged (not as 48,51.5N or 48,51,30N, or minutes of 60)"
    return _checked(lat, lon, all(spelled), properties.get(f"{_EXIF}GPSStatus", ""))


def _xmp_area(properties: Properties, size: tuple[int, int], name: str) -> Area:
    """The part that is shown. Shares, because a picture made smaller keeps the numbers of the original."""
    names = (
        "FullPanoWidthPixels", "FullPanoHeightPixels", "CroppedAreaLeftPixels", "CroppedAreaTopPixels",
        "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels",
    )  # fmt: skip
    values = [_number(properties.get(f"{_PANO}{each}"), -math.inf) for each in names]
    if None in values:
        if is_whole(*size):
            return WHOLE
        raise PhotoError(
            f"{name}: a panorama that is not 2:1, and its GPano does not state what part of the sphere it shows"
        )
    full_width, full_height, left, top, width, height = (value or 0.0 for value in values)
    # A pixel too many is rounding.
    fits = left >= 0 and top >= 0 and left + width <= full_width + 1 and top + height <= full_height + 1
    # The whole must be 2:1 and the part must have the shape of the picture; else pixels are not where the tags say.
    if not (fits and width >= 1 and height >= 1 and is_whole(round(full_width), round(full_height))):
        raise PhotoError(f"{name}: its GPano states a crop that does not lie in a panorama of 2:1")
    if abs(width / height / (size[0] / size[1]) - 1) > 0.02:
        raise PhotoError(f"{name}: its GPano states a crop of another shape than the picture has")
    return Area(left / full_width, top / full_height, width / full_width, height / full_height)


def _coordinate(text: str, letters: str) -> float | None:
    match = _COORDINATE.fullmatch(text.strip())
    if match is None or match[4] not in letters:
        return None
    value = _degrees(*(float(part or 0) for part in match.groups()[:3]))
    return value if value is None or match[4] not in "SW" else -value


def _degrees(degrees: float, minutes: float, seconds: float) -> float | None:
    """Degrees of an angle; None where a part is negative, NaN or too large, so that the angle is not what was meant."""
    usable = math.isfinite(degrees) and degrees >= 0 and 0 <= minutes < 60 and 0 <= seconds <= 60
    return degrees + minutes / 60 + seconds / 3600 if usable else None


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

    Raises:
        PhotoError: there is no position, or one that is not on the globe, and one is needed; or its tags are damaged.
    """
    try:
        tags, detail, gps = read_exif(image)
    except (ValueError, OSError, struct.error):
        raise PhotoError(f"{name}: its EXIF is damaged") from None
    properties = _xmp(image, name)
    lat, lon, fault = _position(gps, properties)
    if fault and need_position:
        raise PhotoError(f"{name}: {fault}")
    upright = upright_size(image)
    words = [tag_text(tags[tag]) for tag in (ExifTags.Base.Make, ExifTags.Base.Model) if tags.get(tag)]
    heading, magnetic = _heading(gps)
    moment = capture_moment(tags, detail, gps, clock or Clock())
    return Facts(
        lat_deg=lat,
        lon_deg=lon,
        heading_deg=None if magnetic else heading,
        fov_deg=_field_of_view(detail, upright),
        captured_at=moment.time if moment else None,
        device=" ".join(words) or None,
        attribution=tag_text(tags.get(ExifTags.Base.Artist)) or None,
        accuracy_m=_number(gps.get(ExifTags.GPS.GPSHPositioningError)),
        magnetic_heading_deg=heading if magnetic else None,
        in_utc=moment is not None and moment.utc,
        licence=properties.get(_LICENCE) or None,
        panorama=_panorama(properties, upright, name),
        position_fault=fault,
    )


def _position(gps: dict[int, Any], properties: Properties) -> tuple[float, float, str | None]:
    """Latitude, longitude and no fault, or NaN and the fault: that of EXIF, or where this has no position, of XMP."""
    lat = _angle(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), ("N", "S"))
    lon = _angle(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), ("E", "W"))
    stated = ExifTags.GPS.GPSLatitude in gps and ExifTags.GPS.GPSLongitude in gps
    found, other = _checked(lat, lon, stated, tag_text(gps.get(ExifTags.GPS.GPSStatus))), _xmp_position(properties)
    if found[2] is None or found[2] == _VOID or other[2] == _NO_POSITION:
        return found
    if other[2] is None:
        return other
    return math.nan, math.nan, found[2] if stated else f"{_NO_POSITION}; in XMP, {other[2]}"


def _checked(lat: float | None, lon: float | None, stated: bool, status: str) -> tuple[float, float, str | None]:
    """A position that can be used, or NaN and why not."""
    fault = None
    if not stated:
        fault = _NO_POSITION
    elif lat is None or lon is None:
        fault = "its GPS position is damaged (not numbers, 0/0, minutes of 60 or more, or no hemisphere)"
    elif abs(lat) > 90 or abs(lon) > 180:
        fault = f"its GPS position {lat:.6f}, {lon:.6f} is not on the globe"
    elif lat == 0 and lon == 0:
        fault = NULL_ISLAND
    elif status.strip().upper() == "V":
        fault = _VOID
    return (math.nan, math.nan, fault) if fault or lat is None or lon is None else (lat, lon, None)


def _angle(parts: Any, reference: Any, letters: tuple[str, str]) -> float | None:
    """Degrees of a triple of rationals; None if any is not a number or the hemisphere is missing."""
    try:
        value = _degrees(*map(float, parts)) if isinstance(parts, tuple) else None  # not bytes, which are numbers too
    except (TypeError, ValueError):
        return None
    letter = tag_text(reference).upper()[:1]
    if value is None or letter not in letters:
        return None
    return -value if letter == letters[1] else value


def _heading(gps: dict[int, Any]) -> tuple[float | None, bool]:
    """Direction of view, and whether it is from magnetic north rather than true north."""
    value = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    reference = tag_text(gps.get(ExifTags.GPS.GPSImgDirectionRef) or "T")
    return (None, False) if value is None or value > 360 else (value % 360, reference.upper()[:1] == "M")


def _field_of_view(detail: dict[int, Any], size: tuple[int, int]) -> float | None:
    """Horizontal field of view of the upright picture, from the focal length on 35 mm film."""
    focal_mm = _number(detail.get(ExifTags.Base.FocalLengthIn35mmFilm))
    film_mm = _FILM_WIDTH_MM if size[0] >= size[1] else _FILM_HEIGHT_MM
    return math.degrees(2 * math.atan(film_mm / 2 / focal_mm)) if focal_mm else None


def _number(value: Any, lowest: float = 0.0) -> float | None:
    try:
        number = parse_number(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= lowest else None
