"""A rendered view as the file a phone would write: JPEG with position, direction, time and lens in its EXIF."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from cellcode.types import UInt8

MAKER = "cellcode"
SECONDS_DENOMINATOR = 100_000  # 1e-5 arc seconds are 3e-9 degrees


def write_photo(
    path: Path,
    pixels: UInt8,
    *,
    lat_deg: float,
    lon_deg: float,
    heading_deg: float,
    fov_deg: float,
    captured_at: datetime,
    device: str,
    quality: int,
) -> None:
    """Write (H, W, 3) uint8 as JPEG with EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = MAKER
    exif[ExifTags.Base.Model] = device
    exif[ExifTags.Base.Artist] = "cellcode simulation"
    detail = exif.get_ifd(ExifTags.IFD.Exif)
    detail[ExifTags.Base.DateTimeOriginal] = captured_at.strftime("%Y:%m:%d %H:%M:%S")
    detail[ExifTags.Base.FocalLengthIn35mmFilm] = round(18 / math.tan(math.radians(fov_deg / 2)))
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "N" if lat_deg >= 0 else "S"
    gps[ExifTags.GPS.GPSLatitude] = _sexagesimal(abs(lat_deg))
    gps[ExifTags.GPS.GPSLongitudeRef] = "E" if lon_deg >= 0 else "W"
    gps[ExifTags.GPS.GPSLongitude] = _sexagesimal(abs(lon_deg))
    gps[ExifTags.GPS.GPSImgDirectionRef] = "T"
    gps[ExifTags.GPS.GPSImgDirection] = IFDRational(round(heading_deg * 100) % 36000, 100)
    Image.fromarray(pixels).save(path, "JPEG", quality=quality, exif=exif)


def _sexagesimal(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    ticks = round(degrees * 3600 * SECONDS_DENOMINATOR)
    minutes, seconds = divmod(ticks, 60 * SECONDS_DENOMINATOR)
    whole, minutes = divmod(minutes, 60)
    return IFDRational(whole), IFDRational(minutes), IFDRational(seconds, SECONDS_DENOMINATOR)
