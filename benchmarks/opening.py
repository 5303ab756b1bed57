"""What the checks of artefacts cost: opening a photo table and a database with and without them, and verifying a database.

    python benchmarks/opening.py [--quick] [--json FILE]

Rows "without checks" are of the same process, in turns, with the checks left out; for a database "before" has the checks of
the releases before this one, sizes and samples of every file. Files are in the page cache. `--verify` reads all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import code_sets
import numpy as np
import pyarrow as pa
import report
from report import Row

from cellcode.database import Database
from cellcode.files import sampled_digest
from cellcode.integrity import Files, Kind
from cellcode.photos import PhotoTable
from cellcode.photos.table.photo_table import SCHEMA

QUICK, FULL = (10_000,), (10_000, 1_000_000)
REPEATS = 9


def measure(folder: Path, quick: bool) -> list[Row]:
    """Make a table and a database of every size, and time how they are opened."""
    rows: list[Row] = []
    for size in QUICK if quick else FULL:
        table = write_table(folder / f"table-{size}", size)
        rows += compare(f"open a table of {size:,} photos", partial(PhotoTable.load, table), _unchecked)
        cells = code_sets.make(size, folder / f"cells-{size}", min_cells=10**9).folder
        rows += compare(f"open a database of {size:,} cells", partial(Database.open, cells), _sampled)
        megabytes = sum(path.stat().st_size for path in cells.rglob("*") if path.is_file()) / 1e6
        spent = statistics.median(milliseconds(Database.open(cells).verify) for _ in range(3))
        rows.append({"case": f"verify a database of {size:,} cells, {megabytes:.0f} MB", "value": spent, "unit": "ms"})
    return rows


def write_table(folder: Path, photos: int) -> Path:
    """Write a photo table of so many rows; there are no photos."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "file": [f"photos/{number // 1000:04}/{number:010}.jpg" for number in range(photos)],
        "lat_deg": rng.uniform(48, 49, photos),
        "lon_deg": rng.uniform(2, 3, photos),
        "heading_deg": rng.uniform(0, 360, photos).astype(np.float32),
        "captured_at": np.datetime64("2020-01-01", "ms") + rng.integers(0, 10**11, photos).astype("timedelta64[ms]"),
        "sequence": [f"sequence-{number // 300}" for number in range(photos)],
        "split": ["train"] * photos,
        "source": ["list"] * photos,
        "width_px": np.full(photos, 2048, np.int32),
        "height_px": np.full(photos, 1536, np.int32),
    }
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(photos, field.type)
        for field in SCHEMA
    ]
    PhotoTable(pa.Table.from_arrays(arrays, schema=SCHEMA), folder).save(folder)
    return folder


def compare(case: str, opened: Callable[[], object], before: Callable[[], Any]) -> list[Row]:
    """Milliseconds with the checks of today and of before, by alternating runs, and their ratio."""
    now_ms, before_ms = list[float](), list[float]()
    for _ in range(REPEATS + 1):  # the first one warms up
        now_ms.append(milliseconds(opened))
        with before():
            before_ms.append(milliseconds(opened))
    now, then = statistics.median(now_ms[1:]), statistics.median(before_ms[1:])
    return [
        {"case": case, "value": now, "unit": "ms"},
        {"case": f"{case}: before", "value": then, "unit": "ms"},
        {"case": f"{case}: ratio", "value": now / then, "unit": "x", "against": "before"},
    ]


def milliseconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


@contextmanager
def _unchecked() -> Iterator[None]:
    """Read manifests and files as they are, as tables were read before."""
    with _patched(lambda *_: None):
        yield


@contextmanager
def _sampled() -> Iterator[None]:
    """Compare sizes and samples, and no digest of the manifest, as databases were read before."""

    def check(kind: Kind, folder: Path, files: Files) -> None:
        for name, facts in files.items():
            assert sampled_digest(kind._sized(folder, name, facts)) == facts["sample"]

    with _patched(check):
        yield


@contextmanager
def _patched(check: Callable[..., None]) -> Iterator[None]:
    def as_it_is(_: Kind, manifest: Any, path: Path) -> Any:
        return manifest

    with ExitStack() as stack:
        for name, value in (("check", check), ("verify", check), ("checked", as_it_is)):
            stack.enter_context(mock.patch.object(Kind, name, value))
        yield


if __name__ == "__main__":
    report.run(__doc__, "10,000 photos and cells only", measure)
