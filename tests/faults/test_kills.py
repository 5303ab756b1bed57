"""Commands that are killed, and run again: the same bytes as without a kill, and nothing left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.faults.commands import COMMANDS, Command, info_of, state
from tests.faults.runner import Runner, difference
from tests.faults.world import World, draw

pytestmark = pytest.mark.faults
RENAMES, OTHERS, MOMENTS = 5, 3, 2  # kills of each kind per command, at most
Count = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Undisturbed:
    """What a command leaves that nothing interrupts."""

    files: dict[str, str]
    earlier: dict[str, str]
    info: str
    info_before: str
    seconds: float
    operations: list[tuple[str, str]]


def _undisturbed(command: Command, world: World, runner: Runner, folder: Path) -> Undisturbed:
    command.prepare(world, folder)
    before = info_of(command, runner, folder) if command.artefact in command.before else None
    earlier = state(folder)
    outcome = runner.run(command.words(world), folder)
    assert outcome.code == 0, outcome
    files = state(folder)
    hidden = [name for name in files if any(part.startswith(".") for part in Path(name).parts)]
    assert not hidden, f"left over by an undisturbed run: {hidden}"
    after = info_of(command, runner, folder)
    assert after is None or after.code == 0, after
    assert state(folder) == files
    return Undisturbed(
        files, earlier, after.out if after else "", before.out if before else "", outcome.seconds, outcome.operations
    )


def _spread(numbers: list[int], most: int) -> list[int]:
    if len(numbers) <= most:
        return numbers
    return [numbers[round(i * (len(numbers) - 1) / (most - 1))] for i in range(most)]


def _kills(command: Command, whole: Undisturbed) -> list[dict[str, Any]]:
    """Choose where to kill: before and after renames, at operations spread over the run, and at random moments."""
    renames = sum(kind == "rename" for kind, _ in whole.operations)
    chosen = draw(command.name)
    kills: list[dict[str, Any]] = [{"kill": ["rename", n]} for n in _spread(list(range(1, renames + 1)), RENAMES)]
    after = [
        n + 2 for n, (kind, _) in enumerate(whole.operations) if kind == "rename" and n + 2 <= len(whole.operations)
    ]
    others = sorted({*_spread(after, OTHERS), *_spread(list(range(1, len(whole.operations) + 1)), OTHERS)})
    kills += [{"kill": ["any", n]} for n in others]
    return kills + [{"kill_after_s": whole.seconds * chosen.uniform(0.05, 1.0)} for _ in range(MOMENTS)]


def _survives(
    kill: dict[str, Any], command: Command, whole: Undisturbed, world: World, runner: Runner, folder: Path
) -> str:
    """Kill, look, run again; return what went wrong, empty if nothing did."""
    command.prepare(world, folder)
    first = runner.run(command.words(world), folder, **kill)
    if first.code not in (0, -9) or first.hung:
        return f"{kill}: the first run: {first}"
    if (seen := info_of(command, runner, folder)) is not None:
        if seen.code == 0 and seen.out not in (whole.info, whole.info_before):
            return f"{kill}: opens as neither the earlier nor the new one:\n{seen.out}"
        if seen.code not in (0, 1, 2) or "unexpected" in seen.err or "Traceback" in seen.err:
            return f"{kill}: info after the kill: {seen}"
    elif command.before and not command.argv.startswith("simulate"):
        now = state(folder)
        name = next(iter(command.before))
        if now.get(name) not in (whole.earlier[name], whole.files[name]):
            return f"{kill}: {name} is neither the earlier nor the new one"
    second = runner.run(command.words(world, again=True), folder)
    if second.code != 0 or second.hung:
        return f"{kill}: run again: {second}"
    if unlike := difference(whole.files, state(folder)):
        return f"{kill} ({_place(kill, whole)}): {unlike}"
    return ""


def _place(kill: dict[str, Any], whole: Undisturbed) -> str:
    if "kill" not in kill:
        return f"of {whole.seconds:.2f} s"
    kind, number = kill["kill"]
    found = [each for each in whole.operations if kind in ("any", each[0])]
    return " ".join(found[number - 1]) if number <= len(found) else "after the end"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_killed_command_run_again_ends_with_the_same_bytes_and_nothing_left_over(
    command: Command, world: World, runner: Runner, tmp_path_factory: pytest.TempPathFactory, count: Count
) -> None:
    base = tmp_path_factory.getbasetemp().resolve() / f"kills-{command.name.replace(' ', '-')}"
    # As deep as a folder of the world's neighbours: tables hold relative paths.
    whole = _undisturbed(command, world, runner, base.with_name(f"{base.name}-undisturbed"))
    kills = _kills(command, whole)

    def attempt(item: tuple[int, dict[str, Any]]) -> str:
        number, kill = item
        return _survives(kill, command, whole, world, runner, base.with_name(f"{base.name}-{number:03d}"))

    faults = [fault for fault in runner.map(attempt, enumerate(kills)) if fault]
    count("kills", len(kills), len(kills) - len(faults))
    assert not faults, f"{len(faults)} of {len(kills)} kills:\n" + "\n".join(faults[:12])
