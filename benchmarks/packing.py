"""What packing costs and what reading back gives: photos a second against the same JPEGs one by one, and memory.

    python benchmarks/packing.py [--quick] [--json FILE]

Rates are medians of interleaved rounds in this run, all from the page cache, per second of CPU time. Memory is the resident
memory that is no file of a process of its own, at its peak while it streams a whole epoch; photos beyond the first thousand
repeat them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import report
from PIL import Image
from report import Row

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.photos import PhotoTable, pack, read_pixels
from cellcode.photos.pack import Packing
from cellcode.photos.shards import PackedPhotos
from cellcode.photos.table import SCHEMA
from cellcode.training.packed import PackedTraining

Size = tuple[int, int]
USUAL, SMALL = (192, 144), (64, 48)  # small ones for memory, where only their number counts
DISTINCT = 1000
ROUNDS = 5


def measure(folder: Path, quick: bool) -> list[Row]:
    """Write JPEGs, pack them, and time reading; then pack and stream few and many photos in processes of their own."""
    few, many = (1_000, 20_000) if quick else (10_000, 200_000)
    table = write_photos(folder / "photos", few, USUAL)
    return [*rates(table, folder), *memory(folder, few, many)]


def write_photos(folder: Path, count: int, size_px: Size) -> PhotoTable:
    """Give a table of JPEGs of some noise; those after the first DISTINCT are copies of these."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    width_px, height_px = size_px
    # Links would be read from the processor's cache, where the photos of a shard never are.
    again: Callable[[Path, Path], object] = os.link if size_px == SMALL else shutil.copyfile
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if path.exists():
            continue
        if number < DISTINCT:
            coarse = rng.integers(0, 255, (height_px // 8, width_px // 8, 3), np.uint8)
            image = np.asarray(Image.fromarray(coarse).resize((width_px, height_px)), np.int16)
            noisy = np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(path, quality=90)
        else:
            again(folder / f"{number % DISTINCT:06d}.jpg", path)
    place = rng.integers(0, count // 3, count)
    values: dict[str, Any] = {
        "file": [f"{number:06d}.jpg" for number in range(count)],
        "lat_deg": 48.0 + 0.003 * (place // 200),
        "lon_deg": 2.0 + 0.003 * (place % 200),
        "split": ["train"] * count,
        "source": ["made"] * count,
        "width_px": np.full(count, width_px),
        "height_px": np.full(count, height_px),
    }
    columns = [
        pa.array(values[field.name], field.type) if field.name in values else pa.nulls(count, field.type)
        for field in SCHEMA
    ]
    return PhotoTable(pa.Table.from_arrays(columns, schema=SCHEMA), folder)


def rates(table: PhotoTable, folder: Path) -> list[Row]:
    """Photos a second: bytes and decoded pixels, from shards and from files one by one; and of packing."""
    packing = Packing(shard_photos=2048)
    begin = time.process_time()
    packed = pack.run(table, packing, out=folder / "shards")
    packing_s = time.process_time() - begin
    config = settings()
    files = table.files
    first = int(packed.shards("train").photos[0])  # decoding takes long enough with those of one shard
    cases: dict[str, Callable[[], None]] = {
        "files": lambda: read_files(files),
        "shards": lambda: read_shards(packed),
        "decoded files": lambda: decode_files(files[:first], config),
        "decoded shards": lambda: decode_shard(packed, config),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            seconds[name].append(timed(case))
    median = {name: statistics.median(each) for name, each in seconds.items()}
    count = len(table)
    return [
        {"case": "JPEGs one by one, bytes", "value": count / median["files"], "unit": "photos/s CPU"},
        {"case": "shards read back, bytes", "value": count / median["shards"], "unit": "photos/s CPU"},
        {
            "case": "shards over JPEGs one by one, bytes",
            "value": median["files"] / median["shards"],
            "unit": "x",
            "against": ">= 0.9",
        },
        {"case": "JPEGs one by one, decoded", "value": first / median["decoded files"], "unit": "photos/s CPU"},
        {
            "case": "shards over JPEGs one by one, decoded",
            "value": median["decoded files"] / median["decoded shards"],
            "unit": "x",
            "against": ">= 0.9",
        },
        {
            "case": "packing over reading one by one, bytes",
            "value": median["files"] / packing_s,
            "unit": "x",
        },
        {"case": "packing", "value": count / packing_s, "unit": "photos/s CPU"},
    ]


def timed(case: Callable[[], None]) -> float:
    begin = time.process_time()
    case()
    return time.process_time() - begin


def read_files(files: list[Path]) -> None:
    for file in files:
        file.read_bytes()


def read_shards(packed: PackedPhotos) -> None:
    for name in packed.shards("train").names:
        shard = packed.load("train", name)
        for row in range(len(shard.index["offset"])):
            shard.image(row)


def decode_files(files: list[Path], config: Config) -> None:
    for file in files:
        read_pixels(file, config.photo.width_px, config.photo.height_px)


def decode_shard(packed: PackedPhotos, config: Config) -> None:
    shard = packed.load("train", packed.shards("train").names[0])
    for row in range(len(shard.index["offset"])):
        read_pixels(shard.image(row), config.photo.width_px, config.photo.height_px)


def memory(folder: Path, few: int, many: int) -> list[Row]:
    """Peak memory of packing and of streaming an epoch, few and many photos, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    peaks: dict[tuple[str, int], float] = {}
    for count in (few, many):
        write_photos(folder / "small", count, SMALL).save(folder / f"table-{count}")
        for what in ("packing", "streaming"):
            answer = folder / f"{what}-{count}.json"
            process = context.Process(target=at_peak, args=(what, folder, count, answer))
            process.start()
            process.join()
            peaks[what, count] = json.loads(answer.read_text())
    return [
        row
        for what in ("packing", "streaming")
        for row in (
            {"case": f"{what} {few:,} photos, peak memory", "value": peaks[what, few] / 1e6, "unit": "MB"},
            {
                "case": f"{what} {many:,} photos, peak memory",
                "value": peaks[what, many] / 1e6,
                "unit": "MB",
                "against": f"{few:,} photos: {peaks[what, few] / 1e6:.0f} MB",
            },
        )
    ]


def at_peak(what: str, folder: Path, count: int, answer: Path) -> None:
    """Pack, or stream an epoch, and write the peak of this process's memory in bytes."""
    peak, ended = [0], threading.Event()
    watch = threading.Thread(target=watch_memory, args=(peak, ended))
    watch.start()
    if what == "packing":
        pack.run(folder / f"table-{count}", Packing(shard_photos=512), out=folder / f"shards-{count}")
    else:
        config = settings()
        stream = PackedTraining.of(PackedPhotos.open(folder / f"shards-{count}"), config).stream(config)
        for step in range(stream.steps_per_epoch):
            stream.read(step)
        stream.close()
    ended.set()
    watch.join()
    answer.write_text(json.dumps(peak[0]))


def watch_memory(peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.02):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak[0] = max(peak[0], *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))


def settings() -> Config:
    return configuration.parse({"training": {"batch_size": 256}, "stream": {"window_shards": 4}})


if __name__ == "__main__":
    if not Path("/proc/self/status").exists():
        sys.exit("memory is read from /proc, which this system does not have")
    report.run(__doc__, "a tenth of the photos", measure)
