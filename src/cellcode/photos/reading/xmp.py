"""XMP: the panorama tags (GPano), position and licence that a photo may state there.

The packet is parsed here and not by Pillow's getxmp(), which returns nothing, without a word, where defusedxml is missing:
every panorama would then be taken for an ordinary photo.
"""

import math
import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from PIL import Image

from cellcode.photos.reading.image import PhotoError
from cellcode.photos.reading.panorama import WHOLE, Area, Panorama, is_whole

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_PANO = "{http://ns.google.com/photos/1.0/panorama/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_LICENCE = "{http://creativecommons.org/ns#}license"
_COORDINATE = re.compile(r"(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?(?:,(\d+(?:\.\d+)?))?([NSEW])")
_PADDING = b"\0 \t\r\n"
Properties = Mapping[str, str]


def read_properties(image: Image.Image, name: str) -> Properties:
    """Return the simple properties of a photo's XMP packet, by `{namespace}name`; empty without a packet.

    Raises:
        PhotoError: the packet is damaged, and might have said that the photo is a panorama.
    """
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


def panorama(properties: Properties, size: tuple[int, int], name: str) -> Panorama | None:
    """Return what is said of a panorama; None for other photos.

    Args:
        size: width and height of the picture.

    Raises:
        PhotoError: a panorama that cannot be cut: of another projection, or without the area that it shows.
    """
    projection = properties.get(f"{_PANO}ProjectionType", "").lower()
    if not projection:
        return None
    if projection != "equirectangular":
        raise PhotoError(f"{name}: a panorama in {projection[:40]} projection; only equirectangular ones can be cut")
    pitch, roll = _number(properties, "PosePitchDegrees"), _number(properties, "PoseRollDegrees")
    heading = _number(properties, "PoseHeadingDegrees")
    return Panorama(
        None if heading is None else heading % 360, pitch or 0.0, roll or 0.0, _area(properties, size, name)
    )


def position(properties: Properties) -> tuple[float, float] | None:
    """Return latitude and longitude as XMP spells them, `48,51.5074N` or `48,51,30N`; None if it has none that is whole."""
    lat = _coordinate(properties.get(f"{_EXIF}GPSLatitude", ""), "NS")
    lon = _coordinate(properties.get(f"{_EXIF}GPSLongitude", ""), "EW")
    return None if lat is None or lon is None else (lat, lon)


def licence(properties: Properties) -> str | None:
    """Return the Creative Commons licence that is stated, usually an address."""
    return properties.get(_LICENCE) or None


def _area(properties: Properties, size: tuple[int, int], name: str) -> Area:
    """The part that is shown. Shares, because a picture made smaller keeps the numbers of the original."""
    names = (
        "FullPanoWidthPixels", "FullPanoHeightPixels", "CroppedAreaLeftPixels", "CroppedAreaTopPixels",
        "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels",
    )  # fmt: skip
    values = [_number(properties, each) for each in names]
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


def _number(properties: Properties, name: str) -> float | None:
    try:
        value = float(properties.get(f"{_PANO}{name}", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _coordinate(text: Any, letters: str) -> float | None:
    match = _COORDINATE.fullmatch(text.strip())
    if match is None or match[4] not in letters:
        return None
    degrees, minutes, seconds = (float(part or 0) for part in match.groups()[:3])
    value = degrees + minutes / 60 + seconds / 3600
    return -value if match[4] in "SW" else value
