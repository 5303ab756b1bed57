"""What a listing states about one photo of an online service, before the photo itself is fetched."""

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import TypeAdapter

from cellcode.photos.reading.panorama import WHOLE, Area
from cellcode.photos.table.item import Reject

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,100}")
Kind = Literal["perspective", "panorama", "fisheye"]


@dataclass(frozen=True, slots=True)
class Rendition:
    """One size of a photo; the width is None where the listing does not state it (the full size)."""

    width_px: int | None
    url: str


@dataclass(frozen=True, slots=True)
class Record:
    """A photo that a service offers.

    Attributes:
        id: of the service; see `safe_name`.
        captured_at: UTC without a zone, as in the photo table.
        focal: focal length in units of the picture's longer side, the same for every size of the picture.
        kind: a "panorama" is an equirectangular one, of which there may be only the part `area`.
        heading_deg, pitch_deg, roll_deg: of a panorama's middle, as `panorama.cut` takes them.
        renditions: narrowest first, the full size last.
        quality: 0 to 1, as the service rates it.
    """

    id: str
    lat_deg: float
    lon_deg: float
    kind: Kind
    renditions: tuple[Rendition, ...]
    heading_deg: float | None = None
    focal: float | None = None
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    area: Area = WHOLE
    captured_at: datetime | None = None
    sequence: str | None = None
    device: str | None = None
    licence: str | None = None
    attribution: str | None = None
    accuracy_m: float | None = None
    quality: float | None = None

    def wide_enough(self, wanted_px: float) -> list[Rendition]:
        """Return the pictures that are at least `wanted_px` wide or of unknown width, narrowest first; may be none."""
        return [each for each in self.renditions if each.width_px is None or each.width_px >= wanted_px]

    def fov_deg(self, width_px: int, height_px: int) -> float | None:
        """Return the horizontal field of view of the upright picture in degrees."""
        if self.focal is None:
            return None
        return math.degrees(2 * math.atan(width_px / max(width_px, height_px) / 2 / self.focal))


RECORDS = TypeAdapter(Record)  # to JSON, without the fields that have their defaults, and back
Found = Record | Reject


def reject(service: str, identifier: object, reason: str, transient: bool = False) -> Reject:
    """Return the reject of a photo of a service, by the name that it has there."""
    return Reject(f"{service}/{str(identifier)[:100]}", None, reason, transient)


def safe_name(identifier: object) -> str | None:
    """Return an identifier as text if it can be a file's name: it comes from a server, and may be anything."""
    text = str(identifier)
    return text if isinstance(identifier, str | int) and _SAFE.fullmatch(text) else None


def number(value: object) -> float | None:
    """Return a finite number; None for anything else that a server may put in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with suppress(OverflowError):  # of a whole number of hundreds of digits
        return float(value) if math.isfinite(value) else None
    return None


def point(geometry: object) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees of a GeoJSON point; None if it is none, or is not on the globe."""
    pair = geometry.get("coordinates") if isinstance(geometry, dict) else None
    if not isinstance(pair, list) or len(pair) < 2:
        return None
    lon, lat = number(pair[0]), number(pair[1])
    if lat is None or lon is None or abs(lat) > 90 or abs(lon) > 180 or lat == lon == 0:
        return None
    return lat, lon


def text(value: object) -> str | None:
    """Return a text that is not empty, else None."""
    return value.strip() or None if isinstance(value, str) else None
