"""Files that are damaged: nobody gets an answer from them, or the same answer as before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.commands import COMMANDS, Command, state
from tests.faults.damage import ARTEFACTS, Artefact, attack, damages
from tests.faults.runner import Runner, difference
from tests.faults.world import World, draw

from cellcode.model.backbones import convolutional

pytestmark = pytest.mark.faults
FLIPS = 50  # random bits per small file
FILES = 16  # of unfinished work, at most
Count = Callable[[str, int, int], None]


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `zygote`."""
    monkeypatch.setattr(convolutional, "WIDTHS", (4, 6, 8))


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=str)
def test_damage_is_found_before_an_answer_or_changes_nothing(
    artefact: Artefact, world: World, tmp_path_factory: pytest.TempPathFactory, count: Count
) -> None:
    folder = tmp_path_factory.getbasetemp().resolve() / "damage" / artefact.name
    cases, faults = attack(artefact, world, folder, FLIPS)
    count("damage", cases, cases - len(faults))
    assert not faults, f"{len(faults)} of {cases}:\n" + "\n".join(faults[:40])


# What a killed command leaves to be resumed: the share of its operations after which it is killed.
RESUMED = {"train": 0.75, "train sharded prototypes": 0.75, "build": 0.6, "pack": 0.5, "locate to CSV": 0.6}


@pytest.mark.parametrize("name", RESUMED)
def test_what_is_resumed_is_checked_first(
    name: str, world: World, runner: Runner, tmp_path_factory: pytest.TempPathFactory, count: Count
) -> None:
    command = next(each for each in COMMANDS if each.name == name)
    base = tmp_path_factory.getbasetemp().resolve() / f"resumed-{name.replace(' ', '-')}"
    command.prepare(world, base)
    whole = runner.run(command.words(world), base)
    files = state(base)
    kill = ["any", round(len(whole.operations) * RESUMED[name])]
    left = base.with_name(f"{base.name}-left")
    command.prepare(world, left)
    assert runner.run(command.words(world), left, kill=kill).code == -9
    paths = [path for path in sorted(left.rglob("*")) if path.is_file() and path.stat().st_size]
    paths = draw(name).sample(paths, min(len(paths), FILES))
    cases = [
        (path.relative_to(left), kind, content)
        for path in paths
        for kind, content in damages(path, path.with_name("none"), 6, draw(f"{name}{path.name}"))
    ]

    def attempt(item: tuple[int, tuple[Path, str, bytes | None]]) -> str:
        number, (path, kind, content) = item
        folder = base.with_name(f"{base.name}-{number:04d}")
        shutil.copytree(left, folder)
        (folder / path).unlink()
        if content is not None:
            (folder / path).write_bytes(content)
        return resumed(f"{path}, {kind}", path, command, world, runner, folder, files)

    faults = [fault for fault in runner.map(attempt, enumerate(cases)) if fault]
    count("damage", len(cases), len(cases) - len(faults))
    assert not faults, f"{len(faults)} of {len(cases)}:\n" + "\n".join(faults[:40])


def resumed(
    what: str, path: Path, command: Command, world: World, runner: Runner, folder: Path, files: dict[str, str]
) -> str:
    """Run a command again after its unfinished work was damaged; return what went wrong."""
    again = runner.run(command.words(world, again=True), folder)
    shutil.rmtree(folder) if again.code else None
    if again.code == 1 and "unexpected" not in again.err and "Traceback" not in again.err:
        return "" if path.name in again.err or str(path.parent) in again.err else f"{what}: not named: {again}"
    if again.code or again.hung:
        return f"{what}: {again}"
    now = state(folder)
    shutil.rmtree(folder)
    log = [name for name in files if name.endswith("log.jsonl")]  # a note for people, not read again
    unlike = difference(files | dict.fromkeys(log, ""), now | dict.fromkeys(log, ""))
    return f"{what}: ends with exit 0 and {unlike}" if unlike else ""
