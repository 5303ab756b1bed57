"""Photos decoded by worker processes, each ended and replaced when a photo takes too long."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cellcode.photos import PhotoError, PhotoSpec
from cellcode.photos.reading.image import PhotoTooLargeError
from cellcode.photos.reading.limits import MAX_MEMORY_BYTES, MEMORY
from cellcode.types import UInt8

Position = tuple[float, float, float | None]  # latitude, longitude and heading in degrees
# What an ordinary photo needs; larger and slower ones are decoded one by one, so that others do not wait behind them.
ORDINARY_BYTES, ORDINARY_SECONDS = 200_000_000, 1.0


class _ExtraordinaryError(Exception):
    """A photo that needs more memory or time than an ordinary one."""


class _Worker:
    """A process that decodes one photo at a time."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "cellcode.serving.decode_worker"]
        # In a session of its own: Ctrl-C ends the service after its requests have been answered.
        own: dict[str, Any] = {"stderr": subprocess.DEVNULL, "env": environment, "start_new_session": True}
        pipe, size = subprocess.PIPE, 1 << 20  # bytes: a photo in one go
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, pipesize=size, **own)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.late = False
        json.loads(self.output.readline())  # it has loaded what it needs: no photo's time is spent on that

    def decode(
        self, data: bytes, spec: PhotoSpec, seconds: float, most_bytes: int
    ) -> tuple[dict[str, Any], bytes | None]:
        """Return facts and pixels; OSError or ValueError: the process has ended, or was `late`."""
        with self._at_most(seconds):
            self.input.write(json.dumps({**asdict(spec), "bytes": len(data)}).encode() + b"\n" + data)
            self.input.flush()
            facts = json.loads(self.output.readline())
        if (size := facts.get("memory")) is None:  # refused by its header
            return facts, None
        if size > most_bytes:
            self.input.write(b"refused\n")
            self.input.flush()
            return json.loads(self.output.readline()), None
        with MEMORY.hold(size), self._at_most(seconds):
            self.input.write(b"granted\n")
            self.input.flush()
            facts = json.loads(self.output.readline())
            size = int(np.prod(facts.get("shape", (0,))))
            pixels = self.output.read(size)
            if len(pixels) != size:
                raise EOFError
            return facts, pixels

    @contextmanager
    def _at_most(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end(self) -> None:
        self.late = True
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


# Of all services of the process: one that replaces another does not start them again. They end with their input.
_idle: list[_Worker] = []


class Decoders:
    """Decodes photos side by side.

    Args:
        count: ordinary photos at the same time; one other is decoded beside them.
        seconds: after which a photo is given up.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.seconds = seconds
        self._ordinary = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._others = ThreadPoolExecutor(1, thread_name_prefix="decode-large")

    async def decode(self, data: bytes, spec: PhotoSpec) -> tuple[UInt8, Position | None]:
        """Return the pixels (height_px, width_px, 3) of a photo's file, and its position if it has one.

        Raises:
            PhotoError: as `read_pixels`, or it takes too long.
        """
        run = asyncio.get_running_loop().run_in_executor
        try:
            seconds = min(self.seconds, ORDINARY_SECONDS)
            return await run(self._ordinary, _decode, data, spec, seconds, ORDINARY_BYTES)
        except _ExtraordinaryError:
            pass
        try:
            return await run(self._others, _decode, data, spec, self.seconds, MAX_MEMORY_BYTES)
        except _ExtraordinaryError:
            raise PhotoError(f"photo: it takes longer than {self.seconds:g} s to decode") from None

    def close(self) -> None:
        """Let the threads end."""
        self._ordinary.shutdown(wait=False)
        self._others.shutdown(wait=False)


def _decode(data: bytes, spec: PhotoSpec, seconds: float, most_bytes: int) -> tuple[UInt8, Position | None]:
    for _ in range(2):  # a worker may have been ended while it was idle
        try:
            worker = next(each for each in iter(_idle.pop, None) if each.process.poll() is None)
        except IndexError:
            worker = _Worker()
        try:
            facts, pixels = worker.decode(data, spec, seconds, most_bytes)
        except (OSError, EOFError, ValueError):  # its pipe is closed, or ends in the middle of a line
            worker.close()
            if worker.late:
                raise _ExtraordinaryError from None
            continue
        except BaseException:
            worker.close()
            raise
        if worker.late:
            worker.close()
        else:
            _idle.append(worker)
        if facts.get("refused"):
            raise _ExtraordinaryError
        if "error" in facts or pixels is None:
            raise (PhotoTooLargeError if facts["too_large"] else PhotoError)(facts["error"])
        position = facts["position"]
        return np.frombuffer(pixels, np.uint8).reshape(facts["shape"]), position and tuple(position)
    raise PhotoError("photo: it ends the process that decodes it")
