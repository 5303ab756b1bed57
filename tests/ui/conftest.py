"""A real `cellcode serve` of the small rendered town, and Debian's Chromium looking at its page."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from cellcode.database import Database
from cellcode.geography.distance import haversine_m
from cellcode.simulation import Simulation

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra ui")

FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]  # a container's user is often root
PATIENCE_MS = 60_000  # software rendering on a busy machine


@dataclass
class Served:
    """A server and what its API says, asked without a browser."""

    url: str
    key: str | None = None

    def post(self, path: str, photos: list[Path], **fields: Any) -> Any:
        """Send photos; the JSON of the answer."""
        files = [("photo", (photo.name, photo.read_bytes())) for photo in photos]
        answer = requests.post(self.url + path, files=files, data=fields, timeout=300)
        answer.raise_for_status()
        return answer.json()

    def locate(self, photo: Path, **fields: Any) -> dict[str, Any]:
        """The answer to one photo."""
        (answer,) = self.post("/v1/locate", [photo], **fields)["answers"]
        return dict(answer)

    def database(self) -> dict[str, Any]:
        """What /v1/database says."""
        return dict(requests.get(self.url + "/v1/database", timeout=60).json())


@dataclass
class Found:
    """A photo, where it was taken, and what the API answers."""

    path: Path
    lat: float
    lon: float
    answer: dict[str, Any]


def serve(log: Path, folder: Path, *options: str) -> Iterator[Served]:
    """Run `cellcode serve` on a free port until the fixture ends; what it says goes into a file."""
    command = [sys.executable, "-c", "from cellcode.cli import main; main()", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("w") as said:  # a file: nobody would empty a pipe, and a full one stops the server
        process = subprocess.Popen([*command, *options], stderr=said, env=environment)
    try:
        while not (found := re.search(r"serving on (http://\S+)", log.read_text())):
            assert process.poll() is None, f"cellcode serve ended: {log.read_text()}"
            time.sleep(0.1)
        yield Served(found[1])
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def served(town_cells: Database, town: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("served") / "log.txt"
    yield from serve(log, town_cells.folder, "--aerial", str(town.aerial_path))


@pytest.fixture(scope="session")
def guarded(town_cells: Database, town: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    key = "a-key-of-the-tests-0123456789abcdef"
    keys.write_text(key + "\n")
    for server in serve(
        keys.with_name("log.txt"), town_cells.folder, "--aerial", str(town.aerial_path), "--keys", str(keys)
    ):
        server.key = key
        yield server


@pytest.fixture(scope="session")
def found(served: Served, town: Simulation) -> list[Found]:
    """Photos by the distance of their answers, the best found first."""
    with (town.out / "truth.csv").open() as file:
        rows = list(csv.DictReader(file))[::16]
    made = []
    for row in rows:
        photo = town.out / row["file"]
        made.append(Found(photo, float(row["lat"]), float(row["lon"]), served.locate(photo)))
    return sorted(made, key=lambda each: float(haversine_m(each.lat, each.lon, each.answer["lat"], each.answer["lon"])))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@dataclass
class Visit:
    """Opens pages, and remembers every request and complaint of them."""

    browser: Any
    url: str
    folder: Path
    hosts: set[str] = field(default_factory=set)
    elsewhere: list[Any] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def __call__(self, url: str | None = None, **options: Any) -> Any:
        """Open the page; options are those of a Playwright context."""
        options.setdefault("viewport", {"width": 1280, "height": 800})
        context = self.browser.new_context(accept_downloads=True, **options)
        context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(context)
        context.on("request", self._request)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url or self.url)
        return page

    def ready(self, **options: Any) -> Any:
        """Open the page and wait until it knows the database."""
        page = self(**options)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    def shot(self, page: Any, name: str) -> None:
        """Save what is seen once the map rests."""
        settle(page)
        page.screenshot(path=self.folder / f"{name}.png")

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.netloc not in self.hosts:
            self.elsewhere.append(request)

    def _console(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # the API's own 4xx
            self.complaints.append(message.text)


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("CELLCODE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def visit(browser: Any, served: Served, screenshots: Path) -> Iterator[Visit]:
    made = Visit(browser, served.url + "/", screenshots, {urlsplit(served.url).netloc})
    yield made
    for context in made.contexts:
        context.close()
    assert not made.complaints, "the page complained, or broke its content security policy"
    assert not [request.url for request in made.elsewhere], "the page asked another host"


def settle(page: Any) -> None:
    """Wait until the map has drawn what it was told."""
    page.evaluate(
        """async () => {
            await new Promise((done) => setTimeout(done, 100));
            const map = window.cellcode?.map;
            if (map && (!map.loaded() || map.isMoving())) await new Promise((done) => map.once("idle", done));
        }"""
    )


@pytest.fixture(scope="session")
def give() -> Callable[..., None]:
    """Choose photos and wait for the answer."""

    def choose(page: Any, *photos: Path) -> None:
        page.set_input_files("#file", [str(photo) for photo in photos])
        answered(page)

    return choose


def answered(page: Any) -> None:
    """Wait until the question on its way is answered."""
    page.wait_for_selector("main[aria-busy=false]")
    page.wait_for_selector("#answer:not([hidden])")
