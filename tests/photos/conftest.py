from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

GPS = ExifTags.GPS


def position(lat_deg: float, lon_deg: float) -> dict[int, Any]:
    """GPS tags as phones write them: degrees, minutes, seconds as rationals, the sign as a letter."""

    def sexagesimal(degrees: float) -> tuple[IFDRational, ...]:
        minutes, seconds = divmod(round(degrees * 3_600_000), 60_000)
        return *(IFDRational(part) for part in divmod(minutes, 60)), IFDRational(seconds, 1000)

    return {
        GPS.GPSLatitudeRef: "N" if lat_deg >= 0 else "S",
        GPS.GPSLatitude: sexagesimal(abs(lat_deg)),
        GPS.GPSLongitudeRef: "E" if lon_deg >= 0 else "W",
        GPS.GPSLongitude: sexagesimal(abs(lon_deg)),
    }


@pytest.fixture
def write_photo() -> Callable[..., Path]:
    """Write noise as a photo of the path's kind, with EXIF.

    `gps` changes or removes (None) single GPS tags, `tags` and `detail` add to the two other directories.
    """

    def write(
        path: Path,
        lat_deg: float | None = 48.1,
        lon_deg: float = 2.3,
        *,
        size: tuple[int, int] = (48, 32),
        mode: str = "RGB",
        gps: dict[int, Any] | None = None,
        tags: dict[int, Any] | None = None,
        detail: dict[int, Any] | None = None,
        **options: Any,
    ) -> Path:
        exif = Image.Exif()
        exif.update(tags or {})
        exif.get_ifd(ExifTags.IFD.Exif).update(detail or {})
        all_gps = {**(position(lat_deg, lon_deg) if lat_deg is not None else {}), **(gps or {})}
        exif.get_ifd(ExifTags.IFD.GPSInfo).update({tag: value for tag, value in all_gps.items() if value is not None})
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        # As bytes: Pillow takes an Exif that has nothing but sub-directories for empty.
        Image.fromarray(noise).convert(mode).save(path, exif=exif.tobytes(), **options)
        return path

    return write


@pytest.fixture
def png_header() -> Callable[[int, int], bytes]:
    """A PNG that claims a size; its picture ends after a few bytes."""

    def make(width: int, height: int) -> bytes:
        chunks = (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(bytes(100))),
            (b"IEND", b""),
        )
        body = b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        return b"\x89PNG\r\n\x1a\n" + body

    return make
