"""A real server on loopback, over the small rendered town."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from cellcode.database import Database
from cellcode.photos import PhotoTable
from cellcode.search import Locator
from cellcode.serving import run
from cellcode.serving.service import Service
from cellcode.serving.settings import Settings
from cellcode.serving.state import State
from cellcode.simulation import Simulation


@dataclass
class Server:
    url: str
    state: State

    def post(self, path: str, photos: list[tuple[str, bytes]] | None = None, **fields: Any) -> requests.Response:
        """Send photos and fields as multipart."""
        files = [("photo", photo) for photo in photos or []]
        return requests.post(self.url + path, files=files or None, data=fields, timeout=60)

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **more)


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def starts(town_cells: Database, town: Simulation) -> Iterator[Start]:
    """Start a server; keyword arguments are limits, besides `keys`, `aerial` and `cells`."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(
        keys: frozenset[str] = frozenset(),
        aerial: Path | None = town.aerial_path,
        cells: Path = town_cells.folder,
        **limits: Any,
    ) -> Server:
        settings = Settings(**limits)
        state = State(settings, keys)
        state.put(Service(cells, settings, aerial))
        server = uvicorn.Server(run.configuration(state, log_level="error"))
        listening = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread))
        return Server(f"http://127.0.0.1:{listening.getsockname()[1]}", state)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def server(starts: Start) -> Server:
    return starts()


@pytest.fixture(scope="session")
def photos(town_photos: PhotoTable) -> list[tuple[str, bytes]]:
    """Six test photos, as (name, bytes)."""
    table = town_photos.select(town_photos.split == "test")
    return [(Path(str(file)).name, Path(str(file)).read_bytes()) for file in table.files[:6]]


@pytest.fixture(scope="session")
def locator(town_cells: Database) -> Locator:
    return Locator(town_cells)
