"""A part of the fault tests for every run of the suite; `make test-faults` has the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.faults.commands import state
from tests.faults.damage import Artefact, attack, use_database, use_run, use_table
from tests.faults.runner import Runner, difference
from tests.faults.world import SPLIT, World

from cellcode.database import Database
from cellcode.runs import Run
from cellcode.simulation import Simulation


@pytest.mark.parametrize(("name", "use"), [("table", use_table), ("run", use_run), ("town.cells", use_database)])
def test_damage_is_found_before_an_answer(
    name: str, use: object, town: Simulation, town_run: Run, town_cells: Database, tmp_path: Path
) -> None:
    (tmp_path / "queries").mkdir()
    shutil.copy(town.photos_dir / "000000.jpg", tmp_path / "queries")
    shutil.copytree(town.out / name, tmp_path / name, ignore=shutil.ignore_patterns("checkpoint"))
    artefact = Artefact(name, "none", use, r"(rejects\.csv|log\.jsonl)$")  # type: ignore[arg-type]
    cases, faults = attack(artefact, World(tmp_path, (0, 0)), tmp_path / "attacked", flips=1)
    assert cases > 10
    assert not faults


def test_killed_ingest_run_again_gives_the_same_table_and_leaves_nothing(town: Simulation, tmp_path: Path) -> None:
    words = ["ingest", town.truth_path, "--check", "header", "--out", "out", *SPLIT]
    base = tmp_path.resolve()
    with Runner(1) as runner:
        (base / "whole").mkdir()
        whole = runner.run(words, base / "whole")
        assert whole.code == 0, whole
        renames = sum(kind == "rename" for kind, _ in whole.operations)
        for number in {1, (renames + 1) // 2, renames}:
            folder = base / f"killed-{number}"
            folder.mkdir()
            assert runner.run(words, folder, kill=["rename", number]).code == -9
            again = runner.run(words, folder)
            assert again.code == 0, again
            assert not difference(state(base / "whole"), state(folder))
