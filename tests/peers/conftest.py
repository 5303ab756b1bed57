"""Servers that others wrote, on loopback, each started once: titiler (XYZ, WMTS), moto (S3), GeoVisio (Panoramax)."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

from cellcode.simulation import Simulation

HERE = Path(__file__).parent
PROGRAMS = Path(os.environ.get("CELLCODE_PEERS") or HERE.parents[1] / ".venv" / "peers") / "bin"
PATIENCE_S = 120.0


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sources may name this machine, and what is fetched from them is kept in the test's folder."""
    monkeypatch.setenv("CELLCODE_ALLOW_PRIVATE", "1")
    monkeypatch.setenv("CELLCODE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def titiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a titiler that reads rasters of this machine."""
    program, port = _program("uvicorn"), _free_port()
    arguments = ["titiler.application.main:app", "--host", "127.0.0.1", "--port", str(port)]
    with _running([program, *arguments], f"http://127.0.0.1:{port}/healthz", tmp_path_factory.mktemp("titiler")) as url:
        yield url


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an object store that is empty."""
    program, port = _program("moto_server"), _free_port()
    url = f"http://127.0.0.1:{port}/moto-api/"
    with _running([program, "-H", "127.0.0.1", "-p", str(port)], url, tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(scope="session")
def geovisio() -> Iterator[Any]:
    """A GeoVisio without photos; see geovisio_server.GeoVisio."""
    server = _module("geovisio_server")
    os.environ.setdefault(server.VENV_VARIABLE, str(PROGRAMS.parent))
    if (missing := server.why_not()) is not None:
        pytest.skip(missing)
    with server.running() as running:
        yield running


@pytest.fixture(scope="session")
def s3_cog(moto: str, town: Simulation, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The rendered town's imagery as a COG in a bucket: bucket and key."""
    from rasterio.shutil import copy

    path = tmp_path_factory.mktemp("cog") / "town.tif"
    copy(town.aerial_path, path, driver="COG", compress="JPEG", blocksize=256)
    public = {"x-amz-acl": "public-read"}
    requests.put(f"{moto}/imagery", timeout=PATIENCE_S).raise_for_status()
    requests.put(
        f"{moto}/imagery/town.tif", data=path.read_bytes(), headers=public, timeout=PATIENCE_S
    ).raise_for_status()
    return "imagery/town.tif"


def _program(name: str) -> str:
    path = PROGRAMS / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {PROGRAMS} (make test-peers installs it)")
    return str(path)


@contextmanager
def _running(command: list[str], ready_url: str, folder: Path) -> Iterator[str]:
    """Run a server until the block ends; yields its address once it answers."""
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not _answers(ready_url):
                assert server.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, f"{command[0]} does not answer"
                time.sleep(0.2)
            yield ready_url.rsplit("/", ready_url.count("/") - 2)[0]
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).status_code < 500
    except requests.RequestException:
        return False


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _module(name: str) -> ModuleType:
    """Import a file beside this one, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module
