"""Stages of a long experiment: each a function, a key and a folder, run side by side in processes of one thread.

A stage that finished with the same key is not run again, so an interrupted experiment resumes. The key holds what a result
depends on but for the code itself: the stage's arguments, the keys of the stages it needs, and the version of cellcode. A
result under another key is never read. A digest of the code is kept with each result, so that the page can report when its
parts were made by different code; whoever changes what a stage does raises its `version`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import cellcode
from cellcode import log
from cellcode.errors import CellcodeError
from cellcode.files import read_json, write_json

logger = logging.getLogger(__name__)
RESULT = "result.json"
STARTED = "started.json"
LOG = "log.txt"


@dataclass(frozen=True)
class Stage:
    """A piece of work.

    Attributes:
        name: of its folder.
        work: called with the stage's folder, the folders of `needs` by name, and `arguments`; returns what result.json keeps.
        arguments: JSON-like keyword arguments of `work`.
        needs: stages that come first.
        version: raised when `work` changes what it does.
        alone: it uses all cores itself, so nothing runs beside it.
        cost: a guess of its seconds; long stages start first.
    """

    name: str
    work: Callable[..., dict[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[Stage, ...] = ()
    version: int = 1
    alone: bool = False
    cost: float = 20.0

    @property
    def key(self) -> str:
        """Hex digest of what the result depends on."""
        parts = [self.name, self.arguments, [stage.key for stage in self.needs], self.version, cellcode.__version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Done:
    """A finished stage.

    Attributes:
        folder: what it left.
        values: what its work returned.
        seconds: how long it took, over all attempts.
        source: digest of the code that made it.
    """

    folder: Path
    values: dict[str, Any]
    seconds: float
    source: str


def run(stages: Sequence[Stage], out: Path, workers: int | None = None) -> dict[str, Done | str]:
    """Run stages, and those they need, that have not finished yet.

    One that fails costs itself and those that need it; the others are still run.

    Args:
        out: one folder a stage.
        workers: processes; None: one a core.

    Returns:
        By name, the finished stage or the sentence that says why it failed.
    """
    pending = _with_needs(stages)
    results: dict[str, Done | str] = {}
    for stage in list(pending.values()):
        if (done := finished(stage, out)) is not None:
            results[stage.name] = done
            del pending[stage.name]
    if results:
        logger.info("%d stages had finished before", len(results))
    source = source_digest()
    total, began, spent = sum(stage.cost for stage in pending.values()), time.monotonic(), 0.0
    workers = workers or os.cpu_count() or 1
    running: dict[Future[Done | str], Stage] = {}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([stage.work.__module__ for stage in pending.values()])  # imported once, not by each
    # One process per stage: what it leaves in memory dies with it.
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        while pending or running:
            _give_up(pending, results)
            for stage in _ready(pending, results, [*running.values()], workers):
                running[pool.submit(_run_one, stage, out, workers if stage.alone else 1, source)] = stage
                del pending[stage.name]
            if not running:
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                stage = running.pop(future)
                results[stage.name] = outcome = _outcome(future)
                spent += stage.cost
                elapsed_s = time.monotonic() - began
                _report(stage, outcome, len(pending) + len(running), elapsed_s / spent * (total - spent))
    return results


def source_digest() -> str:
    """Return a digest of the code of the package and of the experiments."""
    folders = Path(cellcode.__file__).parent, Path(__file__).parent
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _outcome(future: Future[Done | str]) -> Done | str:
    try:
        return future.result()
    except BrokenProcessPool:  # killed, as for want of memory: the pool takes no more work
        raise CellcodeError("the process of a stage was killed; start again, what has finished is kept") from None


def finished(stage: Stage, out: Path) -> Done | None:
    """Return the result of a stage if it finished with the same key."""
    path = out / stage.name / RESULT
    if not path.is_file():
        return None
    kept = read_json(path)
    if not isinstance(kept, dict) or kept.get("key") != stage.key:
        return None
    return Done(out / stage.name, kept["values"], kept["seconds"], kept.get("source", ""))


def _with_needs(stages: Sequence[Stage]) -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for stage in stages:
        found |= _with_needs(stage.needs)
        found[stage.name] = stage
    return found


def _give_up(pending: dict[str, Stage], results: dict[str, Done | str]) -> None:
    """Drop stages that need one that failed."""
    for stage in list(pending.values()):
        failed = [need.name for need in stage.needs if isinstance(results.get(need.name), str)]
        if failed:
            results[stage.name] = f"needs {failed[0]}, which failed"
            del pending[stage.name]


def _ready(
    pending: dict[str, Stage], results: dict[str, Done | str], running: list[Stage], workers: int
) -> list[Stage]:
    """Stages to start now, the longest first."""
    free = workers - len(running)
    if free <= 0 or any(stage.alone for stage in running):
        return []
    able = [stage for stage in pending.values() if all(need.name in results for need in stage.needs)]
    able.sort(key=lambda stage: -stage.cost)
    alone = [stage for stage in able if stage.alone]
    if alone:
        return alone[:1] if not running else []
    return able[:free]


def _run_one(stage: Stage, out: Path, threads: int, source: str) -> Done | str:
    """Run a stage in a process of its own; what it logs and prints goes to log.txt."""
    log.install()
    folder, started = out / stage.name, time.monotonic()
    torch.set_num_threads(threads)
    before = _prepare(folder, stage.key)
    with (
        (folder / LOG).open("a", encoding="utf-8") as file,
        contextlib.redirect_stderr(file),
        contextlib.redirect_stdout(file),
    ):
        try:
            values = stage.work(folder, {need.name: out / need.name for need in stage.needs}, **stage.arguments)
            seconds = round(before + time.monotonic() - started, 1)
            write_json(folder / RESULT, {"key": stage.key, "source": source, "seconds": seconds, "values": values})
        except CellcodeError as error:
            reason = str(error)
        except Exception as error:
            traceback.print_exc()
            reason = f"unexpected {type(error).__name__}: {error}; {folder / LOG} has more"
        else:
            return Done(folder, values, seconds, source)
    _begin(folder, stage.key, before + time.monotonic() - started)
    return reason


def _prepare(folder: Path, key: str) -> float:
    """Remove what another key left; what the same one left is a checkpoint to go on from, and the seconds it took."""
    begun = read_json(folder / STARTED) if (folder / STARTED).is_file() else {}
    if not isinstance(begun, dict) or begun.get("key") != key:
        shutil.rmtree(folder, ignore_errors=True)
        begun = {}
    folder.mkdir(parents=True, exist_ok=True)
    seconds = float(begun.get("seconds", 0.0))
    _begin(folder, key, seconds)
    return seconds


def _begin(folder: Path, key: str, seconds: float) -> None:
    write_json(folder / STARTED, {"key": key, "seconds": seconds})


def _report(stage: Stage, outcome: Done | str, left: int, left_s: float) -> None:
    result = f"failed: {outcome}" if isinstance(outcome, str) else f"{outcome.seconds:.0f} s"
    logger.info("%s: %s; %d stages left, about %.0f min", stage.name, result, left, left_s / 60)
