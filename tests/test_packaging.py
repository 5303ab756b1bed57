"""What stands around the package: the container's recipe, the examples. No Docker here: its parts are tested."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cellcode.database import Database
from cellcode.photos import PhotoTable

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of each line of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")]


def test_what_the_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, arguments in instructions():
        if name == "COPY" and "--from=" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored
    assert "*" in ignored


def test_the_version_stands_in_one_place() -> None:
    """`cellcode.__version__` alone: the package's description refers to it, and no other file repeats it."""
    import cellcode

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cellcode.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", cellcode.__version__)
    assert f"[{cellcode.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_container_runs_as_nobody_in_particular_and_starts_the_service() -> None:
    found = dict(instructions())  # of several of a kind, the last, which is the one that counts
    assert found["USER"] not in ("0", "root")
    entry = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    assert entry[:3] == ["cellcode", "serve", "/db"]
    from typer.main import get_command

    from cellcode.cli import app

    service = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = service.make_context("serve", entry[2:]).params
    assert (str(given["database"]), given["host"], given["port"]) == ("/db", "0.0.0.0", 8000)
    assert found["EXPOSE"] == str(given["port"])


@pytest.mark.parametrize("status", [200, 503])
def test_the_health_check_tells_a_ready_service(status: int) -> None:
    check = json.loads(dict(instructions())["HEALTHCHECK"].split("CMD", 1)[1])
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        code = check[-1].replace(":8000", f":{server.server_port}")
        done = subprocess.run([sys.executable, *check[1:-1], code], capture_output=True, timeout=60, check=False)
        thread.join(timeout=60)
    assert asked == ["/readyz"]
    assert (done.returncode == 0) == (status == 200)


def test_the_notebook_runs_from_top_to_bottom(
    town_cells: Database, town_photos: PhotoTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    monkeypatch.setenv("CELLCODE_WORLD", str(town_cells.folder.parent))
    notebook = json.loads((ROOT / "examples" / "locate.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), f"cell {cell['id']}", "exec"), names)
    said = capsys.readouterr().out
    assert f"{len(town_cells.ids)} cells" in said
    assert said.count("from the truth") == 6
    names["plt"].close("all")


def test_the_short_example_prints_a_place(town_cells: Database, town_photos: PhotoTable) -> None:
    command = [sys.executable, str(ROOT / "examples" / "locate.py"), str(town_cells.folder), str(town_photos.files[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert re.match(r"-?\d+\.\d{5}, -?\d+\.\d{5}: half", done.stdout)


def test_commands_of_the_documents_parse() -> None:
    """Every `cellcode` line of the two documents names a command and options that exist."""
    from typer.main import get_command

    from cellcode.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    found = 0
    for name in ("serving.md", "responsible-use.md"):
        for line in (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True) if part.strip().startswith("cellcode ") else []
                if words:
                    commands[words[1]].make_context(words[1], words[2:])
                    found += 1
    assert found >= 5
