"""Small files that are expensive to read, and files that are not what their names say."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def jpeg(size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    return encoded("JPEG", size, **options)


def encoded(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, kind, **options)
    return out.getvalue()


def flat(kind: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    """A picture of one colour: large, in a small file."""
    out = io.BytesIO()
    Image.new(mode, size, (120, 130, 90, 200)[: len(mode)]).save(out, kind, **options)
    return out.getvalue()


def scan_bomb(scans: int = 8000, size: tuple[int, int] = (3000, 2000)) -> bytes:
    """A progressive JPEG whose last scan comes again and again; each goes over the whole picture."""
    whole = flat("JPEG", size, progressive=True)
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + b"\xff\xd9"


def sequential_scan_bomb(scans: int = 8000) -> bytes:
    """A JPEG that is not progressive, with a scan for each component, and one of them thousands of times."""
    whole = jpeg((2000, 2000), subsampling=0)
    start = whole.find(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + whole[start + 14 : start + 40].replace(b"\xff", b"\xfe")
    return whole[:start] + scan * scans + b"\xff\xd9"


def tiff(pages: int = 1, entries: list[tuple[int, int, int, int]] | None = None, loop: bool = False) -> bytes:
    """A grey TIFF of 16 x 16 pixels, further pages of the same pixels, and further entries (tag, type, count, value)."""
    strip = bytes(range(256))
    tags = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, 256), *(entries or [])]
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHLL", *tag) for tag in sorted(tags))
    start, length = 8 + len(strip), len(body) + 4
    directories = [
        body + struct.pack("<L", 0 if page == pages - 1 and not loop else start + (page + 1) % pages * length)
        for page in range(pages)
    ]
    return struct.pack("<2sHL", b"II", 42, start) + strip + b"".join(directories)


def overlapping_tiff(tags: int = 60_000, size: int = 4_000_000) -> bytes:
    """Every entry names the same megabytes."""
    return tiff(entries=[(2000 + number, 7, size, 8) for number in range(tags)]) + bytes(size)


def png_chunks(count: int, kind: bytes = b"abCd", content: bytes = b"") -> bytes:
    whole = encoded("PNG")
    chunk = struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))
    return whole[:33] + chunk * count + whole[33:]


def png_texts(count: int = 80) -> bytes:
    """Compressed text of a megabyte each, in a kilobyte."""
    return png_chunks(count, b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))


def jpeg_segments(count: int = 4_000_000) -> bytes:
    return b"\xff\xd8" + b"\xff\xfe\x00\x02" * count + jpeg()[2:]


def jpeg_padding(size: int = 16_000_000) -> bytes:
    return b"\xff\xd8" + b"\xff" * size + jpeg()[3:]


def exif_loop(kind: str) -> bytes:
    """EXIF whose directory names itself as the next, as its details and as its position."""
    exif = b"Exif\0\0" + struct.pack("<2sHLH", b"II", 42, 8, 3)
    exif += b"".join(struct.pack("<HHLL", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005)) + struct.pack("<L", 8)
    return encoded(kind, exif=exif)


def gif_blocks(count: int = 3_000_000) -> bytes:
    whole = encoded("GIF", mode="L")
    return whole[:781] + b"!\xfe\x01a\x00" * count + whole[781:]


def bmp_runs(side: int = 3000) -> bytes:
    """A run-length coded BMP of runs of one pixel; Pillow decodes it in Python."""
    palette = b"".join(bytes((n, n, n, 0)) for n in range(256))
    body = (b"\x01\x55" * side + b"\0\0") * side
    header = struct.pack("<LllHHLLllLL", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return struct.pack("<2sLHHL", b"BM", 54 + 1024 + len(body), 0, 0, 54 + 1024) + header + palette + body


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"
    b"(/tmp/cellcode-was-here) (w) file closefile showpage\n%%EOF\n"
)
