"""What packing costs and what reading back gives: photos a second against the same JPEGs one by one, and memory.

    python benchmarks/packing.py [--quick] [--json FILE]

Shards and files are read in turn, each first in every other round, all from the page cache; a ratio is the median of those
of the rounds, by the clock and by CPU time. Memory is the resident memory that is no file of a process of its own, at its
peak while it packs or streams a whole epoch: few photos, many of as many places, and many of twenty times as many places,
so that what grows with photos is told from what grows with cells. Photos beyond the first thousand repeat them.
"""

import json
import multiprocessing
import shutil
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
from cellcode.geography import s2
from cellcode.photos import PhotoSpec, PhotoTable, read_pixels
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.training.data.photos import PackedTraining
from cellcode.types import Float64

Size = tuple[int, int]
USUAL, SMALL = (192, 144), (64, 48)  # small ones for memory, where only their number counts
DISTINCT = 1000
ROUNDS = 9


def measure(folder: Path, quick: bool) -> list[Row]:
    """Write JPEGs, pack them, and time reading; then pack and stream few and many photos in processes of their own."""
    few, many = (1_000, 20_000) if quick else (10_000, 200_000)
    write_photos(folder / "photos", few, USUAL)
    table = table_of(folder / "photos", few, few, few // 3, USUAL)
    return [*rates(table, folder), *memory(folder, few, many)]


def write_photos(folder: Path, count: int, size_px: Size) -> None:
    """Write JPEGs of some noise; those after the first DISTINCT are copies of these."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    width_px, height_px = size_px
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < DISTINCT:
            coarse = rng.integers(0, 255, (height_px // 8, width_px // 8, 3), np.uint8)
            image = np.asarray(Image.fromarray(coarse).resize((width_px, height_px)), np.int16)
            noisy = np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(path, quality=90)
        else:  # not links: they would be read from the processor's cache, where the photos of a shard never are
            shutil.copyfile(folder / f"{number % DISTINCT:06d}.jpg", path)


def table_of(folder: Path, files: int, count: int, places: int, size_px: Size) -> PhotoTable:
    """Give a table of `count` photos at so many places, which repeats the files of the folder."""
    place = np.random.default_rng(0).integers(0, places, count)
    values: dict[str, Any] = {
        "file": [f"{number % files:06d}.jpg" for number in range(count)],
        "lat_deg": 48.0 + 0.003 * (place // 200),
        "lon_deg": 2.0 + 0.003 * (place % 200),
        "split": ["train"] * count,
        "source": ["made"] * count,
        "width_px": np.full(count, size_px[0]),
        "height_px": np.full(count, size_px[1]),
    }
    columns = [
        pa.array(values[field.name], field.type) if field.name in values else pa.nulls(count, field.type)
        for field in SCHEMA
    ]
    return PhotoTable(pa.Table.from_arrays(columns, schema=SCHEMA), folder)


def rates(table: PhotoTable, folder: Path) -> list[Row]:
    """Photos a second: bytes and decoded pixels, from shards and from files one by one; and of packing."""
    begin = time.process_time()
    packed = pack.run(table, Packing(shard_photos=2048), out=folder / "shards")
    packing_s = time.process_time() - begin
    config = settings()
    files = table.files
    first = int(packed.shards("train").photos[0])  # decoding takes long enough with those of one shard
    read = alternate(lambda: read_files(files), lambda: read_shards(packed))
    decoded = alternate(lambda: decode_files(files[:first], config), lambda: decode_shard(packed, config))
    rows: list[Row] = []
    for what, count, seconds in (("bytes", len(table), read), ("decoded", first, decoded)):
        by_files, by_shards = np.moveaxis(seconds, 1, 0)  # each (rounds, 2): by the clock, and of CPU time
        for number, clock in enumerate(("", " CPU")):
            per_s, ratios = count / np.median(by_files[:, number]), by_files[:, number] / by_shards[:, number]
            low, high = np.quantile(ratios, [0.25, 0.75])
            rows += [
                {"case": f"JPEGs one by one, {what}", "value": float(per_s), "unit": f"photos/s{clock}"},
                {
                    "case": f"shards over JPEGs one by one, {what}{clock}",
                    "value": float(np.median(ratios)),
                    "unit": "x",
                    "against": f">= 0.9; half of the rounds {low:.2f} to {high:.2f}",
                },
            ]
    rows.append({"case": "packing", "value": len(table) / packing_s, "unit": "photos/s CPU"})
    return rows


def alternate(one: Callable[[], None], other: Callable[[], None]) -> Float64:
    """Time two cases in turn, each first in every other round: seconds by the clock and of CPU time, (ROUNDS, 2, 2)."""
    seconds = np.empty((ROUNDS + 1, 2, 2))
    for number in range(ROUNDS + 1):
        for case in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter(), time.process_time()
            (one, other)[case]()
            seconds[number, case] = time.perf_counter() - begin[0], time.process_time() - begin[1]
    return seconds[1:]  # the first round fills caches


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
        read_pixels(file, PhotoSpec.of(config.photo))


def decode_shard(packed: PackedPhotos, config: Config) -> None:
    shard = packed.load("train", packed.shards("train").names[0])
    for row in range(len(shard.index["offset"])):
        read_pixels(shard.image(row), PhotoSpec.of(config.photo))


def memory(folder: Path, few: int, many: int) -> list[Row]:
    """Peak memory of packing and of streaming an epoch, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    write_photos(folder / "small", min(DISTINCT, few), SMALL)
    cases = {"few": (few, few // 3), "many": (many, few // 3), "spread": (many, many // 3)}
    rows: list[Row] = []
    cells = dict.fromkeys(cases, 0)
    for name, (count, places) in cases.items():
        table = table_of(folder / "small", min(DISTINCT, few), count, places, SMALL).save(folder / f"table-{name}")
        cells[name] = len(np.unique(s2.cell_ids(table.lat_deg, table.lon_deg, Packing().level)))
    for what in ("packing", "streaming"):
        peaks: dict[str, float] = {}
        for name, (count, _) in cases.items():
            answer = folder / f"{what}-{name}.json"
            process = context.Process(target=at_peak, args=(what, folder, name, answer))
            process.start()
            process.join()
            peaks[name] = json.loads(answer.read_text())
            case = f"{what} {count:,} photos in {cells[name]:,} cells, peak memory"
            rows.append({"case": case, "value": peaks[name] / 1e6, "unit": "MB"})
        by_photo = (peaks["many"] - peaks["few"]) / (many - few)
        by_cell = (peaks["spread"] - peaks["many"]) / (cells["spread"] - cells["many"])
        rows.append({"case": f"{what}, memory for each further photo", "value": by_photo, "unit": "bytes"})
        rows.append({"case": f"{what}, memory for each further cell", "value": by_cell, "unit": "bytes"})
    return rows


def at_peak(what: str, folder: Path, name: str, answer: Path) -> None:
    """Pack, or stream an epoch, and write the peak of this process's memory in bytes."""
    peak, ended = [0], threading.Event()
    watch = threading.Thread(target=watch_memory, args=(peak, ended))
    watch.start()
    if what == "packing":
        pack.run(folder / f"table-{name}", Packing(shard_photos=512), out=folder / f"shards-{name}")
    else:
        config = settings()
        stream = PackedTraining.of(PackedPhotos.open(folder / f"shards-{name}"), config).stream(config)
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
