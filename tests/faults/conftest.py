from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults import world as worlds
from tests.faults.runner import Runner
from tests.faults.world import World

COUNTS = Path(os.environ.get("CELLCODE_FAULTS", "runs/faults.json"))
Count = Callable[[str, int, int], None]


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    with Runner(int(os.environ.get("CELLCODE_FAULTS_PROCESSES", "2"))) as found:
        yield found


@pytest.fixture(scope="session")
def world(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> World:
    return worlds.make(tmp_path_factory.getbasetemp().resolve() / "world", runner)


@pytest.fixture(scope="session")
def count() -> Count:
    """Note how many cases of a kind were tried and survived, for docs/reliability.md."""
    mine: dict[str, list[int]] = {}

    def note(kind: str, cases: int, survived: int) -> None:
        sums = mine.setdefault(kind, [0, 0])
        sums[0] += cases
        sums[1] += survived
        COUNTS.parent.mkdir(parents=True, exist_ok=True)
        with COUNTS.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            known: dict[str, Any] = json.loads(file.read() or "{}")
            known[kind] = {"cases": sums[0], "survived": sums[1]}
            file.truncate(0)
            file.write(json.dumps(known, indent=2, sort_keys=True) + "\n")

    return note
