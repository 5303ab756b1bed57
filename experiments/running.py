"""Runs stages side by side, each in a process of one thread that is gone when it is done or when the run is."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import connection, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from cellcode import log
from cellcode.errors import CellcodeError
from cellcode.files import locked_folder, write_json
from experiments.stages import (
    LOG,
    RESULT,
    STARTED,
    Done,
    Stage,
    finished,
    inputs,
    read,
    source_digest,
    state,
    with_needs,
)

logger = logging.getLogger(__name__)
SECONDS = "seconds.json"  # what each stage took when it was made last, also where its folder is gone
NOTED_EVERY_S = 20.0


def run(stages: Sequence[Stage], out: Path, workers: int | None = None) -> dict[str, Done | str]:
    """Run stages, and those they need, that have not finished yet.

    One that fails, or whose process is killed, costs itself and those that need it; the others are still run.

    Args:
        out: one folder a stage.
        workers: processes; None: one a core.

    Returns:
        By name, the finished stage or the sentence that says why there is none.

    Raises:
        InputError: another run works in `out`.
    """
    with locked_folder(out):
        return _run(with_needs(stages), out, workers or os.cpu_count() or 1)


def _run(pending: dict[str, Stage], out: Path, workers: int) -> dict[str, Done | str]:
    results = _found(pending, out)
    last_s, source = read(out / SECONDS), source_digest()
    logger.info("%s", estimate([*pending.values()], last_s, workers))
    running: dict[int, tuple[BaseProcess, Stage]] = {}  # by sentinel
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([stage.work.__module__ for stage in pending.values()])  # imported once, not by each
    try:
        while pending or running:
            _give_up(pending, results)
            for stage in _ready(pending, results, [stage for _, stage in running.values()], workers):
                del pending[stage.name]
                if (done := finished(stage, out)) is not None:  # what it needs has been made again, to the same end
                    results[stage.name] = done
                    continue
                # One process per stage: what it leaves in memory dies with it.
                threads = workers if stage.alone else 1
                process: BaseProcess = context.Process(
                    target=_run_one, args=(stage, out, threads, source), name=stage.name
                )
                process.start()
                running[process.sentinel] = process, stage
            ended = connection.wait([*running]) if running else []
            for sentinel in [each for each in running if each in ended]:
                process, stage = running.pop(sentinel)
                process.join()
                results[stage.name] = outcome = _outcome(stage, out, process.exitcode)
                if isinstance(outcome, Done):
                    last_s[stage.name] = outcome.seconds
                    write_json(out / SECONDS, last_s)
                _report(stage, outcome, [*pending.values(), *(stage for _, stage in running.values())], last_s, workers)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()
    return results


def estimate(stages: Sequence[Stage], last_s: dict[str, Any], workers: int) -> str:
    """Say how many stages are to be made and how long that takes, as long as each took last time or else is guessed."""
    guessed = sum(stage.name not in last_s for stage in stages)
    note = f" ({guessed} of them guessed: never made before)" if guessed else ""
    return (
        f"{len(stages)} stages to make, about {_left_s(stages, last_s, workers) / 60:.0f} min on {workers} cores{note}"
    )


def _left_s(stages: Sequence[Stage], last_s: dict[str, Any], workers: int) -> float:
    return sum(float(last_s.get(stage.name, stage.cost)) / (1 if stage.alone else workers) for stage in stages)


def _found(pending: dict[str, Stage], out: Path) -> dict[str, Done | str]:
    """Take out of `pending` what has finished before; log what is stale, and what other code made."""
    results: dict[str, Done | str] = {}
    other = []
    for stage in list(pending.values()):
        kind, why = state(stage, out)
        if (done := finished(stage, out)) is not None:
            results[stage.name] = done
            del pending[stage.name]
            other += [stage.name] if why else []
        elif kind == "stale":
            logger.info("%s is made again: %s", stage.name, why)
    if results:
        logger.info("%d stages had finished before", len(results))
    if other:
        logger.warning(
            "%d of them were made by other code and are used as they are (remove a folder of %s to make its stage again): %s",
            len(other), out, ", ".join(other),
        )  # fmt: skip
    return results


def _outcome(stage: Stage, out: Path, status: int | None) -> Done | str:
    if (done := finished(stage, out)) is not None:
        return done
    started = read(out / stage.name / STARTED)
    if started.get("key") == stage.key and "failed" in started:
        return str(started["failed"])
    if status is not None and status < 0:
        return f"its process was killed by {signal.Signals(-status).name}, as the system does for want of memory"
    return f"its process ended with status {status} and no result"


def _give_up(pending: dict[str, Stage], results: dict[str, Done | str]) -> None:
    """Drop stages that need one that failed."""
    for stage in list(pending.values()):
        failed = [need.name for need in stage.needs if isinstance(results.get(need.name), str)]
        if failed:
            results[stage.name] = f"skipped: it needs {failed[0]}, which failed"
            logger.warning("%s is skipped: it needs %s, which failed", stage.name, failed[0])
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


def _run_one(stage: Stage, out: Path, threads: int, source: str) -> None:
    """Run a stage in a process of its own; what it logs and prints goes to log.txt, and how it ended into its folder."""
    log.install()
    torch.set_num_threads(threads)
    folder = out / stage.name
    clock = _Clock(stage, folder)
    reason = None
    with (
        (folder / LOG).open("a", encoding="utf-8") as file,
        contextlib.redirect_stderr(file),
        contextlib.redirect_stdout(file),
        clock.watched(),
    ):
        try:
            values = stage.work(folder, {need.name: out / need.name for need in stage.needs}, **stage.arguments)
            made = {"key": stage.key, "source": source, "identity": stage.identity, "inputs": inputs(stage, out)}
            write_json(folder / RESULT, made | clock.read() | {"values": values})
        except CellcodeError as error:
            reason = str(error)
        except KeyboardInterrupt:
            reason = "interrupted"
        except Exception as error:
            traceback.print_exc()
            reason = f"unexpected {type(error).__name__}: {error}"
    clock.note({"failed": reason} if reason is not None else {})


class _Clock:
    """What the attempts at a stage took, kept in its folder: also of those that were killed, but for the last seconds."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        """Remove what another identity left; what the same one left is a checkpoint to go on from."""
        self.key, self.path, self.began = stage.key, folder / STARTED, time.monotonic()
        before = read(self.path)
        if before.get("key") != stage.key:
            shutil.rmtree(folder, ignore_errors=True)
            before = {}
        (folder / RESULT).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.before = {name: float(before.get(name, 0)) for name in ("seconds", "cpu_seconds")}
        self.note()

    def read(self) -> dict[str, float]:
        now = {"seconds": time.monotonic() - self.began, "cpu_seconds": time.process_time()}
        return {name: round(self.before[name] + value, 1) for name, value in now.items()}

    def note(self, more: dict[str, Any] | None = None) -> None:
        write_json(self.path, {"key": self.key, **self.read(), **(more or {})})

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note the times now and then, and end this process when the one that started it is gone."""
        parent, over = parent_process(), threading.Event()

        def watch() -> None:
            while not over.is_set():
                if parent is not None and connection.wait([parent.sentinel], NOTED_EVERY_S):
                    os._exit(1)
                if not over.is_set():
                    self.note()

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            over.set()


def _report(stage: Stage, outcome: Done | str, left: Sequence[Stage], last_s: dict[str, Any], workers: int) -> None:
    left_min = _left_s(left, last_s, workers) / 60
    if isinstance(outcome, Done):
        logger.info("%s: %.0f s; %d stages left, about %.0f min", stage.name, outcome.seconds, len(left), left_min)
        return
    logger.error(
        "stage %s failed: %s (its %s has more); the same command retries it, --only %s it alone",
        stage.name, outcome, LOG, stage.name,
    )  # fmt: skip
