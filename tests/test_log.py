"""What the library logs, and where the command line shows it."""

from __future__ import annotations

import ast
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellcode import log, progress
from cellcode.cli import main
from cellcode.database import Database
from cellcode.progress import Meter

SOURCE = Path(log.__file__).parent
STAMPED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
logger = logging.getLogger("cellcode.tests")

SCRIPT = """
import logging, sys
from cellcode import log, progress
from cellcode.progress import Meter
with log.installed(sys.argv[1], quiet=sys.argv[2] == "quiet"):
    with Meter("reading photos", 3) as meter:
        for number in range(3):
            meter.note(f"photo {number}")
            meter.advance()
            print(f"result {number}", flush=True)
        with Meter("a bar in a bar", 1) as inner:
            inner.advance()
        logging.getLogger("cellcode.tests").info("[bold]3 photos[/bold] read :smile:")
        logging.getLogger("cellcode.tests").warning("look at this")
"""


def test_nothing_outside_the_command_line_prints() -> None:
    """The handler of the log is where messages leave the package."""
    printing = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE)
        if place.parts[0] != "cli" and place != Path("log.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                    printing.append(f"{place}:{node.lineno}")
    assert printing == []


def test_importing_the_library_installs_no_handler() -> None:
    code = (
        "import logging, cellcode; from cellcode import build, evaluate, ingest, locate, train;"
        "print(logging.getLogger('cellcode').handlers, logging.getLogger().handlers, logging.getLogger('cellcode').level)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]", "0"]


def test_nothing_of_a_command_stays_behind(capsys: pytest.CaptureFixture[str]) -> None:
    named = [logging.getLogger(name) for name in log.NAMES]
    before = [(list(each.handlers), each.level) for each in named]
    for arguments in (["presets", "--quiet", "--log-format", "json"], ["info", "absent"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert [(list(each.handlers), each.level) for each in named] == before


def test_lines_carry_the_time_and_mark_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with log.installed():
        logger.info("3 photos read")
        logger.warning("1 photo is damaged")
        logger.debug("not shown")
    lines = capsys.readouterr().err.splitlines()
    assert all(STAMPED.match(line) for line in lines)
    assert [STAMPED.sub("", line) for line in lines] == ["3 photos read", "warning: 1 photo is damaged"]


def test_quiet_leaves_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    with log.installed(quiet=True):
        logger.info("3 photos read")
        logger.warning("1 photo is damaged")
        with Meter("reading", 1) as meter:
            meter.advance()
    assert capsys.readouterr().err.splitlines()[0].endswith("warning: 1 photo is damaged")


def test_json_lines_parse_and_hold_the_figures_of_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with log.installed("json"):
        with Meter("reading photos", 2) as meter:
            meter.note('a "quoted" note')
            meter.advance(2)
        try:
            raise ValueError("lost")
        except ValueError:
            logger.exception("failed")
    done, failed = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert {name: done[name] for name in ("level", "logger", "task", "done", "total")} == {
        "level": "info", "logger": "cellcode.progress", "task": "reading photos", "done": 2, "total": 2,
    }  # fmt: skip
    assert done["message"].startswith('reading photos: 2/2, a "quoted" note, ')
    assert done["time"].endswith("+00:00")
    assert failed["level"] == "error"
    assert "ValueError: lost" in failed["traceback"]


def test_progress_without_a_terminal_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Meter("encoding", 100) as meter:
        for _ in range(100):
            now += 0.5
            meter.advance()
    assert caplog.messages == [
        "encoding: 21/100, 40 s left",
        "encoding: 42/100, 29 s left",
        "encoding: 63/100, 18 s left",
        "encoding: 84/100, 8 s left",
        "encoding: 100/100, 50 s",
    ]


def _on_a_terminal(*arguments: str) -> tuple[str, str]:
    """Run the script with stderr on a terminal; return what it wrote to stdout and to the terminal."""
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and select.select([ours], [], [], 60)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux reports the end of a terminal as an error
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = started.communicate(timeout=60)
    return out, shown.decode()


def test_on_a_terminal_progress_is_a_bar_and_results_stay_on_stdout() -> None:
    out, shown = _on_a_terminal("text", "loud")
    assert out == "result 0\nresult 1\nresult 2\n"
    assert "reading photos" in shown
    assert "3/3" in shown
    assert "━" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).splitlines()
    assert "[bold]3 photos[/bold] read :smile:" in plain
    assert "warning: look at this" in plain
    assert not any(STAMPED.match(line) for line in plain)


def test_on_a_terminal_quiet_draws_no_bar_and_json_stays_json() -> None:
    out, shown = _on_a_terminal("text", "quiet")
    assert out.count("result") == 3
    assert shown.split() == ["warning:", "look", "at", "this"]
    _, shown = _on_a_terminal("json", "loud")
    assert [json.loads(line)["level"] for line in shown.splitlines()] == ["info", "info", "warning", "info"]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_options_of_the_log_work_behind_any_command(
    place: int, town_cells: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = ",".join(f"{value:.6f}" for value in town_cells.region_bounds)
    command = ["clip", str(town_cells.folder), "--region", bounds, "--out", str(tmp_path / "part")]

    def run(*flags: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*command[:place], *flags, *command[place:]] if place < 3 else [*command, *flags])
        assert not ended.value.code
        shown = capsys.readouterr()
        return shown.out.strip(), shown.err

    out, messages = run()
    assert out == str(tmp_path / "part")
    assert STAMPED.match(messages)
    assert " cells; database " in messages
    assert run("--quiet") == (out, "")
    _, messages = run("--log-format", "json")
    assert " cells; database " in json.loads(messages.splitlines()[-1])["message"]


def test_an_error_is_one_sentence_as_text_and_one_object_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "absent", "--quiet"])
    said = "cellcode: absent holds no photo table, packed photos, run or database"
    assert capsys.readouterr().err == f"{said}\n"
    with pytest.raises(SystemExit):
        main(["info", "absent", "--log-format=json"])
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["message"]) == ("error", said)


def test_an_unknown_format_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["presets", "--log-format", "xml"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("cellcode: --log-format: invalid choice: 'xml'")
