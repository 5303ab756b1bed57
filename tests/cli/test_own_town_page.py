"""Every command of the tutorial is one that the program takes."""

import shlex
from pathlib import Path

import pytest
import typer.main

from cellcode import cli

PAGE = Path(__file__).parents[2] / "docs" / "own-town.md"
LINES = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("    cellcode ")]


def test_the_whole_way_is_on_the_page() -> None:
    verbs = [line.split()[1] for line in LINES]
    assert {"plan", "ingest", "presets", "train", "build", "evaluate", "locate", "serve"} <= set(verbs)


@pytest.mark.parametrize("line", LINES)
def test_command_of_the_page_is_understood(line: str) -> None:
    _, verb, *arguments = shlex.split(line.replace("$REGION", "1,2,3,4").replace("$AERIAL", "town.tif"))
    command = typer.main.get_command(cli.app).commands[verb]  # type: ignore[attr-defined]
    command.make_context(verb, arguments)  # raises what the program would say of an argument that it does not know


def test_files_of_the_page_exist() -> None:
    root = PAGE.parents[1]
    for line in LINES:
        for word in line.split():
            if word.startswith("configs/"):
                assert (root / word).is_file(), word
