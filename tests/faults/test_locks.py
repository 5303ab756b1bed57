"""Two commands with one output: the second one ends with a sentence, and the first one is not disturbed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.faults.commands import COMMANDS, Command, state
from tests.faults.runner import Runner, difference
from tests.faults.world import World

pytestmark = pytest.mark.faults
Count = Callable[[str, int, int], None]


def _stopped(pid_file: Path) -> int:
    """Wait until the process whose number is in a file has stopped itself, and return the number."""
    for _ in range(6000):
        if pid_file.is_file() and (text := pid_file.read_text()):
            status = Path(f"/proc/{text}/stat")
            if status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] == "T":
                return int(text)
        time.sleep(0.01)
    raise AssertionError(f"{pid_file} names no stopped process")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_second_command_is_told_that_the_first_one_writes(
    command: Command, world: World, runner: Runner, tmp_path_factory: pytest.TempPathFactory, count: Count
) -> None:
    base = tmp_path_factory.getbasetemp().resolve() / f"locks-{command.name.replace(' ', '-')}"
    command.prepare(world, whole := base.with_name(f"{base.name}-whole"))
    undisturbed = runner.run(command.words(world), whole)
    at = max(number for number, (kind, _) in enumerate(undisturbed.operations, 1) if kind == "rename")
    folder = base.with_name(f"{base.name}-shared")
    command.prepare(world, folder)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(runner.run, command.words(world), folder, stop=at)
        pid = _stopped(base.parent / f"{folder.name}.log.pid")
        try:
            # Its output goes elsewhere than that of the first one.
            second = runner.run(command.words(world), folder, log=base.parent / f"{folder.name}-second.log")
        finally:
            os.kill(pid, signal.SIGCONT)
        ended = first.result()
    right = ended.code == 0 and second.code == 1 and "another process" in second.err
    unlike = difference(state(whole), state(folder))
    count("locks", 1, int(right and not unlike))
    assert right, f"first: {ended}; second: {second}"
    assert not unlike, unlike
