"""What the service costs beyond its encoder: throughput under load, waiting, memory, overload, and the size of a heat map.

    python benchmarks/serving.py [--quick] [--json FILE] [--backbone NAME]

A real server (`cellcode serve`) on loopback answers clients in another process; both share the machine's cores. Networks
are not trained: what is measured does not depend on their weights. Rates are told as ratios to the bare encoder at batch
16 in the same run, measured before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from PIL import Image

from cellcode import config as configuration
from cellcode.database import Database, build
from cellcode.geography import Region, s2
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes import Prototypes
from cellcode.runs import CellFacts, Run, Validation
from cellcode.search import Locator

Row = dict[str, Any]
BATCH = 16
CLIENTS = (1, 8, 64)
PHOTO_PX = (1280, 960)
SIDE_DEG = 0.12


def main() -> None:
    """Run all parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, and fewer requests")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--backbone", default="efficientnet-lite0", help="of the ground encoder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.backbone, arguments.quick)
    report.show(rows, arguments.json)


def measure(folder: Path, backbone: str, quick: bool) -> list[Row]:
    """Build databases, start the server and load it."""
    seconds, many = (3.0, 300) if quick else (15.0, 5000)
    cells = untrained(folder / "served", backbone, level=16, side_deg=SIDE_DEG)
    photo = jpeg()
    before = bare_rate(cells)
    with Served(cells.folder, folder / "log") as server:
        rows, rates = [], {}
        load(server.port, photo, 8, seconds / 3)  # warm
        for clients in CLIENTS:
            took, elapsed = load(server.port, photo, clients, seconds)
            rates[clients] = len(took) / elapsed
            rows += [
                {"case": f"p50 with {clients} clients", "value": 1000 * statistics.median(took), "unit": "ms"},
                {"case": f"p95 with {clients} clients", "value": 1000 * float(np.quantile(took, 0.95)), "unit": "ms"},
            ]
        rows += overload(server.port, photo, 2 * max(rates.values()), seconds)
        start_mb = server.memory_mb()
        load(server.port, photo, 8, requests=many)
        rows.append(
            {
                "case": f"memory after {many} more requests",
                "value": server.memory_mb() / start_mb,
                "unit": "of before",
                "against": f"{start_mb:.0f} MB",
            }
        )
    bare = statistics.median([*before, *bare_rate(cells)])
    against = f"bare {backbone} encoder at batch {BATCH}"
    ratios = [
        {"case": f"throughput with {clients} clients", "value": rate / bare, "unit": "ratio", "against": against}
        for clients, rate in rates.items()
    ]
    return [*ratios, *rows, *heat(folder, photo)]


def untrained(folder: Path, backbone: str, level: int, side_deg: float) -> Database:
    """Return a database of cells with prototypes, made for an encoder that nobody trained."""
    side = {"tiny": (64, 48)}.get(backbone, (224, 224))
    settings = configuration.parse(
        {
            "name": "serving",
            "levels": {"prototype": level - 1, "cell": level},
            "photo": {"width_px": side[0], "height_px": side[1]},
            "model": {"dim": 128, "ground": {"backbone": backbone, "aggregation": {"name": "gem"}}},
        }
    )
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    region = Region.bbox(3.0, 52.0, 3.0 + side_deg, 52.0 + side_deg)
    ids = region.cells(level - 1)
    prototypes = Prototypes(ids, 128, settings.model.interpolation_radius_cells)
    with torch.no_grad():
        prototypes.weight.copy_(torch.from_numpy(rng.standard_normal((len(ids), 128), np.float32)))
    lat, lon = s2.cell_centers(rng.choice(ids, 200))
    with torch.no_grad():
        own = prototypes.interpolate(*prototypes.neighbours(lat, lon)).numpy()
    queries = own + 0.1 * rng.standard_normal(own.shape, np.float32)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    run = Run(
        folder=folder / "run",
        config=settings,
        ground=Encoder(settings.model.ground, 128).eval(),
        aerial=None,
        prototypes=prototypes,
        facts=CellFacts.of_photos(lat, lon, np.full(200, np.datetime64("2024-05-01", "ms")), level),
        validation=Validation(lat, lon, queries),
        manifest={"licences": [], "attributions": [], "bounds": list(region.bounds), "training_photos": 200},
    ).save()
    return build.run(run, None, region, out=folder / "cells")


def jpeg() -> bytes:
    """Return a photo with as much detail as one of a phone, scaled for upload."""
    rng = np.random.default_rng(1)
    width, height = PHOTO_PX
    coarse = Image.fromarray(rng.integers(0, 255, (height // 16, width // 16, 3), np.uint8))
    out = io.BytesIO()
    coarse.resize(PHOTO_PX, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


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


class Served:
    """A server process."""

    def __init__(self, cells: Path, log: Path) -> None:
        command = [str(Path(sys.executable).with_name("cellcode")), "serve", str(cells), "--port", "0"]
        self.log = log.open("w")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the server did not start")
        self.drain = multiprocessing.get_context("fork").Process(target=_drain, args=(self.process.stderr.fileno(),))
        self.drain.start()

    def memory_mb(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found is not None
        return int(found[1]) / 1000

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.drain.terminate()


def _drain(descriptor: int) -> None:
    with open(descriptor, "rb") as log:
        while log.read1(65536):
            pass


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


def request(photo: bytes, fields: str = "") -> bytes:
    """Return a POST /v1/locate as bytes."""
    part = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n' + photo + b"\r\n"
    body = part + fields.encode() + b"--b--\r\n"
    head = (
        "POST /v1/locate HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Return the status and the bytes of an answer's body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", head)
    if length is not None:
        return int(head.split()[1]), len(await reader.readexactly(int(length[1])))
    total = 0
    while size := int(await reader.readline(), 16):
        total += len(await reader.readexactly(size + 2)) - 2
    await reader.readline()
    return int(head.split()[1]), total


def heat(folder: Path, photo: bytes) -> list[Row]:
    """Size and time of the heat map of a database of about 100,000 cells, all of them with mass."""
    cells = untrained(folder / "wide", "tiny", level=16, side_deg=0.46)
    with Served(cells.folder, folder / "log") as server:

        async def ask(fields: str) -> tuple[int, float]:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            started = time.perf_counter()
            writer.write(request(photo, fields))
            status, size = await answer(reader)
            assert status == 200
            writer.close()
            return size, time.perf_counter() - started

        wanted = '--b\r\nContent-Disposition: form-data; name="heat"\r\n\r\ntrue\r\n'
        with_heat = [asyncio.run(ask(wanted)) for _ in range(7)]
        without = [asyncio.run(ask("")) for _ in range(7)]
    return [
        {"case": "cells of the heat map's database", "value": float(len(cells.ids)), "unit": "cells"},
        {"case": "heat map of all of them, as sent", "value": with_heat[0][0] / 1000, "unit": "kB"},
        {
            "case": "an answer with its heat map",
            "value": statistics.median(took for _, took in with_heat),
            "unit": "s",
            "against": f"{statistics.median(took for _, took in without):.3f} s without",
        },
    ]


if __name__ == "__main__":
    main()
