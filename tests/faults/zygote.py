"""Runs commands of cellcode in forked children that are killed, starved or failed at a chosen file operation.

    python tests/faults/zygote.py        one request per line on stdin, one result per line on stdout, both JSON

A child starts within milliseconds, because this process has imported everything. It has one thread, so that forking is safe.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = {
    "os.rename": "rename", "os.remove": "remove", "os.rmdir": "rmdir", "os.mkdir": "mkdir", "os.truncate": "truncate",
    "os.link": "link", "os.symlink": "link",
}  # fmt: skip
PIPE_BYTES = 1 << 20  # more than any command prints
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Shim:
    """Sees every file operation that changes something, before it happens.

    Attributes:
        seen: kind and path of each operation.
    """

    def __init__(self, folder: str, kill: list[Any] | None, fail: list[Any] | None, stop: int | None) -> None:
        self.folder, self.kill, self.fail, self.stop = folder, kill, fail, stop
        self.seen: list[tuple[str, str]] = []
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def install(self) -> None:
        """See operations from now on."""
        sys.addaudithook(self._hook)
        sync: Callable[[int], None] = os.fsync

        def fsync(descriptor: Any) -> None:
            self.happens("fsync", "")
            sync(descriptor)

        os.fsync = fsync

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & _WRITE)
            if writes and self._inside(path):
                self.happens("open", str(path))
        elif event in KINDS:
            self.happens(KINDS[event], str(arguments[0]))

    def _inside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)

    def happens(self, kind: str, path: str) -> None:
        """Count an operation; kill this process, or fail, where that was asked for."""
        with self._lock:
            self.seen.append((kind, path))
            for name in ("any", kind):
                self._counts[name] = self._counts.get(name, 0) + 1
            if self.kill and self.kill[0] in ("any", kind) and self._counts[self.kill[0]] == self.kill[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            if self._counts["any"] == self.stop:
                os.kill(os.getpid(), signal.SIGSTOP)
        # As a disk stays full: every operation from the chosen one on that would need space.
        if self.fail and kind in ("open", "mkdir", "rename", "fsync", "link") and self._counts["any"] >= self.fail[1]:
            code = getattr(errno, self.fail[0])
            raise OSError(code, os.strerror(code), path)


def child(request: dict[str, Any], pipes: list[int]) -> None:
    """Run one command; never returns. What it prints, and its file operations, go into pipes, which no limit is for."""
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(pipes[0], 1)
        os.dup2(pipes[1], 2)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
        os.chdir(request["folder"])
        if "stop" in request:
            Path(request["log"] + ".pid").write_text(str(os.getpid()))
        shim = Shim(request["folder"], request.get("kill"), request.get("fail"), request.get("stop"))
        for name, value in request.get("limits", {}).items():
            if name == "AS":  # what is mapped already counts
                value += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            if name == "NOFILE":  # what is open already counts
                value += len(os.listdir("/proc/self/fd"))
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        if uid := request.get("uid"):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does at its start
        shim.install()
        from cellcode.cli import main

        code = 0
        try:
            main(request["argv"])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 70
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        shim.kill = shim.fail = None
        os.write(pipes[2], json.dumps(shim.seen).encode())
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait, and kill where the request says after how long."""
    started = time.perf_counter()
    readers, writers = zip(*(os.pipe() for _ in range(3)), strict=True)
    for reader in readers:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(reader, False)
    if (pid := os.fork()) == 0:
        child(request, list(writers))
    killed_after_s, limit_s = request.get("kill_after_s"), request.get("limit_s", 120.0)
    hung = False
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        spent_s = time.perf_counter() - started
        if spent_s > limit_s or (killed_after_s is not None and spent_s >= killed_after_s):
            hung = spent_s > limit_s
            os.kill(pid, signal.SIGKILL)
            killed_after_s = None
        time.sleep(0.001)
    for writer in writers:
        os.close(writer)
    for reader, name in zip(readers, ("out", "err", "ops"), strict=True):
        with contextlib.suppress(BlockingIOError), Path(f"{request['log']}.{name}").open("wb") as file:
            while some := os.read(reader, PIPE_BYTES):
                file.write(some)
        os.close(reader)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "seconds": time.perf_counter() - started, "hung": hung, "memory_mb": used.ru_maxrss / 1024}


def warm() -> None:
    """Import everything, with networks of a few weights: what is tested is files."""
    import torch._dynamo  # which the first optimiser imports

    import cellcode
    from cellcode.database.building import first_stage
    from cellcode.model.backbones import convolutional

    convolutional.WIDTHS = (4, 6, 8)
    first_stage.MIN_QUERIES = 4
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(cellcode.__path__, "cellcode."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    import matplotlib.pyplot  # noqa: F401
    from PIL import Image

    Image.init()


def main() -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warm()
    for line in sys.stdin:
        replies.write(json.dumps(run(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
