"""The commands of the contract, through a real process, as another tool would run them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cellcode import __version__, integrity
from cellcode.cli import main
from cellcode.database import Database
from cellcode.database.store.layout import KIND
from cellcode.files import sampled_digest
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.simulation import Simulation


def cellcode(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from cellcode.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def test_the_recipe_from_the_command_line(town: Simulation, tmp_path: Path) -> None:
    """simulate, ingest, train, build, evaluate, locate and info, each on what the one before left."""
    config = Path(__file__).parents[2] / "configs" / "demo.yaml"
    cellcode("simulate", "--out", tmp_path / "w", "--size-km", 0.6, "--photos", 120, "--seed", 2)
    assert len(list((tmp_path / "w" / "photos").glob("*.jpg"))) == 120
    assert (tmp_path / "w" / "aerial.tif").is_file()
    assert (tmp_path / "w" / "truth.csv").is_file()
    cellcode("ingest", tmp_path / "w" / "truth.csv", "--out", tmp_path / "photos")
    small = ["--set", "training.epochs=1", "--set", "training.batch_size=16", "--set", "training.random_tiles=4"]
    trained = cellcode(
        "train", config, "--photos", tmp_path / "photos", "--aerial", tmp_path / "w" / "aerial.tif",
        "--out", tmp_path / "run", *small,
    )  # fmt: skip
    assert trained.stdout.strip() == str(tmp_path / "run")
    assert "training" in trained.stderr
    cellcode("build", tmp_path / "run", "--aerial", tmp_path / "w" / "aerial.tif", "--out", tmp_path / "town.cells")
    evaluated = cellcode("evaluate", tmp_path / "town.cells", tmp_path / "photos", "--out", tmp_path / "report")
    assert "recall@1 within" in evaluated.stdout
    for name in ("report.json", "report.html", "predictions.parquet"):
        assert (tmp_path / "report" / name).is_file()
    photo = tmp_path / "w" / "photos" / "000000.jpg"
    located = cellcode("locate", tmp_path / "town.cells", photo, "--top", 3, "--json")
    assert len(json.loads(located.stdout)["candidates"]) == 3
    assert set(json.loads(located.stdout)["search"]) == {"method", "cells", "exact", "scored_again", "missing"}
    for path in ("photos", "run", "town.cells", "w/aerial.tif"):
        assert len(cellcode("info", tmp_path / path).stdout.splitlines()) > 4


def test_a_database_is_cut_joined_compressed_and_compared(
    town_cells: Database,
    town_photos: PhotoTable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first command in a process of its own, the others as it would run them."""

    def run(*arguments: object) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert not stopped.value.code
        shown = capsys.readouterr()
        return shown.out.strip(), shown.err

    west, south, _, _ = town_cells.region_bounds
    lon = float(np.median(s2.cell_centers(town_cells.ids)[1]))
    box = f"{west - 0.01},{south - 0.01},{lon},{south + 0.1}"
    done = cellcode("clip", town_cells.folder, "--region", box, "--out", tmp_path / "west")
    assert done.stdout.strip() == str(tmp_path / "west")
    assert f"of {len(town_cells.ids)} cells; database" in done.stderr
    run("clip", town_cells.folder, "--region", f"not:{box}", "--out", tmp_path / "east")
    out, _ = run("merge", tmp_path / "west", tmp_path / "east", "--out", tmp_path / "whole")
    assert out == str(tmp_path / "whole")
    assert (tmp_path / "whole" / "codes.npy").read_bytes() == (town_cells.folder / "codes.npy").read_bytes()
    out, said = run("compress", tmp_path / "whole", "--bytes", 8, "--out", tmp_path / "packed")
    assert out == str(tmp_path / "packed")
    assert "8 bytes per code" in said
    out, _ = run("locate", tmp_path / "packed", town_photos.files[0], "--region", box, "--json")
    assert json.loads(out)["lon"] <= lon
    out, _ = run("info", town_cells.folder, tmp_path / "west")
    kept = len(Database.open(tmp_path / "west").ids)
    assert f"{kept} in both, {len(town_cells.ids) - kept} gone, 0 new" in out
    assert f"0 of {kept} differ" in out
    out, _ = run("info", tmp_path / "packed")
    assert "pq8x8" in out
    assert "the best cell is that of the float16 codes for" in out
    assert "compress of " in out
    out, _ = run("info", town_cells.folder, "--verify")
    assert "a score differs by at most" in out
    assert "a run and imagery" in out
    path = tmp_path / "west" / "codes.npy"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    manifest = json.loads((tmp_path / "west" / "manifest.json").read_text())
    manifest["files"]["codes.npy"]["sample"] = sampled_digest(path)
    KIND.write(tmp_path / "west" / "manifest.json", manifest)
    monkeypatch.setattr(integrity, "SMALL_BYTES", 1000)
    run("info", tmp_path / "west")
    with pytest.raises(SystemExit) as stopped:
        main(["info", str(tmp_path / "west"), "--verify"])
    assert stopped.value.code == 1
    assert "codes.npy is not the file that its manifest was written for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["clip", "{cells}", "--region", "10,10,11,11", "--out", "{tmp}/x"], 1, "lies in the region west 10"),
        (["clip", "{cells}", "--region", "cap:10,10", "--out", "{tmp}/x"], 2, "cap:LAT,LON,RADIUS_M"),
        (["clip", "{cells}", "--region", "10;10;11;11", "--out", "{tmp}/x"], 2, "'10;10;11;11' is neither"),
        (["clip", "{cells}", "--region", "cells:nonsense", "--out", "{tmp}/x"], 2, "nonsense"),
        (["clip", "{tmp}", "--region", "10,10,11,11", "--out", "{tmp}/x"], 1, "not a cell-code database"),
        (["merge", "{cells}", "--out", "{tmp}/x"], 1, "at least two databases"),
        (["merge", "{cells}", "{cells}", "--out", "{tmp}/x"], 1, "clip one of them"),
        (["compress", "{cells}", "--bytes", "5", "--out", "{tmp}/x"], 2, "32 take 1, 2, 4, 8, 16, 32 bytes, not 5"),
        (["info", "{cells}", "{tmp}"], 1, "not a cell-code database"),
        (
            ["build", "{run}", "--aerial", "{aerial}", "--reuse", "{tmp}", "--out", "{tmp}/x"],
            1,
            "not a cell-code database",
        ),
        (["build", "{run}", "--set", "build.shard_depth=0", "--out", "{tmp}/x"], 2, "build.shard_depth"),
        (["locate", "{cells}", "{photo}", "--region", "10,10,11,11"], 1, "lies in the region west 10"),
    ],
)
def test_what_cannot_be_done_to_a_database_is_one_sentence(
    arguments: list[str],
    status: int,
    words: str,
    town: Simulation,
    town_run: Run,
    town_cells: Database,
    town_photos: PhotoTable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {
        "tmp": tmp_path,
        "run": town_run.folder,
        "cells": town_cells.folder,
        "aerial": town.aerial_path,
        "photo": town_photos.files[0],
    }
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(**names) for argument in arguments])
    shown = capsys.readouterr()
    assert stopped.value.code == status
    assert words in shown.err
    assert shown.out == ""
    assert len([line for line in shown.err.splitlines() if line.startswith("cellcode: ")]) == 1
    assert not list(tmp_path.iterdir())


def test_one_unreadable_photo_gives_its_own_line_and_status_one(
    town_cells: Database, town_photos: PhotoTable, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    good = town_photos.files[:2]
    done = cellcode("locate", town_cells.folder, good[0], bad, good[1], "--json", check=1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(good[0]), str(bad), str(good[1])]
    assert set(lines[1]) == {"file", "error"}
    assert "lat" in lines[0]
    assert "lat" in lines[2]
    assert "Traceback" not in done.stderr


def test_locate_for_people_names_the_place(town_cells: Database, town_photos: PhotoTable) -> None:
    done = cellcode("locate", town_cells.folder, town_photos.files[0], "--top", 2)
    assert "half of such photos are within" in done.stdout
    assert "  2. " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["locate"],
        ["nonsense"],
        ["simulate", "--out", "x", "--size-km", "many"],
        ["train", "configs/demo.yaml", "--photos", "none", "--out", "x", "--set", "training.epoch=3"],
    ],
)
def test_bad_usage_exits_with_two(arguments: list[str]) -> None:
    done = cellcode(*arguments, check=2)
    assert "Traceback" not in done.stderr


def test_an_unknown_key_names_the_nearest() -> None:
    config = Path(__file__).parents[2] / "configs" / "demo.yaml"
    done = cellcode("train", config, "--photos", "none", "--out", "x", "--set", "training.epoch=3", check=2)
    assert "training.epochs" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "{tmp}/nothing", "--out", "{tmp}/x"], "not a finished run"),
        (["locate", "{tmp}/nothing", "photo.jpg"], "not a cell-code database"),
        (["evaluate", "{cells}", "{tmp}/nothing", "--out", "{tmp}/x"], "not a photo table"),
        (["ingest", "{tmp}/nothing", "--out", "{tmp}/x"], "does not exist"),
        (["build", "{run}", "--aerial", "{tmp}/nothing.tif", "--out", "{tmp}/x"], "does not exist"),
        (
            ["build", "{run}", "--aerial", "{aerial}", "--region", "10,10,11,11", "--out", "{tmp}/x"],
            "imagery covers none",
        ),
        (["info", "{tmp}"], "holds no photo table"),
    ],
)
def test_a_failure_is_one_sentence_and_status_one(
    arguments: list[str], words: str, town: Simulation, town_run: Run, town_cells: Database, tmp_path: Path
) -> None:
    names = {"tmp": tmp_path, "run": town_run.folder, "cells": town_cells.folder, "aerial": town.aerial_path}
    done = cellcode(*(argument.format(**names) for argument in arguments), check=1)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("cellcode: ")]) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = cellcode("info", tmp_path, "--debug", check=1)
    assert "Traceback" in done.stderr


def test_a_region_without_photos_is_said_before_any_work(town: Simulation, tmp_path: Path) -> None:
    done = cellcode("ingest", town.truth_path, "--out", tmp_path / "x", "--region", "10,10,11,11", check=1)
    assert "400 outside the region" in done.stderr
    assert not (tmp_path / "x").exists()


def test_bad_rows_of_a_csv_are_listed_with_their_line(town: Simulation, tmp_path: Path) -> None:
    shutil.copy(sorted(town.photos_dir.iterdir())[0], tmp_path / "a.jpg")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file", "lat", "lon"], ["a.jpg", 52.0, 3.0], ["b.jpg", 52.0, 3.0], ["a.jpg", 1, 2]]
        )
    done = cellcode("ingest", tmp_path / "list.csv", "--out", tmp_path / "table", "--split", "none")
    assert "2 rejected" in done.stderr
    with (tmp_path / "table" / "rejects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["line"] for row in rows] == ["3", "4"]


def test_the_python_recipe_imports_lazily() -> None:
    """`import cellcode` alone does not pay for torch."""
    code = "import sys, cellcode; print('torch' in sys.modules, callable(cellcode.Locator.open))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == __version__


def test_the_encoder_is_exported_for_openvino(town_cells: Database, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = cellcode("export", town_cells.folder, "--to", "openvino", "--uri", tmp_path / "encoder")
    assert Path(done.stdout.strip()).is_file()
    assert (tmp_path / "encoder" / "encoder.bin").is_file()
