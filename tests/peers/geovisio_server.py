"""A GeoVisio server (the software of Panoramax) on loopback over a PostgreSQL of its own; both end with the block."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

VENV_VARIABLE = "CELLCODE_PEERS"  # a virtual environment that has the package geovisio, whose pins are not ours
DEFAULT_VENV = Path(__file__).parents[2] / ".venv" / "peers"
LICENCE = "CC-BY-SA-4.0"
_POSTGRES_USER = "postgres"  # made by Debian's package: PostgreSQL refuses to run as root
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class GeoVisio:
    """A running server: the address of its API, how photos get there, and how they go.

    Attributes:
        command: runs a command of the server's administrator and returns what it prints.
    """

    api_url: str
    command: Callable[..., str]

    def upload(self, title: str, photos: list[Path]) -> str:
        """Upload photos with EXIF positions as one sequence, wait until all can be searched for, and return its id."""
        made = requests.post(f"{self.api_url}/collections", json={"title": title}, timeout=_PATIENCE_S)
        made.raise_for_status()
        sequence = str(made.json()["id"])
        for position, path in enumerate(photos, start=1):
            with path.open("rb") as file:
                answer = requests.post(
                    f"{self.api_url}/collections/{sequence}/items",
                    data={"position": position},
                    files={"picture": (path.name, file, "image/jpeg")},
                    timeout=_PATIENCE_S,
                )
            assert answer.status_code == 202, answer.text
        _wait(lambda: self._is_ready(sequence, len(photos)), f"GeoVisio to take {len(photos)} photos in")
        return sequence

    def delete(self, sequence: str, photo: str) -> None:
        """Delete a photo, as the owner of all that was uploaded without an account."""
        token = self.command("default-account-tokens", "get").strip().splitlines()[-1]
        url = f"{self.api_url}/collections/{sequence}/items/{photo}"
        requests.delete(url, headers={"Authorization": f"Bearer {token}"}, timeout=_PATIENCE_S).raise_for_status()

    def _is_ready(self, sequence: str, photos: int) -> bool:
        url = f"{self.api_url}/collections/{sequence}/geovisio_status"
        status = requests.get(url, timeout=_PATIENCE_S).json()
        states = [item["status"] for item in status.get("items", [])]
        assert "broken" not in states, status
        return states == ["ready"] * photos and status["status"] == "ready"


def why_not() -> str | None:
    """Return what is missing to run a server here; None if nothing is."""
    if not (_venv() / "bin" / "flask").is_file():
        return f"GeoVisio is not in {_venv()} (make test-peers installs it)"
    if _postgres_bin() is None:
        return "PostgreSQL is not installed (Debian: postgresql-15-postgis-3)"
    return None


@contextmanager
def running() -> Iterator[GeoVisio]:
    """Start PostgreSQL and GeoVisio on free ports in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="geovisio-"))  # not pytest's: the user of PostgreSQL may not enter that
    try:
        with _postgres(folder / "postgres") as database_url:
            pictures = folder / "pictures"
            pictures.mkdir()
            port = _free_port()
            environment = {
                **os.environ,
                "FLASK_APP": "geovisio",
                "DB_URL": database_url,
                "FS_URL": str(pictures),
                "FLASK_SECRET_KEY": secrets.token_hex(),  # signs the tokens of accounts
                "API_PICTURES_LICENSE_SPDX_ID": LICENCE,
                "API_PICTURES_LICENSE_URL": "https://creativecommons.org/licenses/by-sa/4.0/",
            }
            flask = str(_venv() / "bin" / "flask")

            def command(*words: str) -> str:
                done = subprocess.run([flask, *words], env=environment, cwd=folder, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr[-6000:]
                return done.stdout

            command("db", "upgrade")
            with (folder / "geovisio.log").open("w") as log:
                server = subprocess.Popen(
                    [flask, "run", "--port", str(port)], env=environment, cwd=folder, stdout=log, stderr=log
                )
            try:
                api_url = f"http://127.0.0.1:{port}/api"
                _wait(lambda: server.poll() is not None or _answers(f"{api_url}/configuration"), "GeoVisio to answer")
                assert server.poll() is None, (folder / "geovisio.log").read_text()[-2000:]
                yield GeoVisio(api_url, command)
            finally:
                server.terminate()
                server.wait(_PATIENCE_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """Start a database server with an empty database that has PostGIS; yields its address."""
    programs = _postgres_bin()
    assert programs is not None
    folder.mkdir()
    user = None
    if os.geteuid() == 0:
        user = _POSTGRES_USER
        shutil.chown(folder, user)
        folder.parent.chmod(0o711)  # it must be able to pass through

    def run(program: str, *arguments: str) -> None:
        # No pipes: the server that pg_ctl leaves running would keep them open.
        with (folder / "tools.log").open("a") as log:
            subprocess.run([programs / program, *arguments], user=user, cwd=folder, check=True, stdout=log, stderr=log)

    port, data = _free_port(), str(folder / "data")
    run("initdb", "-D", data, "-U", "geovisio", "-A", "trust", "-E", "UTF8", "--no-sync")
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-t", str(int(_PATIENCE_S)), "-o", settings, "-l", str(folder / "log"), "start")
    try:
        address = ("-h", "127.0.0.1", "-p", str(port), "-U", "geovisio")
        run("createdb", *address, "geovisio")
        run("psql", *address, "-d", "geovisio", "-c", "CREATE EXTENSION IF NOT EXISTS postgis")
        yield f"postgres://geovisio@127.0.0.1:{port}/geovisio"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def _postgres_bin() -> Path | None:
    """Folder of the newest PostgreSQL's programs, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if os.geteuid() == 0 and _POSTGRES_USER not in {entry.pw_name for entry in pwd.getpwall()}:
        return None
    return found[-1].parent if found else None


def _venv() -> Path:
    return Path(os.environ.get(VENV_VARIABLE) or DEFAULT_VENV)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.RequestException:
        return False


def _wait(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"waited {_PATIENCE_S:.0f} s for {what}"
        time.sleep(0.3)
