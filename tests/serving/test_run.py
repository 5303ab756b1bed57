"""The process: `cellcode serve` started as users do, signalled as operators do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from cellcode.database import Database
from cellcode.database.editing import reshape
from cellcode.geography import Region

Photos = list[tuple[str, bytes]]


class Process:
    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("cellcode")), "serve", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        self.log: list[str] = []
        self.url = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"serving on (http://\S+)", line):
                self.url = found[1]
                break

    def locate(self, photo: tuple[str, bytes]) -> requests.Response:
        return requests.post(self.url + "/v1/locate", files=[("photo", photo)], timeout=60)

    def end(self, how: int = signal.SIGTERM) -> str:
        if self.process.poll() is None:
            self.process.send_signal(how)
        assert self.process.stderr is not None
        self.log += self.process.stderr.readlines()
        self.process.wait(60)
        return "".join(self.log)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def make(*arguments: str, **more: dict[str, str]) -> Process:
        running.append(Process(*arguments, **more))  # type: ignore[arg-type]
        return running[-1]

    yield make
    for each in running:
        each.process.kill()


def test_a_database_is_replaced_without_a_failed_request(
    start: Callable[..., Process], town_cells: Database, photos: Photos, tmp_path: Path
) -> None:
    served, half = tmp_path / "town.cells", tmp_path / "half.cells"
    shutil.copytree(town_cells.folder, served)
    west, south, east, north = town_cells.region_bounds
    smaller = reshape.clip(town_cells, Region.bbox(west, south, (west + east) / 2, north), out=half)
    server = start(str(served), "--port", "0")
    identity = requests.get(server.url + "/v1/database", timeout=60).json()["identity"]
    assert identity == town_cells.identity

    def keep_asking() -> list[int]:
        return [server.locate(photos[k % len(photos)]).status_code for k in range(40)]

    with ThreadPoolExecutor(3) as clients:
        asking = [clients.submit(keep_asking) for _ in range(3)]
        shutil.move(served, tmp_path / "old.cells")
        shutil.copytree(half, served)
        server.process.send_signal(signal.SIGHUP)
        codes = [code for each in asking for code in each.result()]
    assert set(codes) == {200}
    _until(lambda: requests.get(server.url + "/v1/database", timeout=60).json()["identity"] == smaller.identity)

    shutil.move(served, tmp_path / "older.cells")  # files that are served are never written to
    shutil.copytree(half, served)
    (served / "codes.npy").write_bytes(b"damaged")  # the next one cannot be opened: the old one stays
    server.process.send_signal(signal.SIGHUP)
    _until(lambda: 'swaps_total{outcome="failed"} 1.0' in requests.get(server.url + "/metrics", timeout=60).text)
    assert server.locate(photos[0]).ok
    assert "the old one stays" in server.end()


def test_what_is_at_work_is_answered_before_the_end(
    start: Callable[..., Process], town_cells: Database, photos: Photos
) -> None:
    server = start(str(town_cells.folder), "--port", "0")
    files = [("photo", photo) for photo in photos * 20]
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(requests.post, server.url + "/v1/batch", files=files, timeout=60)
        _until(lambda: "at_work 1.0" in requests.get(server.url + "/metrics", timeout=60).text or asked.done())
        server.process.send_signal(signal.SIGTERM)
        answer = asked.result()
    assert len(answer.text.splitlines()) == len(files)
    server.end()
    assert server.process.returncode in (0, -signal.SIGTERM)  # uvicorn raises the signal again after its work


def test_photos_are_neither_written_nor_logged(
    start: Callable[..., Process], town_cells: Database, photos: Photos, tmp_path: Path
) -> None:
    nowhere = {name: str(tmp_path / "missing") for name in ("TMPDIR", "TEMP", "TMP")}
    server = start(str(town_cells.folder), "--port", "0", environment=nowhere)
    large = ("secret-name.jpg", photos[0][1] + bytes(8_000_000))  # larger than what servers keep in memory by default
    answer = server.locate(large)
    assert answer.ok, answer.text
    said = server.end()
    assert f"id={answer.headers['x-request-id']} POST /v1/locate status=200" in said
    assert "secret-name" not in said
    assert "127.0.0.1:" not in said.split("serving on", 1)[1].split("\n", 1)[1]


def test_it_warns_when_strangers_can_reach_it_without_keys(
    start: Callable[..., Process], town_cells: Database, tmp_path: Path
) -> None:
    assert "warning" in start(str(town_cells.folder), "--port", "0", "--host", "0.0.0.0").end()
    keys = tmp_path / "keys"
    keys.write_text("# of the newsroom\na-key-that-is-long-enough\n")
    quiet = start(str(town_cells.folder), "--port", "0", "--host", "0.0.0.0", "--keys", str(keys))
    assert "warning" not in quiet.end()
    assert "a-key-that" not in "".join(quiet.log)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["missing.cells"], 1, "is not a cell-code database"),
        (["CELLS", "--keys", "missing"], 1, "cannot be read as a file of keys"),
        (["CELLS", "--aerial", "missing.tif"], 1, "does not exist"),
        (["CELLS", "--set", "photo_bites=3"], 2, "photo_bites: unknown limit; valid limits: photo_bytes"),
        (["CELLS", "--set", "photos=-1"], 2, "photos: Input should be greater"),
        (["CELLS", "--set", "photos"], 2, "name=value"),
        (["CELLS", "--basemap", "http://plain.example/{z}"], 2, "basemap.url"),
        (["CELLS", "--host", "256.1.1.1"], 1, "cannot be listened on"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    start: Callable[..., Process], town_cells: Database, arguments: list[str], status: int, words: str
) -> None:
    server = start(*[str(town_cells.folder) if each == "CELLS" else each for each in arguments], "--port", "0")
    said = server.end()
    assert server.process.returncode == status
    assert words in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


def _until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
