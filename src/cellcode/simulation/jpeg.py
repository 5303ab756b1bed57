"""A rendered view as the file a phone would write: JPEG with position, direction, time and lens in its EXIF."""

import io
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from cellcode.types import UInt8

MAKER = "cellcode"
SECONDS_DENOMINATOR = 100_000  # 1e-5 arc seconds are 3e-9 degrees


@dataclass(frozen=True)
class Shot:
    """What the EXIF of a photo says: position, bearing of the optical axis, horizontal field of view, local time, model."""

    lat_deg: float
    lon_deg: float
    heading_deg: float
    fov_deg: float
    captured_at: datetime
    device: str


def write_photo(path: Path, pixels: UInt8, shot: Shot, quality: int) -> None:
    """Write (H, W, 3) uint8 as JPEG with EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = MAKER
    exif[ExifTags.Base.Model] = shot.device
    exif[ExifTags.Base.Artist] = "cellcode simulation"
    detail = exif.get_ifd(ExifTags.IFD.Exif)
    detail[ExifTags.Base.DateTimeOriginal] = shot.captured_at.strftime("%Y:%m:%d %H:%M:%S")
    detail[ExifTags.Base.FocalLengthIn35mmFilm] = round(18 / math.tan(math.radians(shot.fov_deg / 2)))
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "N" if shot.lat_deg >= 0 else "S"
    gps[ExifTags.GPS.GPSLatitude] = _sexagesimal(abs(shot.lat_deg))
    gps[ExifTags.GPS.GPSLongitudeRef] = "E" if shot.lon_deg >= 0 else "W"
    gps[ExifTags.GPS.GPSLongitude] = _sexagesimal(abs(shot.lon_deg))
    gps[ExifTags.GPS.GPSImgDirectionRef] = "T"
    gps[ExifTags.GPS.GPSImgDirection] = IFDRational(round(shot.heading_deg * 100) % 36000, 100)
    Image.fromarray(pixels).save(written := io.BytesIO(), "JPEG", quality=quality, exif=exif)
    path.write_bytes(written.getvalue())


def _sexagesimal(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    ticks = round(degrees * 3600 * SECONDS_DENOMINATOR)
    minutes, seconds = divmod(ticks, 60 * SECONDS_DENOMINATOR)
    whole, minutes = divmod(minutes, 60)
    return IFDRational(whole), IFDRational(minutes), IFDRational(seconds, SECONDS_DENOMINATOR)
