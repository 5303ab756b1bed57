"""The recipe: five lines of Python, as they stand in the documents, and the same on the command line."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tests.conftest import reseal

import cellcode
from cellcode.cli import main
from cellcode.database import Database
from cellcode.integrity import describe
from cellcode.runs import Run
from cellcode.runs import run as runs
from cellcode.simulation import Simulation

README = Path(__file__).parents[1] / "README.md"
CONFIG = """
extends: demo
name: town
training: {epochs: 1, batch_size: 16, random_tiles: 4}
"""


def lines_of(text: str) -> list[str]:
    """The import and the five lines, from the docstring of the package or a document."""
    names = "photos|run|cells|answer|report"
    return re.findall(rf"^    ((?:{names}) +=.*)$", text, re.M)[:5]


@pytest.fixture
def place(town: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the five lines name."""
    shutil.copytree(town.photos_dir, tmp_path / "my_photos")
    shutil.copy(town.aerial_path, tmp_path / "town.tif")
    shutil.copy(sorted(town.photos_dir.iterdir())[7], tmp_path / "photo.jpg")
    (tmp_path / "configs").mkdir()
    for name in ("town", "demo"):
        (tmp_path / "configs" / f"{name}.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(arguments))
    shown = capsys.readouterr()
    assert not ended.value.code, shown.err
    return shown.out


def test_the_five_lines_answer_as_the_five_commands_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cellcode.__doc__ is not None
    lines = lines_of(cellcode.__doc__)
    assert [line.split()[0] for line in lines] == ["photos", "run", "cells", "answer", "report"]
    names: dict[str, Any] = {name: getattr(cellcode, name) for name in cellcode.__all__}
    exec("\n".join(lines), names)
    answer, report = names["answer"].to_json(), names["report"].values

    _run("ingest my_photos/ --out cli/photos", capsys)
    _run("train configs/town.yaml --photos cli/photos --aerial town.tif --out cli/run", capsys)
    _run("build cli/run --aerial town.tif --out cli/town.cells", capsys)
    located = json.loads(_run("locate cli/town.cells photo.jpg --json", capsys))
    _run("evaluate cli/town.cells cli/photos --out cli/report", capsys)
    assert located == answer
    assert (place / "cli/town.cells/codes.npy").read_bytes() == (place / "town/town.cells/codes.npy").read_bytes()
    measured = json.loads((place / "cli/report/report.json").read_text())
    assert measured["systems"]["hybrid"]["recall"] == report["systems"]["hybrid"]["recall"]


def test_the_readme_has_the_same_five_lines() -> None:
    assert cellcode.__doc__ is not None
    shown = lines_of(README.read_text(encoding="utf-8"))
    assert [line.split("(")[0] for line in shown] == [line.split("(")[0] for line in lines_of(cellcode.__doc__)]


def test_every_name_of_the_recipe_is_exported() -> None:
    steps = {"ingest", "train", "build", "locate", "evaluate", "simulate"}
    things = {"AerialSource", "Answer", "Config", "Database", "Locator", "PhotoTable", "Region", "Run", "open_source"}
    errors = {name for name in cellcode.__all__ if name.endswith("Error")}
    assert set(cellcode.__all__) == steps | things | errors
    assert all(issubclass(getattr(cellcode, name), Exception) for name in errors)
    assert all(getattr(cellcode, name) is not None for name in cellcode.__all__)


def _allowed(function: Callable[..., Any], name: str) -> set[str]:
    """The classes that an argument takes."""
    found = get_type_hints(function, include_extras=False)[name]
    return {each.__name__ for each in getattr(found, "__args__", (found,))}


@pytest.mark.parametrize("step", ["ingest", "train", "build", "locate", "evaluate"])
def test_arguments_of_one_name_take_the_same_everywhere(step: str) -> None:
    function = getattr(cellcode, step)
    expected = {
        "region": {"Region", "Path", "str", "NoneType"},
        "aerial": {"AerialSource", "Path", "str", "NoneType"},
        "photos": {"PhotoTable", "Path", "str"},
        "out": {"Path", "str"},
        "cells": {"Database", "Path", "str"},
        "run": {"Run", "Path", "str"},
        "machine": {"MachineConfig", "NoneType"},
    }
    for name in inspect.signature(function).parameters:
        if name in expected:
            assert _allowed(function, name) - {"NoneType"} == expected[name] - {"NoneType"}, name


def test_a_run_of_another_machine_builds_here(
    town: Simulation, town_run: Run, town_cells: Database, tmp_path: Path
) -> None:
    """Earlier versions saved the device with a run; a run trained on CUDA is one like any other."""
    folder = tmp_path / "run"
    shutil.copytree(town_run.folder, folder)
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert "machine" not in text
    text = text.replace("training:\n", "training:\n  device: cuda\n  precision: bfloat16\n")
    path.write_text(text + "machine: {device: cuda, threads: 7}\n", encoding="utf-8")
    reseal(folder, identity=runs._identity(describe(folder, runs.DEFINING)))
    cells = cellcode.build(folder, town.aerial_path, out=tmp_path / "cells")
    assert (cells.folder / "codes.npy").read_bytes() == (town_cells.folder / "codes.npy").read_bytes()
    assert "machine" not in (cells.folder / "config.yaml").read_text()


@pytest.mark.parametrize("verb", ["train", "build", "evaluate", "locate", "serve", "grow"])
def test_a_device_that_is_not_there_is_one_sentence(
    verb: str,
    town: Simulation,
    town_run: Run,
    town_cells: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    table = town.out / "table"
    arguments = {
        "train": ["demo", "--photos", table, "--aerial", town.aerial_path, "--out", tmp_path / "x"],
        "build": [town_run.folder, "--aerial", town.aerial_path, "--out", tmp_path / "x"],
        "evaluate": [town_cells.folder, table, "--out", tmp_path / "x"],
        "locate": [town_cells.folder, next(town.photos_dir.iterdir())],
        "serve": [town_cells.folder, "--port", 0],
        "grow": [town_cells.folder, "--photos", table, "--out", tmp_path / "x"],
    }[verb]
    with pytest.raises(SystemExit) as ended:
        main([verb, *map(str, arguments), "--device", "cuda"])
    assert ended.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cellcode: ")]
    assert len(errors) == 1
    assert errors[0].startswith("cellcode: this machine has no device cuda; choose --device auto or one of: ")


def test_devices_and_precisions_are_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, value in (("--device", "gpu"), ("--precision", "float8")):
        with pytest.raises(SystemExit) as ended:
            main(["train", "demo", "--photos", "p", "--out", "x", flag, value])
        assert ended.value.code == 2
