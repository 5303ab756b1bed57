"""What the service costs beyond its encoder: throughput under load, waiting, memory, overload, and the size of a heat map.

    python benchmarks/serving.py [--quick] [--json FILE]

A real server (`cellcode serve`) on loopback answers clients in another process; both share the machine's cores. Networks
are not trained: what is measured does not depend on their weights. Rates are told as ratios to the bare encoder at batch
16 in the same run, measured before and after.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import heat
import numpy as np
import report
from report import Row
from served import VISION_TRANSFORMER, Served, answer, jpeg, request, untrained

from cellcode.database import Database
from cellcode.search import Locator

BATCH = 16
CLIENTS = (1, 8, 64)
BACKBONES = (
    "efficientnet-lite0",
    VISION_TRANSFORMER,
)  # a small encoder, which decoding weighs against, and a usual one
SIDE_DEG = 0.12


def main() -> None:
    """Run all parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, and fewer requests")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    seconds, many = (3.0, 300) if arguments.quick else (15.0, 5000)
    photo, rows = jpeg(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for backbone in BACKBONES:
            cells = untrained(folder / backbone, backbone, level=16, side_deg=SIDE_DEG)
            rows += throughput(cells, folder / f"{backbone}.log", photo, backbone, seconds)
        rows += endurance(folder / BACKBONES[0] / "cells", folder / "log", photo, seconds, many)
        rows += heat.measure(folder, photo)
    report.show(rows, arguments.json)


def throughput(cells: Database, log: Path, photo: bytes, backbone: str, seconds: float) -> list[Row]:
    """Answer as many clients as there are, and compare with the encoder alone."""
    rows: list[Row] = []
    rates, before = {}, bare_rate(cells)
    with Served(cells.folder, log) as server:
        load(server.port, photo, 8, seconds / 3)  # warm
        for clients in CLIENTS:
            took, elapsed = load(server.port, photo, clients, seconds)
            rates[clients] = len(took) / elapsed
            rows += [
                {"case": f"{backbone}: p50, {clients} clients", "value": 1000 * statistics.median(took), "unit": "ms"},
                {
                    "case": f"{backbone}: p95, {clients} clients",
                    "value": 1000 * float(np.quantile(took, 0.95)),
                    "unit": "ms",
                },
            ]
    bare = statistics.median([*before, *bare_rate(cells)])
    ratios: list[Row] = [
        {
            "case": f"{backbone}: throughput, {clients} clients",
            "value": rate / bare,
            "unit": "ratio",
            "against": f"bare encoder at batch {BATCH}",
        }
        for clients, rate in rates.items()
    ]
    return [*ratios, *rows]


def endurance(cells: Path, log: Path, photo: bytes, seconds: float, many: int) -> list[Row]:
    """Offer twice what can be answered, then watch the memory over many requests."""
    with Served(cells, log) as server:
        took, elapsed = load(server.port, photo, max(CLIENTS), seconds)
        rows = overload(server.port, photo, 2 * len(took) / elapsed, seconds)
        start_mb = server.memory_mb()
        load(server.port, photo, 8, requests=many)
        grown = server.memory_mb() / start_mb
    return [
        *rows,
        {
            "case": f"memory after {many} more requests",
            "value": grown,
            "unit": "of before",
            "against": f"{start_mb:.0f} MB",
        },
    ]


def bare_rate(cells: Database) -> list[float]:
    """Photos a second of the encoder alone, on pixels in memory, five times."""
    locator, size = Locator(cells), cells.config.photo
    pixels = np.random.default_rng(2).integers(0, 255, (BATCH, size.height_px, size.width_px, 3)).astype(np.uint8)
    locator.embed(pixels)
    rates = []
    for _ in range(5):
        started, calls = time.perf_counter(), 0
        while time.perf_counter() - started < 1.0:
            locator.embed(pixels)
            calls += 1
        rates.append(calls * BATCH / (time.perf_counter() - started))
    return rates


def load(
    port: int, photo: bytes, clients: int, seconds: float = 1e9, requests: int = 1 << 60
) -> tuple[list[float], float]:
    """Send one photo again and again over as many connections, from a process of its own.

    Returns:
        Seconds of each answer, and from the first request to the last answer.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_load, (port, photo, clients, seconds, requests))


def _load(port: int, photo: bytes, clients: int, seconds: float, requests: int) -> tuple[list[float], float]:
    took: list[float] = []

    async def client(end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        message = request(photo)
        while time.perf_counter() < end and len(took) < requests:
            started = time.perf_counter()
            writer.write(message)
            status, _ = await answer(reader)
            if status != 200:
                raise SystemExit(f"status {status} under load")
            took.append(time.perf_counter() - started)
        writer.close()

    async def run() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(client(end) for _ in range(clients)))

    began = time.perf_counter()
    asyncio.run(run())
    return took, time.perf_counter() - began


def overload(port: int, photo: bytes, per_second: float, seconds: float) -> list[Row]:
    """Offer more than can be answered, whether or not earlier requests are: an open loop."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_offer, (port, photo, per_second, seconds))
    good = [took for status, took in found if status == 200]
    refused = [took for status, took in found if status == 503]
    rows: list[Row] = [
        {"case": "at twice the capacity: answered", "value": len(good) / len(found), "unit": "of requests"},
        {"case": "at twice the capacity: refused with 503", "value": len(refused) / len(found), "unit": "of requests"},
        {
            "case": "at twice the capacity: anything else",
            "value": 1 - (len(good) + len(refused)) / len(found),
            "unit": "of requests",
        },
    ]
    for name, times in (("answers", good), ("refusals", refused)):
        if times:
            rows.append(
                {"case": f"at twice the capacity: p95 of {name}", "value": float(np.quantile(times, 0.95)), "unit": "s"}
            )
    return rows


def _offer(port: int, photo: bytes, per_second: float, seconds: float) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []

    async def one() -> None:
        started = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(photo))
            status, _ = await asyncio.wait_for(answer(reader), 60)
            writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            status = 0
        found.append((status, time.perf_counter() - started))

    async def run() -> None:
        tasks: list[asyncio.Task[None]] = []
        began = time.perf_counter()
        while (now := time.perf_counter() - began) < seconds:
            while len(tasks) < now * per_second:
                tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)

    asyncio.run(run())
    return found


if __name__ == "__main__":
    main()
