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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def gpano() -> Callable[..., bytes]:
    """An XMP packet with GPano properties, as attributes or as elements; both are usual."""

    def make(*, elements: bool = False, **properties: Any) -> bytes:
        if elements:
            inner = "".join(f"<GPano:{name}>{value}</GPano:{name}>" for name, value in properties.items())
            body = f"<rdf:Description {_GPANO}>{inner}</rdf:Description>"
        else:
            inner = " ".join(f'GPano:{name}="{value}"' for name, value in properties.items())
            body = f"<rdf:Description {_GPANO} {inner}/>"
        return (
            '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{body}</rdf:RDF></x:xmpmeta>'
            '<?xpacket end="w"?>\0'
        ).encode()

    return make


_GPANO = 'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'


@pytest.fixture(scope="session")
def raw_gps() -> Callable[[dict[int, tuple[int, int, bytes]]], bytes]:
    """EXIF with a GPS directory whose entries are written as they are given: tag to type, count and value."""

    def make(entries: dict[int, tuple[int, int, bytes]]) -> bytes:
        start = 8 + 2 + 12 + 4  # header, and a directory with nothing but the pointer to this one
        after = start + 2 + 12 * len(entries) + 4
        directory, values = struct.pack(">H", len(entries)), b""
        for tag, (kind, count, value) in sorted(entries.items()):
            place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", after + len(values))
            values += value if len(value) > 4 else b""
            directory += struct.pack(">HHI", tag, kind, count) + place
        pointer = struct.pack(">HHHII", 1, ExifTags.IFD.GPSInfo, 4, 1, start)
        return b"Exif\0\0MM\0*\0\0\0\x08" + pointer + bytes(4) + directory + bytes(4) + values

    return make
