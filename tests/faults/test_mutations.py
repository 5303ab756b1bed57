"""Photos with flipped, cut, inserted and exchanged bytes: used, or rejected in a sentence, within limits on time and memory."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from tests.faults.runner import Runner
from tests.faults.world import World, draw, position

from cellcode.photos import PhotoTable
from cellcode.photos.reading.image import PhotoError, read_image

pytestmark = pytest.mark.faults
PER_FORMAT = 400  # mutated photos
SECONDS, MEMORY_MB = 2.0, 500  # of one photo; above what the process has before
FORMATS = ("jpg", "png", "webp", "tif", "heic")
Count = Callable[[str, int, int], None]


def seeds(folder: Path, suffix: str) -> list[bytes]:
    """Write a few sound photos of a format, with EXIF and XMP, and return their bytes."""
    if suffix == "heic":
        heif = pytest.importorskip("pillow_heif")
        heif.register_heif_opener()
    found = []
    for number, (width, height) in enumerate([(48, 32), (160, 120), (33, 65)]):
        exif = position(48.1 + number / 100, 2.3)
        exif[ExifTags.Base.Make] = "A maker"
        exif[ExifTags.Base.Orientation] = 6
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
        pixels = np.random.default_rng(number).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        image = Image.fromarray(pixels).resize((width, height))
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
        path = folder / f"seed.{suffix}"
        more = {"xmp": xmp} if suffix in ("jpg", "webp") else {}
        options: dict[str, object] = {"progressive": number == 1} if suffix == "jpg" else {}
        image.save(path, exif=exif.tobytes() if suffix != "tif" else exif, **more, **options)
        found.append(path.read_bytes())
        path.unlink()
    return found


def mutated(sound: list[bytes], chosen: random.Random) -> bytes:
    """Return a photo with some of its bytes changed; half of the changes are in its first kilobyte, where its structure is."""
    photo = bytearray(chosen.choice(sound))

    def place() -> int:
        return chosen.randrange(min(len(photo), 1024) if chosen.random() < 0.5 else len(photo))

    for _ in range(chosen.choice([1, 1, 2, 5, 20])):
        kind = chosen.choice(["flip", "flip", "byte", "extreme", "cut", "insert", "remove", "splice", "repeat"])
        at, size = place(), chosen.choice([1, 2, 4, 16, 200])
        if kind == "flip":
            photo[at] ^= 1 << chosen.randrange(8)
        elif kind == "byte":
            photo[at] = chosen.randrange(256)
        elif kind == "extreme":  # lengths and counts
            photo[at : at + 4] = chosen.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
            )
        elif kind == "cut":
            del photo[max(at, 8) :]
        elif kind == "insert":
            photo[at:at] = chosen.randbytes(size)
        elif kind == "remove":
            del photo[at : at + size]
        elif kind == "splice":
            other = chosen.choice(sound)
            photo[at:] = other[chosen.randrange(len(other)) :]
        else:
            photo[at:at] = photo[at : at + size] * chosen.choice([1, 3, 50])
        if not photo:
            photo = bytearray(b"\0")
    return bytes(photo)


@pytest.mark.parametrize("suffix", FORMATS)
def test_mutated_photos_are_used_or_rejected(
    suffix: str, world: World, runner: Runner, tmp_path_factory: pytest.TempPathFactory, count: Count
) -> None:
    base = tmp_path_factory.getbasetemp().resolve() / f"mutations-{suffix}"
    photos, chosen = base / "photos", draw(suffix)
    photos.mkdir(parents=True)
    sound = seeds(base, suffix)
    files = [photos / f"{number:04d}.{suffix}" for number in range(PER_FORMAT)]
    for path in files:
        path.write_bytes(mutated(sound, chosen))
    (base / "warm").mkdir()
    warm_mb = runner.run(["--version"], base / "warm").memory_mb
    faults = [fault for path in files if (fault := read(path))]
    faults += run_on_all(runner, world, base, files, warm_mb)
    count("mutated photos", len(files), len(files) - len(faults))
    assert not faults, f"{len(faults)}:\n" + "\n".join(faults[:30])


def read(path: Path) -> str:
    """Read one photo; return what went wrong."""
    started = time.process_time()
    try:
        read_image(path)
    except PhotoError as error:
        if "\n" in str(error):
            return f"{path.name}: more than one line: {error}"
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {error}"
    spent = time.process_time() - started
    return f"{path.name}: {spent:.1f} s" if spent > SECONDS else ""


def run_on_all(runner: Runner, world: World, base: Path, files: list[Path], warm_mb: float) -> list[str]:
    """Ingest the photos as a folder and as a list, and locate them; return what went wrong."""
    with (base / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "lat", "lon"])
        writer.writerows([f"photos/{path.name}", 48.1, 2.3] for path in files)
    faults = []
    for name, argv in (
        ("folder", ["ingest", "photos", "--out", "folder"]),
        ("list", ["ingest", "list.csv", "--check", "decode", "--out", "list"]),
        ("answers", ["locate", str(world / "cells"), "photos", "--out", "answers.csv"]),
    ):
        outcome = runner.run(argv, base, limit_s=300)
        if outcome.code not in (0, 1) or outcome.hung or "unexpected" in outcome.err or "Traceback" in outcome.err:
            faults.append(f"{name}: {outcome}")
        elif outcome.memory_mb > warm_mb + MEMORY_MB:
            faults.append(f"{name}: {outcome.memory_mb - warm_mb:.0f} MB more")
        elif name == "answers":
            seen = list(csv.DictReader((base / "answers.csv").open()))
            faults += [f"{len(seen)} answers for {len(files)} photos"] if len(seen) != len(files) else []
            faults += [f"{row['file']}: {row['error']}" for row in seen if "unexpected" in row["error"]]
        elif outcome.code == 0:
            rejects = list(csv.DictReader((base / name / "rejects.csv").open()))
            rows = len(PhotoTable.load(base / name))
            if rows + len(rejects) != len(files):
                faults.append(f"{name}: {rows} rows and {len(rejects)} rejects for {len(files)} photos")
        elif "none of" not in outcome.err:
            faults.append(f"{name}: {outcome}")
    return faults
