"""What it costs to ingest photos: a million rows of a Parquet list, and the ways to look at the photos of a list.

    python benchmarks/ingest.py [--quick] [--json FILE]

`cellcode ingest` runs as a user runs it, in a process of its own; times are of the whole command, memory is the largest it had.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import report
from PIL import Image
from report import Row

from cellcode.photos import ingest

BAD_SHARE = 0.001
PHOTO_PX = (1280, 960)
# Of its own memory, not of the process that started it, as getrusage tells.
RUN = """
import pathlib, sys
from cellcode.cli import main
try:
    main(sys.argv[1:])
finally:
    print(pathlib.Path("/proc/self/status").read_text())
"""


def measure(folder: Path, quick: bool) -> list[Row]:
    """Write the lists and ingest them."""
    count, photos = (100_000, 100) if quick else (1_000_000, 1_000)
    write_list(folder / "many.parquet", count)
    region = ["--region", "2,48,2.9,49"]
    rows = case(f"{count:,} rows of Parquet, in a region", folder, "many.parquet", "none", *region)
    rows += case(
        "the same, all of them, buffer of 50 m",
        folder,
        "many.parquet",
        "none",
        "--split",
        "position",
        "--buffer-m",
        "50",
    )
    write_photos(folder, photos)
    return [*rows, rate(folder, "decode", photos), rate(folder, "header", photos)]


def rate(folder: Path, check: Literal["decode", "header"], photos: int) -> Row:
    """Photos per second of one processor, in this process: the start of a command would be most of it."""
    started = time.process_time()
    ingest(folder / "few.parquet", out=folder / "table", check=check)
    value = photos / (time.process_time() - started)
    return {"case": f"--check {check}, JPEG of 1.2 megapixels", "value": value, "unit": "photos/CPU s"}


def case(name: str, folder: Path, file: str, check: str, *options: str) -> list[Row]:
    """Seconds and memory of one command."""
    spent = run(folder, file, check, *options)
    return [
        {"case": name, "value": spent.wall_s, "unit": "s"},
        {"case": f"{name}: of the processors", "value": spent.cpu_s, "unit": "CPU s"},
        {"case": f"{name}: peak memory", "value": spent.peak_mb, "unit": "MB"},
    ]


class Spent(NamedTuple):
    """What one command took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run(folder: Path, file: str, check: str, *options: str) -> Spent:
    """Run `cellcode ingest` and return what it took."""
    words = ["ingest", str(folder / file), "--out", str(folder / "table"), "--check", check, *options]
    started = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", RUN, *words], stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    wall_s, output = time.perf_counter() - started, (folder / "log").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", output)
    if status or peak is None:
        raise SystemExit(output)
    return Spent(wall_s, used.ru_utime + used.ru_stime, int(peak[1]) / 1000)


def write_list(path: Path, count: int) -> None:
    """Write a list of photos that do not exist, around a town of about 70 x 110 km, a few of its lines unusable."""
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(48, 49, count), rng.uniform(2, 3, count)
    lat[rng.random(count) < BAD_SHARE] = np.nan
    names = np.arange(count)
    again = rng.random(count) < BAD_SHARE
    names[again] = names[rng.integers(0, count, again.sum())]
    days = rng.integers(0, 2000, count).astype("timedelta64[D]")
    columns = {
        "file": [f"photos/{name // 1000:04}/{name:010}.jpg" for name in names],
        "lat": lat,
        "lon": lon,
        "heading": rng.uniform(0, 360, count),
        "captured_at": np.datetime64("2020-01-01T12:00:00", "ms") + days,
        "sequence": [f"sequence-{name // 300}" for name in names],
        "licence": ["CC-BY-SA-4.0"] * count,
        "attribution": [f"person {name // 5000}" for name in names],
        "width": np.full(count, 2048, np.int32),
        "height": np.full(count, 1536, np.int32),
    }
    pq.write_table(pa.table(columns), path)


def write_photos(folder: Path, count: int) -> None:
    """Write photos and their list."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 255, (PHOTO_PX[1] // 16, PHOTO_PX[0] // 16, 3), np.uint8))
    coarse.resize(PHOTO_PX, Image.Resampling.BICUBIC).save(folder / "0.jpg", quality=90)
    for number in range(1, count):
        (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")
    columns = {
        "file": [f"{number}.jpg" for number in range(count)],
        "lat": rng.uniform(48, 49, count),
        "lon": rng.uniform(2, 3, count),
        "width": np.full(count, PHOTO_PX[0]),
        "height": np.full(count, PHOTO_PX[1]),
    }
    pq.write_table(pa.table(columns), folder / "few.parquet")


if __name__ == "__main__":
    report.run(__doc__, "a tenth of the rows and photos", measure)
