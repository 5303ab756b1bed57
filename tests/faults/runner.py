"""Commands run in children of warm processes (`zygote`), and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ZYGOTE = Path(__file__).with_name("zygote.py")


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (negative: the signal), output, and the file operations it made if it ended."""

    code: int
    seconds: float
    hung: bool
    memory_mb: float
    out: str
    err: str
    operations: list[tuple[str, str]]

    def __str__(self) -> str:
        return f"exit {self.code}{' (hung)' if self.hung else ''}: {self.err[-600:]}"


class Runner:
    """A few warm processes that commands are forked from; use as a context manager."""

    def __init__(self, processes: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "COLUMNS": "200"}
        self._free: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        self._all = [
            subprocess.Popen([sys.executable, str(ZYGOTE)], stdin=-1, stdout=-1, text=True, env=environment)
            for _ in range(processes)
        ]
        for process in self._all:
            self._free.put(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._all:
            process.wait(timeout=30)

    def run(self, argv: Iterable[object], folder: Path, **request: Any) -> Outcome:
        """Run `cellcode` with these arguments in a folder; see `zygote` for what else can be asked for.

        `kill` is [kind of operation, number] (killed just before it), `kill_after_s` seconds, `fail` [errno's name, number
        of the operation], `stop` number of the operation where it waits for SIGCONT, `limits` resource limits by name, `uid`
        another user.
        """
        log = Path(request.pop("log", folder.parent / f"{folder.name}.log"))
        words = [str(word) for word in argv]
        process = self._free.get()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(
                json.dumps({"argv": words, "folder": str(folder), "log": str(log), **request}, default=str) + "\n"
            )
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        finally:
            self._free.put(process)
        out, err = (log.with_name(log.name + ending).read_text(errors="replace") for ending in (".out", ".err"))
        text = log.with_name(log.name + ".ops").read_text()
        operations = [tuple(each) for each in json.loads(text)] if text else []
        return Outcome(**answer, out=out, err=err, operations=operations)

    def map(self, work: Any, items: Iterable[Any]) -> Iterator[Any]:
        """Call a function that runs commands for each item, as many at a time as there are warm processes."""
        with ThreadPoolExecutor(len(self._all)) as threads:
            yield from threads.map(work, items)


def snapshot(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, folders as such; of what lies there, hidden files too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def difference(one: dict[str, str], other: dict[str, str]) -> str:
    """Describe how two snapshots differ; empty where they do not."""
    lacks, more = sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())
    changed = sorted(name for name in one.keys() & other.keys() if one[name] != other[name])
    parts = [
        f"{kind} {names[:6]}" for kind, names in (("missing", lacks), ("left over", more), ("other", changed)) if names
    ]
    return "; ".join(parts)
