"""`cellcode ingest` as it is typed."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellcode.cli import main
from cellcode.photos import IngestOptions, PhotoTable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    for name in "ab":
        Image.fromarray(noise).save(tmp_path / f"{name}.jpg")
    (tmp_path / "list.csv").write_text("Photo,Y,X,captured_at\na.jpg,48,2,2024-05-31T23:30\nb.jpg,48,2,2024-06-01\n")
    return tmp_path


def _run(*words: object, status: int = 0) -> None:
    """Run the command line in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == status


def test_columns_dates_and_checks_are_taken_from_the_command_line(folder: Path) -> None:
    names = ("--column", "lat=Y", "--column", "lon=X")
    options = ("--until", "2024-05-31", "--check", "header", "--split", "none")
    _run("ingest", folder / "list.csv", "--out", folder / "table", *names, *options)
    assert PhotoTable.load(folder / "table").column("file") == ["a.jpg"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--column", "lat=Z"], 1, "has no column 'Z'"),
        (["--column", "latt=Y"], 2, "did you mean 'lat'"),
        (["--column", "lat"], 2, "write NAME=COLUMN"),
        (["--check", "all"], 2, "check is 'all': input should be 'decode', 'header' or 'none'"),
        (["--since", "yesterday"], 2, "write a date such as 2024-05-31"),
        (["--panoramas", "4,90"], 2, "write COUNT,FOV,PITCH"),
        (["--panoramas", "4,90,0"], 2, "panoramas is set, which has no meaning for"),
        (["--allow-missing", "2"], 2, "allow_missing is 2.0: input should be less than or equal to 1"),
        (["--buffer-m", "5"], 2, "need --split"),
        (["--max-photos", "0"], 2, "max_photos is 0: input should be greater than or equal to 1"),
    ],
)
def test_bad_usage_is_one_sentence(
    words: list[str], status: int, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("ingest", folder / "list.csv", "--out", folder / "table", *words, status=status)
    assert says in (said := capsys.readouterr().err)
    assert len([line for line in said.splitlines() if line.startswith("cellcode: ")]) == 1
    assert not (folder / "table").exists()


def test_a_date_means_all_of_its_day() -> None:
    assert IngestOptions(since="2024-05-31").since == datetime(2024, 5, 31)
    assert IngestOptions(until="2024-05-31").until == datetime(2024, 5, 31, 23, 59, 59, 999_999)
    assert IngestOptions(until="2024-05-31T12:00+02:00").until == datetime(2024, 5, 31, 10)
    assert IngestOptions().until is None


def test_nobody_is_asked_where_there_is_no_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def much(source: object, *, options: IngestOptions, **_: object) -> None:
        asked.append(options.confirm("Go on?"))

    monkeypatch.setattr("cellcode.photos.ingest", much)
    monkeypatch.setattr("sys.stdin", (folder / "list.csv").open())
    _run("ingest", folder / "list.csv", "--out", folder / "table")
    _run("ingest", folder / "list.csv", "--out", folder / "table", "--yes")
    assert asked == [False, True]


def test_ingesting_does_not_wait_for_torch() -> None:
    code = "import sys; from cellcode.photos import ingest; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
