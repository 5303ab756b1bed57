"""Search of cell codes: time, memory and recall of every method, from 100 k to 20 M cells.

    python benchmarks/search.py [--quick] [--json FILE] [--cells N,N,...] [--folder DIR] [--trained DB PHOTOS]

The codes are generated with the statistics of trained ones (code_sets.py); they are kept in the folder and used again. Every
group of figures is measured in a process of its own, with one thread unless a row says "2 threads". Times are medians of
CPU time (all threads of the process) and, where said, of wall time. Ratios are against faiss's IndexFlatIP in the same
process, by alternating runs. "Floor" is the time that reading the method's bytes takes at the bandwidth of this
machine. Recall is against brute force, on 512 queries that no setting was chosen on. With --trained, recall of a real
database is shown against the bytes of its codes.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Row = dict[str, Any]
QUICK, FULL = (20_000,), (100_000, 300_000, 1_000_000, 4_000_000, 20_000_000)
FLAT_LIMIT = 4_000_000  # faiss keeps float32: 20 M cells would take 20 GB
K = 100
REPEATS = 7


def main() -> None:
    """Make the databases, measure each in processes of its own, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sets and fewer repetitions")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--cells", help="numbers of cells, with commas between")
    parser.add_argument("--folder", type=Path, help="where generated databases are kept; none given: nowhere")
    parser.add_argument("--trained", type=Path, nargs=2, metavar=("DB", "PHOTOS"), help="recall by bytes of a real one")
    parser.add_argument("--part", nargs=3, metavar=("PART", "FOLDER", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part, folder, threads = arguments.part
        print(json.dumps(run_part(part, Path(folder), int(threads))))
        return
    sizes = (
        [int(text) for text in arguments.cells.split(",")] if arguments.cells else QUICK if arguments.quick else FULL
    )
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(list(sizes), arguments.folder or Path(temporary), arguments.quick)
    if arguments.trained:
        rows += run_part_apart("trained", Path(os.pathsep.join(map(str, arguments.trained))), 2)
    print(f"{processor()}; python {platform.python_version()}")
    for row in rows:
        print(line(row))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(sizes: list[int], folder: Path, quick: bool) -> list[Row]:
    """Measure the geography, and every size; then draw the line through the sizes."""
    import code_sets

    rows = run_part_apart("geography", folder, 1)
    for cells in sizes:
        made = folder / f"{cells}.cells"
        code_sets.make(cells, made, min_cells=1000 if quick else 200_000)
        for part, threads in (("open", 1), ("memory", 1), ("times", 1), ("times", 2), ("recall", 2), ("region", 1)):
            rows += [{**row, "cells": cells} for row in run_part_apart(part, made, threads)]
        if cells == sizes[min(2, len(sizes) - 1)]:
            rows += [{**row, "cells": cells} for row in run_part_apart("stages", made, 2)]
    return rows + growth(rows)


def run_part_apart(part: str, folder: Path, threads: int) -> list[Row]:
    """Run a part in a fresh process: its memory and its imports are its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, "--part", part, str(folder), str(threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        print(line(row), file=sys.stderr)
    return rows


def run_part(part: str, folder: Path, threads: int) -> list[Row]:
    """Run one part in this process."""
    parts: dict[str, Callable[[Path, int], list[Row]]] = {
        "geography": geography, "open": opening, "memory": memory, "times": times, "recall": recall, "region": region,
        "stages": stages, "trained": trained,
    }  # fmt: skip
    return parts[part](folder, threads)


def line(row: Row) -> str:
    """Return a row of the table as text."""
    against = f" {row['against']}" if "against" in row else ""
    cells = f"{row['cells']:,}" if "cells" in row else ""
    return f"{cells:>11}  {row['case']:<72} {row['value']:>10.4g} {row['unit']}{against}"


def geography(_: Path, threads: int) -> list[Row]:
    """Points to cells, and a country-sized polygon of 1,000 vertices to ranges."""
    import numpy as np

    from cellcode.geography import Region, s2
    from cellcode.geography.s2 import ranges

    rng = np.random.default_rng(0)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 2_000_000))), rng.uniform(-180, 180, 2_000_000)
    rows: list[Row] = []
    for name, lat_deg, lon_deg in (("globe", lat, lon), ("country", 50 + lat / 45, 5 + lon / 90)):
        used = median_s(partial(s2.cell_ids, lat_deg, lon_deg, 16), 5)[0]
        rows.append({"case": f"points to level-16 cells, {name}", "value": len(lat) / used / 1e6, "unit": "M/CPU-s"})
    turn = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    reach = 1.48 * (1 + 0.1 * np.sin(7 * turn) + 0.05 * np.sin(41 * turn))  # degrees: about 85,000 km2
    ring = np.stack([5 + reach * np.cos(turn) / np.cos(np.deg2rad(52)), 52 + reach * np.sin(turn)], axis=1)
    polygon = Region.geojson({"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]})
    covered = polygon.ranges(16)
    used, wall = median_s(lambda: polygon.ranges(16), 5)
    what = f"polygon of 1,000 vertices, {ranges.count(covered, 16):,} cells in {len(covered):,} ranges"
    return [
        *rows,
        {"case": f"{what}, wall", "value": wall, "unit": "s"},
        {"case": f"{what}, CPU", "value": used, "unit": "s"},
    ]


def opening(folder: Path, threads: int) -> list[Row]:
    """From a started process to the answer of a first query in a region of 10 km."""
    for path in folder.glob("*.npy"):  # into the page cache: what is measured is a warm start
        subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    started = time.perf_counter()
    import numpy as np

    from cellcode.geography import Region
    from cellcode.search import DatabaseSearcher

    imported = time.perf_counter()
    searcher = DatabaseSearcher.open(folder)
    query = np.load(folder / "queries.npy", mmap_mode="r")[:1]
    around = Region.cap(*place(searcher), 10_000)
    searcher.search(query, min(K, searcher.count(around)), around)
    done = time.perf_counter()
    return [
        {"case": "open and first query of a 10 km region, wall", "value": done - imported, "unit": "s"},
        {"case": "the same with imports, wall", "value": done - started, "unit": "s"},
    ]


def memory(folder: Path, threads: int) -> list[Row]:
    """Resident memory after single queries of a whole database, and what they cost."""
    limit_threads(threads)
    import numpy as np

    from cellcode.search import DatabaseSearcher

    searcher = DatabaseSearcher.open(folder)
    queries = np.load(folder / "queries.npy")[:20]
    searcher.search(queries[:1], K)
    seconds = []
    for query in queries:
        started = time.process_time()
        hits = searcher.search(query[None], K)
        seconds.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    method = hits.searched.method
    return [
        {"case": f"20 single queries ({method}), peak resident memory", "value": peak / 1e9, "unit": "GB"},
        {"case": f"single query ({method}), CPU", "value": statistics.median(seconds) * 1e3, "unit": "ms"},
        {"case": "database on disk", "value": size_of(folder) / 1e9, "unit": "GB"},
    ]


def times(folder: Path, threads: int) -> list[Row]:
    """Single queries and batches of 64: brute force of faiss, exact scan, two stages."""
    limit_threads(threads)
    import faiss
    import numpy as np

    from cellcode.database import Database
    from cellcode.search import DatabaseSearcher

    database = Database.open(folder)
    cells, queries = len(database.ids), database.queries[:64]
    flat: Any = None
    if cells <= FLAT_LIMIT:
        flat = faiss.IndexFlatIP(database.code_set.dim)
        for first in range(0, cells, 65536):
            flat.add(np.asarray(database.codes[first : first + 65536]).astype(np.float32))
    searchers = {"exact": DatabaseSearcher(database, "exact")}
    if database.search_settings is not None:
        searchers["two_stage"] = DatabaseSearcher(database, "two_stage")
    works: dict[str, Callable[[], object]] = {}
    for name, searcher in searchers.items():
        works[f"{name}, single query"] = partial(searcher.search, queries[:1], K)
        if name == "two_stage":
            works["two_stage, single query, the best cell alone"] = partial(searcher.search, queries[:1], 1)
        works[f"{name}, batch of 64"] = partial(searcher.search, queries, K)
    automatic = DatabaseSearcher(database)
    most = min(1000, cells)
    works["as locate asks, 1000 best with probabilities"] = partial(automatic.search, queries[:1], most, None, 0.08)
    reference = partial(flat.search, queries[:1], K) if flat is not None else None
    rows = compared(works, reference, threads, per={name: 64 if "64" in name else 1 for name in works})
    gigabytes_s = bandwidth()
    for name in searchers:
        floor = touched(database, name) / gigabytes_s / 1e6
        rows.append(
            {"case": f"{name}, floor of a single query (its bytes at this bandwidth)", "value": floor, "unit": "ms"}
        )
    if "exact" in searchers:
        floor = touched(database, "exact") / gigabytes_s / 1e6 / 64
        rows.append({"case": "exact, floor of a query in a batch of 64", "value": floor, "unit": "ms"})
    return [*rows, {"case": f"read bandwidth, {threads} thread(s)", "value": gigabytes_s, "unit": "GB/s"}]


def recall(folder: Path, threads: int) -> list[Row]:
    """Two stages against brute force, on queries that no setting was chosen on."""
    import code_sets
    import numpy as np

    from cellcode.database import Database
    from cellcode.geography import Region
    from cellcode.search import DatabaseSearcher

    database = Database.open(folder)
    if database.search_settings is None:
        return []
    queries = code_sets.checked_queries(database)
    parts = [queries[first : first + 64] for first in range(0, len(queries), 64)]
    exact, two = DatabaseSearcher(database, "exact"), DatabaseSearcher(database, "two_stage")
    rows: list[Row] = []
    truth = np.concatenate([exact.search(part, K).cell_ids for part in parts])
    for k in (1, K):
        found = [two.search(part, k) for part in parts]
        ids = np.concatenate([hits.cell_ids for hits in found])
        same = np.mean([len(np.intersect1d(a[:k], b)) / k for a, b in zip(truth, ids, strict=True)])
        rows.append({"case": f"two_stage, recall@{k} of brute force", "value": 100 * float(same), "unit": "%"})
        again = found[0].searched.scored_again
        rows.append({"case": f"two_stage, entries scored again for {k}", "value": again, "unit": "entries"})
    # A region that is half of the database: its bounds, cut at the middle longitude.
    west, south, east, north = database.region_bounds
    half = Region.bbox(west, south, (west + east) / 2, north)
    some = queries[:128]
    inside, found_inside = exact.search(some, K, half), two.search(some, K, half)
    for k in (1, K):
        pairs = zip(inside.cell_ids[:, :k], found_inside.cell_ids[:, :k], strict=True)
        same = np.mean([len(np.intersect1d(a, b)) / k for a, b in pairs])
        case = f"{found_inside.searched.method} in half of the cells, recall@{k} of brute force"
        rows.append({"case": case, "value": 100 * float(same), "unit": "%"})
    settings = database.search_settings
    size = settings.entry_bytes * settings.stage_entries
    rows.append({"case": f"first stage over {settings.over}, an entry", "value": settings.entry_bytes, "unit": "bytes"})
    rows.append({"case": "first stage, whole", "value": size / 1e6, "unit": "MB"})
    return rows


def stages(folder: Path, threads: int) -> list[Row]:
    """What each choice of the first stage is worth: entries to score again for the 100 best, at 16 bytes a cell."""
    limit_threads(threads)
    import numpy as np

    from cellcode.database import Database
    from cellcode.index import first_stage, tune

    database = Database.open(folder)
    codes, queries, dim = database.code_set, database.queries, database.code_set.dim
    truth = tune.brute_force(codes, queries[1::2], K)
    sample = np.asarray(database.codes[:: max(1, len(codes) // 65536)]).astype(np.float32)
    rows: list[Row] = []
    for name, dims, levels, known in (
        ("plain product quantisation of the largest components", dim // 4, 1, None),
        ("weighed by queries", dim // 4, 1, queries[::2]),
        ("half of the components, twice", dim // 8, 2, None),
        ("weighed by queries, half of the components, twice", dim // 8, 2, queries[::2]),
    ):
        builder = first_stage.train(sample, known, dims, levels)
        for first in range(0, len(codes), 65536):
            builder.add(np.asarray(database.codes[first : first + 65536]).astype(np.float32))
        entries = tune.check(builder.made(None), queries[1::2], truth).entries
        value = entries.get(K, math.inf)
        rows.append(
            {"case": f"{dims * levels // 4} bytes, {name}", "value": value, "unit": f"entries for the {K} best"}
        )
    return [row for row in rows if math.isfinite(row["value"])]


def region(folder: Path, threads: int) -> list[Row]:
    """A region of 10 km, with its covering, against all scores in it by numpy."""
    limit_threads(threads)
    import numpy as np

    from cellcode.geography import Region, distance, s2
    from cellcode.search import DatabaseSearcher

    searcher = DatabaseSearcher.open(folder)
    queries = np.load(folder / "queries.npy")[:16]
    middle = place(searcher)
    inside = searcher.count(Region.cap(*middle, 10_000))

    def one_by_one() -> None:
        for query in queries:  # a new region each time: nothing of the last one is remembered
            searcher.search(query[None], min(K, inside), Region.cap(*middle, 10_000))

    used, wall = median_s(one_by_one, 5)
    ids = Region.cap(*middle, 12_000).cells(searcher.level)
    rows = np.searchsorted(searcher.codes.ids, ids).clip(max=len(searcher.codes) - 1)
    near = (searcher.codes.ids[rows] == ids) & (distance.haversine_m(*middle, *s2.cell_centers(ids)) <= 10_000)
    scores = np.asarray(searcher.codes.exact[rows[near]]).astype(np.float64) @ queries.T.astype(np.float64)
    best = ids[near][np.argsort(-scores.astype(np.float32), axis=0, kind="stable")[: min(K, inside)]].T
    hits = searcher.search(queries, min(K, inside), Region.cap(*middle, 10_000))
    agreed = float((hits.cell_ids == best).mean())
    what = f"region of 10 km, {inside:,} cells"
    return [
        {"case": f"{what}, single query, CPU", "value": used / len(queries) * 1e3, "unit": "ms"},
        {"case": f"{what}, single query, wall", "value": wall / len(queries) * 1e3, "unit": "ms"},
        {"case": f"{what}, same as numpy's brute force", "value": 100 * agreed, "unit": "%"},
        {"case": f"{what}, floor", "value": inside * searcher.codes.dim / bandwidth() / 1e6, "unit": "ms"},
    ]


def place(searcher: Any) -> tuple[float, float]:
    """Latitude and longitude of the cell in the middle of the order of ids."""
    from cellcode.geography import s2

    ids = searcher.codes.ids
    lat, lon = s2.cell_centers(ids[len(ids) // 2 : len(ids) // 2 + 1])
    return float(lat[0]), float(lon[0])


def trained(folder: Path, threads: int) -> list[Row]:
    """Recall of a real database against the bytes of its codes, beside image retrieval."""
    import numpy as np

    from cellcode.database import Database, compress
    from cellcode.geography import distance, s2
    from cellcode.index.codeset import CodeSet
    from cellcode.index.quantise import PackedCodes, train
    from cellcode.photos import PhotoTable
    from cellcode.search import CodeSearcher, DatabaseSearcher, Locator

    database, photos = (
        Database.open(str(folder).split(os.pathsep)[0]),
        PhotoTable.load(str(folder).split(os.pathsep)[1]),
    )
    tested, gallery, locator = photos.of_split("test"), photos.of_split("train"), Locator(database)
    queries = embedded(locator, tested)
    dim, cells = database.code_set.dim, len(database.ids)
    area_km2 = cells * s2.mean_edge_m(database.level) ** 2 / 1e6
    rows: list[Row] = []

    def row(name: str, lat_deg: Any, lon_deg: Any, size: float, unit_km2: float) -> None:
        apart_m = distance.haversine_m(tested.lat_deg, tested.lon_deg, lat_deg, lon_deg)
        case = f"trained, {name}, {size:g} bytes, {unit_km2:.3g} kB/km2: recall@1 within 200 m"
        rows.append({"case": case, "value": 100 * float((apart_m <= 200).mean()), "unit": "%"})

    def searched(name: str, codes: CodeSet, size: float) -> None:
        best = CodeSearcher(codes, database.level).search(queries, 1).cell_ids[:, 0]
        row(name, *s2.cell_centers(best), size, size * cells / area_km2 / 1e3)

    exact = np.asarray(database.codes)
    searched("float32", CodeSet(database.ids, exact), 4 * dim)
    searched("float16", CodeSet(database.ids, exact), 2 * dim)
    coarse = (np.asarray(database.code_set.coarse) * np.float32(database.code_set.scale)).astype(np.float16)
    searched("int8", CodeSet(database.ids, coarse), dim)
    known, sample = database.queries, exact.astype(np.float32)
    for size in (128, 64, 32, 16, 8):
        if dim % size:
            continue
        for name, given in (("packed for queries", known), ("packed for codes", None)):
            codebook = train(sample, size, given)
            searched(name, CodeSet(database.ids, PackedCodes(codebook.encode(exact), codebook)), size)
    with tempfile.TemporaryDirectory() as temporary:
        packed = compress(database, 64, out=Path(temporary) / "packed.cells")
        best = DatabaseSearcher(packed).search(queries, 1).cell_ids[:, 0]
        row("cellcode compress --bytes 64", *s2.cell_centers(best), 64, 64 * cells / area_km2 / 1e3)
    images = embedded(locator, gallery).astype(np.float16).astype(np.float32)
    nearest = np.argmax(queries @ images.T, axis=1)
    size = 2 * dim + 16
    row("image retrieval, float16 a photo", gallery.lat_deg[nearest], gallery.lon_deg[nearest], size,
        size * len(gallery) / area_km2 / 1e3)  # fmt: skip
    return rows


def embedded(locator: Any, table: Any) -> Any:
    """Embed the photos of a table, (N, D) float32."""
    from cellcode.photos.reading.pixels import load_pixels

    pixels, _ = load_pixels(table.files, locator.database.config.photo, description="reading photos")
    return locator.embed(pixels)


def compared(
    works: dict[str, Callable[[], object]], reference: Callable[[], object] | None, threads: int, per: dict[str, int]
) -> list[Row]:
    """Time each work, a query of it, and its ratio to the reference by alternating runs."""
    rows: list[Row] = []
    suffix = f", {threads} threads" if threads > 1 else ""
    for name, work in works.items():
        pairs = []
        for _ in range(REPEATS if seconds(work)[1] < 5 else 3):
            base = seconds(reference) if reference is not None else (math.nan, math.nan)
            pairs.append((seconds(work), base))
        # One thread: CPU time; more of them: wall time.
        kind = 1 if threads > 1 else 0
        own = statistics.median(pair[0][kind] for pair in pairs) / per[name]
        label = f"{name}{suffix}, {'wall' if kind else 'CPU'} a query"
        rows.append({"case": label, "value": own * 1e3, "unit": "ms"})
        if reference is not None:
            ratio = statistics.median(pair[1][kind] / pair[0][kind] * per[name] for pair in pairs)
            what = "times faster than"
            rows.append({"case": label, "value": ratio, "unit": what, "against": "one query of faiss IndexFlatIP"})
    return rows


def growth(rows: list[Row]) -> list[Row]:
    """Exponent of the line through each figure over the number of cells, both as logarithms: 1 is proportional."""
    import numpy as np

    by_case: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if "cells" in row and row["unit"] in ("ms", "GB", "s", "%", "MB") and row["value"] > 0:
            by_case.setdefault(row["case"], []).append((row["cells"], row["value"]))
    lines = []
    for case, points in by_case.items():
        if len(points) >= 3:
            cells, values = np.log(np.array(points, np.float64)).T
            lines.append(
                {"case": f"growth of {case}", "value": float(np.polyfit(cells, values, 1)[0]), "unit": "exponent"}
            )
    return lines


def touched(database: Any, method: str) -> float:
    """Bytes that a single query has to read at least."""
    if method == "exact":
        return float(database.code_set.coarse.nbytes)
    settings = database.search_settings
    again = settings.entries_for(K) * len(database.ids) / settings.stage_entries
    return float(settings.entry_bytes * settings.stage_entries + again * database.codes.shape[1] * 2)


def bandwidth() -> float:
    """Bytes a nanosecond that summing a gigabyte reads."""
    import torch

    values = torch.ones(1 << 28)
    return 4 * len(values) / median_s(partial(torch.sum, values), 5)[1] / 1e9


def median_s(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median CPU and wall seconds of `work`, after one run that is not counted."""
    work()
    measured = [seconds(work) for _ in range(repeats)]
    return statistics.median(pair[0] for pair in measured), statistics.median(pair[1] for pair in measured)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one run."""
    wall, used = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - used, time.perf_counter() - wall


def limit_threads(threads: int) -> None:
    """Let torch and faiss use this many threads."""
    import faiss
    import torch

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def size_of(folder: Path) -> int:
    """Bytes of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def processor() -> str:
    """Name of the processor and number of its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
