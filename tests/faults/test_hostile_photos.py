"""Files made to cost much or to be taken for photos, each read in a process of its own within limits of time and memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults import hostile
from tests.faults.conftest import Count

pytestmark = pytest.mark.faults
SECONDS, MEGABYTES = 6.0, 1700  # of the processor; 1.5 GB is the limit of one photo, the rest is Python
READ = """
import json, resource, sys, time
from cellcode.photos import PhotoError, PhotoSpec, read_image, read_pixels
from cellcode.photos.reading.facts import read_facts
from cellcode.photos.reading.image import open_photo, photo_size
for read in (lambda p: read_pixels(p, PhotoSpec(224, 224)), read_image, lambda p: photo_size(p, "decode"),
             lambda p: read_facts(open_photo(p), "photo", need_position=False)):
    started, said = time.process_time(), None
    try:
        read(sys.argv[1])
    except PhotoError as error:
        said = str(error)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([time.process_time() - started, memory, said]))
"""


def large_png() -> bytes:
    return hostile.flat("PNG", (13_300, 13_300))


def large_gif() -> bytes:
    return hostile.flat("GIF", (13_000, 13_000), mode="L")


def large_webp() -> bytes:
    return hostile.flat("WEBP", (9_000, 9_000), lossless=True)


def large_tiff() -> bytes:
    return hostile.flat("TIFF", (11_000, 11_000), compression="tiff_adobe_deflate")


def large_avif() -> bytes:
    return hostile.flat("AVIF", (8_000, 8_000), speed=10)


def large_jpeg() -> bytes:
    return hostile.flat("JPEG", (13_300, 13_300), progressive=True)


def transparent_png() -> bytes:
    return hostile.flat("PNG", (13_000, 13_000), mode="LA")


def large_profile() -> bytes:
    """A PNG whose profile unpacks to a gigabyte."""
    return hostile.png_chunks(1, b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000_000), 9))


def large_frame() -> bytes:
    """A GIF whose picture is larger than its screen."""
    whole = bytearray(hostile.encoded("GIF", mode="L"))
    place = whole.index(b",", 781)
    whole[place + 5 : place + 9] = struct.pack("<HH", 65_000, 65_000)
    return bytes(whole)


def jpeg_and_program() -> bytes:
    return hostile.jpeg() + b"\n" + hostile.EPS


def program_and_jpeg() -> bytes:
    return hostile.EPS + hostile.jpeg()


def archive_and_png() -> bytes:
    import zipfile

    out = io.BytesIO(hostile.encoded("PNG"))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("a.txt", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    return out.getvalue()


USABLE: dict[str, Callable[[], bytes]] = {
    "a JPEG with a program behind it": jpeg_and_program,
    "a PNG with an archive behind it": archive_and_png,
    "EXIF that names itself, JPEG": lambda: hostile.exif_loop("JPEG"),
    "EXIF that names itself, PNG": lambda: hostile.exif_loop("PNG"),
    "EXIF that names itself, WebP": lambda: hostile.exif_loop("WEBP"),
}
COSTLY: dict[str, Callable[[], bytes]] = {
    "an EPS": lambda: hostile.EPS,
    "a program before a JPEG": program_and_jpeg,
    "scans": hostile.scan_bomb,
    "sequential scans": hostile.sequential_scan_bomb,
    "pages": lambda: hostile.tiff(pages=160_000),
    "pages in a circle": lambda: hostile.tiff(pages=1000, loop=True),
    "overlapping tags": hostile.overlapping_tiff,
    "PNG chunks": lambda: hostile.png_chunks(1_500_000),
    "PNG texts": hostile.png_texts,
    "a PNG profile": large_profile,
    "JPEG segments": hostile.jpeg_segments,
    "JPEG padding": hostile.jpeg_padding,
    "GIF blocks": hostile.gif_blocks,
    "BMP runs": hostile.bmp_runs,
    "a GIF frame": large_frame,
    "a large PNG": large_png,
    "a large transparent PNG": transparent_png,
    "a large GIF": large_gif,
    "a large WebP": large_webp,
    "a large TIFF": large_tiff,
    "a large AVIF": large_avif,
    "a large progressive JPEG": large_jpeg,
}


@pytest.mark.parametrize("name", [*USABLE, *COSTLY])
def test_a_hostile_file_costs_little(name: str, tmp_path: Path, count: Count) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes({**USABLE, **COSTLY}[name]())
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    good = [seconds < SECONDS and memory < MEGABYTES for seconds, memory, _ in results]
    count("hostile photos", len(results), sum(good))
    assert all(good), results
    for _, _, said in results:
        assert said is None or (said.startswith((f"{path}: ", "photo: ")) and "\n" not in said)
    if name in USABLE:
        assert [said for *_, said in results] == [None] * 4
    assert [each.name for each in tmp_path.iterdir()] == ["photo.jpg"]
