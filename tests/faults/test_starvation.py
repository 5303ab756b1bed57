"""Commands without room, rights, memory or file descriptors: one sentence, nothing half made, and fine when run again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.faults.commands import COMMANDS, Command, info_of, state
from tests.faults.runner import Outcome, Runner, difference
from tests.faults.world import World

pytestmark = pytest.mark.faults
Count = Callable[[str, int, int], None]
NOBODY = 65534
# Like others in all that matters here: what writes over an earlier output does what writes a new one does, too.
SELDOM = (
    "ingest a list", "ingest panoramas", "pack encoded again", "train", "train from packed photos", "build",
    "build that reuses tiles", "clip", "merge", "compress", "grow by photos", "export a table", "locate to CSV",
    "locate to GeoJSON",
)  # fmt: skip


@dataclass(frozen=True)
class Lack:
    """What is lacking.

    Attributes:
        request: of the child, see `zygote`.
        disk: size of the file system that the command writes to, as a share of what it writes; None: the usual one.
        causes: pattern of what the sentence may say.
    """

    name: str
    causes: str
    request: dict[str, Any] = field(default_factory=dict)
    disk: float | None = None
    read_only: bool = False

    def __str__(self) -> str:
        return self.name


THREADS = "|thread"  # what needs memory or a descriptor may be the start of one
FULL = r"(?i)no space left|full|room|space"
LACKS = (
    *(Lack(f"disk with {share:.0%} of the room", FULL, disk=share) for share in (0.05, 0.4, 0.75, 0.97)),
    *(Lack(f"no space from operation {n}", FULL, {"fail": ["ENOSPC", n]}) for n in (1, 4, 9)),
    *(Lack(f"quota from operation {n}", r"(?i)quota", {"fail": ["EDQUOT", n]}) for n in (2, 6)),
    Lack("input/output error", r"(?i)input/output", {"fail": ["EIO", 3]}),
    Lack("read-only file system", r"(?i)read-only", read_only=True),
    Lack("folder of somebody else", r"(?i)permission|not permitted|rights", {"uid": NOBODY}),
    *(Lack(f"file size limit {size}", r"(?i)file (too large|size)|limit", {"limits": {"FSIZE": size}}) for size in (600, 9000)),
    *(Lack(f"{mb} MB of memory", r"(?i)memory|allocate" + THREADS, {"limits": {"AS": mb << 20}}) for mb in (60, 200)),
    *(Lack(f"{count} file descriptors", r"(?i)too many (open )?files", {"limits": {"NOFILE": count}}) for count in (1, 4)),
)  # fmt: skip


def can_mount() -> bool:
    """Return True if this process may mount a file system; without it these cases are run by the shim alone."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


MOUNTS = can_mount()


@contextmanager
def disk(folder: Path, size_bytes: int, read_only: bool = False) -> Iterator[None]:
    """Let a folder be a file system of its own; what lies there is copied into it."""
    kept = folder.with_name(f"{folder.name}.kept")
    folder.rename(kept)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size_bytes, 8192)}", "tmpfs", folder], check=True)
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield
        shutil.rmtree(kept)
        if read_only:
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        shutil.copytree(folder, kept)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
        kept.rename(folder)


def pages(folder: Path) -> int:
    """Return the bytes that a folder takes on a file system with pages of 4 KiB."""
    return sum(4096 + -(-path.lstat().st_size // 4096) * 4096 for path in [folder, *folder.rglob("*")])


def written(folder: Path, command: Command) -> int:
    """Return the bytes that a command has written."""
    return pages(folder) - sum(pages(folder / name) for name in command.before if name != command.artefact)


def starve(lack: Lack, command: Command, world: World, runner: Runner, folder: Path, need: int) -> Outcome | None:
    """Run a command that lacks something; None: not to be had here."""
    command.prepare(world, folder)
    if lack.disk is not None or lack.read_only:
        if not MOUNTS:
            return None
        room = pages(folder) + int(need * (lack.disk or 1.0))
        with disk(folder, room, lack.read_only):
            return runner.run(command.words(world), folder, limit_s=60, **lack.request)
    return runner.run(command.words(world), folder, limit_s=60, **lack.request)


def judged(outcome: Outcome, lack: Lack) -> str:
    """Return what is wrong with how a starved command ended; empty if nothing is."""
    if outcome.code == 0:
        return ""
    if outcome.code in (-signal.SIGABRT, -signal.SIGSEGV) and "AS" in lack.request.get("limits", {}):
        return ""  # of a library; as after a kill, nothing half made may stay
    said = [line for line in outcome.err.splitlines() if "cellcode:" in line]
    if outcome.code != 1 or len(said) != 1 or "Traceback" in outcome.err:
        return f"ends badly: {outcome}"
    if "unexpected" in said[0] or not re.search(lack.causes, said[0]):
        return f"does not name the cause: {said[0]}"
    return ""


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.name not in SELDOM], ids=lambda each: each.name)
def test_starved_command_says_so_in_one_sentence_and_leaves_nothing_half_made(
    command: Command, world: World, runner: Runner, tmp_path_factory: pytest.TempPathFactory, count: Count
) -> None:
    base = tmp_path_factory.getbasetemp().resolve() / f"starved-{command.name.replace(' ', '-')}"
    for parent in (base.parent, base.parent.parent):  # for another user
        parent.chmod(0o755)
    whole = base.with_name(f"{base.name}-whole")
    command.prepare(world, whole)
    before = info_of(command, runner, whole) if command.artefact in command.before else None
    outcome = runner.run(command.words(world), whole)
    assert outcome.code == 0, outcome
    after = info_of(command, runner, whole)
    known = {each.out for each in (before, after) if each is not None}
    files, need = state(whole), written(whole, command)

    def attempt(item: tuple[int, Lack]) -> str | None:
        number, lack = item
        folder = base.with_name(f"{base.name}-{number:02d}")
        starved = starve(lack, command, world, runner, folder, need)
        if starved is None:
            return None
        if fault := judged(starved, lack):
            return f"{lack}: {fault}"
        seen = info_of(command, runner, folder)
        if seen is not None and seen.code == 0 and seen.out not in known:
            return f"{lack}: opens as neither the earlier nor the new one:\n{seen.out}"
        # A training writes in place: an earlier run is none once another has begun.
        keeps = before is not None and not command.name.startswith("train")
        if starved.code and keeps and (seen is None or seen.code):
            return f"{lack}: the earlier one does not open any more: {seen}"
        again = runner.run(command.words(world, again=True), folder)
        if again.code or again.hung:
            return f"{lack}: run again: {again}"
        unlike = difference(files, state(folder))
        return f"{lack}, run again: {unlike}" if unlike else ""

    results = [result for result in runner.map(attempt, enumerate(LACKS)) if result is not None]
    faults = [result for result in results if result]
    count("starvation", len(results), len(results) - len(faults))
    assert not faults, f"{len(faults)} of {len(results)}:\n" + "\n".join(faults)
