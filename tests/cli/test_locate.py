"""cellcode locate of folders, to files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellcode import ingest
from cellcode.cli import main
from cellcode.database import Database
from cellcode.photos import PhotoTable, SplitRule


@pytest.fixture
def folder(town_photos: PhotoTable, tmp_path: Path) -> Path:
    """Photos in folders, and what is none: hidden, of another kind, behind a link."""
    top = tmp_path / "photos"
    (top / "below").mkdir(parents=True)
    (top / ".hidden").mkdir()
    data = [file.read_bytes() for file in town_photos.files[:3]]
    (top / "b.JPG").write_bytes(data[0])
    (top / "below" / "a.jpeg").write_bytes(data[1])
    for passed_over in (".hidden/c.jpg", ".d.jpg", "e.txt"):
        (top / passed_over).write_bytes(data[2])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f.jpg").write_bytes(data[2])
    (top / "linked.jpg").symlink_to(tmp_path / "elsewhere" / "f.jpg")
    (top / "folder").symlink_to(tmp_path / "elsewhere")
    return top


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["locate", *map(str, arguments)])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_a_folder_is_searched_for_what_ingest_would_take(
    town_cells: Database, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ingest(folder, out=tmp_path / "table", split=SplitRule(kind="none"))
    capsys.readouterr()
    status, out, err = run(capsys, town_cells.folder, folder, "--json")
    assert status == 0
    assert [Path(json.loads(line)["file"]).resolve() for line in out.splitlines()] == [
        file.resolve() for file in table.files
    ]
    assert len(table.files) == 4  # links are followed
    assert err.splitlines()[-1].endswith(" located 4 photos, 0 could not be read")


@pytest.mark.parametrize("ending", ["csv", "geojson", "parquet"])
def test_a_file_is_written_and_named(
    town_cells: Database, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    (folder / "bad.jpg").write_text("no photo")
    file = tmp_path / "new" / f"out.{ending}"
    status, out, err = run(capsys, town_cells.folder, folder, "--out", file, "--top", 2)
    assert (status, out) == (1, f"{file}\n")
    assert err.splitlines()[-1].endswith(" located 4 photos, 1 could not be read")
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_one_photo_is_printed_as_ever(
    town_cells: Database, town_photos: PhotoTable, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, town_cells.folder, town_photos.files[0], "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["file"] == str(town_photos.files[0])


def test_photos_together_to_a_file(
    town_cells: Database, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.jpg").write_text("no photo")
    status, _, err = run(capsys, town_cells.folder, folder, "--together", "--out", tmp_path / "out.csv")
    assert status == 1
    assert "located 4 photos, 1 could not be read" in err
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows[0]["file"].split("; ")) == 4
    assert "bad.jpg" in rows[1]["error"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--out", "{tmp}/out.json"], 2, "must end in .geojson, .csv or .parquet"),
        (["--out", "{tmp}/out.csv", "--json"], 2, "give one of them"),
        (["{tmp}/empty"], 1, "empty holds no photos"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    town_cells: Database, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], status: int, words: str,
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    ended, out, err = run(capsys, town_cells.folder, folder, *(each.format(tmp=tmp_path) for each in arguments))
    assert (ended, out) == (status, "")
    assert words in err.splitlines()[-1]
    assert all(line.endswith("3 files passed over: 2 hidden, 1 .txt") for line in err.splitlines()[:-1])
    assert sorted(tmp_path.iterdir()) == before


MANY = 1000  # photos: more than are located before the interruption
# A shell that starts the tests in the background lets them, and what they start, ignore SIGINT.
MAIN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from cellcode.cli import main; main()"


def test_ctrl_c_loses_nothing(town_cells: Database, town_photos: PhotoTable, tmp_path: Path) -> None:
    """A process that is interrupted in the middle, and the same command again."""
    out = tmp_path / "out.csv"
    many = tmp_path / "many"
    many.mkdir()
    for number in range(MANY):
        (many / f"{number:04}.jpg").symlink_to(town_photos.files[number % 100])
    command = [sys.executable, "-c", MAIN, "locate", str(town_cells.folder)]
    command += [str(many), "--out", str(out), "--top", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_one_thread())
    partial = Path(f"{out}.partial.jsonl")
    until = time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "the same command resumes" in said
    assert not out.exists()
    kept = len(partial.read_text().splitlines()) - 1
    assert 0 < kept < MANY
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_one_thread(), check=True)
    assert f"locating: {MANY - kept}/{MANY - kept}, {kept} more kept" in again.stderr
    assert not partial.exists()
    with out.open(newline="") as file:
        names = [Path(row["file"]).name for row in csv.DictReader(file)]
    assert names == [f"{number:04}.jpg" for number in range(MANY)]


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
