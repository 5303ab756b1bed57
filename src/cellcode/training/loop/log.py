"""log.jsonl of a run, and the same for TensorBoard. Only the first process writes."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from cellcode.distributed import collectives
from cellcode.errors import MissingExtraError


class Log:
    """Lines of a training: losses, seconds and photos per second of a step, peak memory of the process; recall.

    Args:
        folder: receives log.jsonl and, with `tensorboard`, tensorboard/.
        begin: lines of this step and later ones are dropped: those steps will be repeated.

    Raises:
        MissingExtraError: `tensorboard` without the package.
    """

    def __init__(self, folder: Path, begin: int, tensorboard: bool) -> None:
        self._file, self._board = None, None
        self._seconds, self._steps = 0.0, 0
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError("tensorboard", "tensorboard", "training.tensorboard")
        if collectives.rank():
            return
        path = folder / "log.jsonl"
        _keep_lines(path, begin)
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=begin)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time a step, or the host's part of it: the device may be behind, until `write` reads the losses."""
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started
        self._steps += 1

    def write(self, step: int, losses: dict[str, Tensor], photos: int) -> None:
        """Write the losses of a step, and the mean time of the steps timed since the last line, of `photos` photos each."""
        started = time.perf_counter()
        values = {name: round(float(value), 5) for name, value in losses.items()}  # waits for the device
        seconds = (self._seconds + time.perf_counter() - started) / max(1, self._steps)
        self._seconds, self._steps = 0.0, 0
        speed = {
            "seconds": round(seconds, 4),
            "photos_per_s": round(photos / seconds, 1),
            "memory_bytes": peak_memory(),
        }
        self._line({"step": step, **values, **speed})

    def write_recall(self, step: int, recall: float) -> None:
        """Write the recall of the validation sample after a step."""
        self._line({"step": step, "validation_recall": round(recall, 5)})

    def _line(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, record["step"])


def peak_memory() -> int:
    """Return the largest memory of the device, or of this process where there is no CUDA, in bytes; 0 on Windows."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def _keep_lines(log: Path, begin: int) -> None:
    """Drop the log lines of steps that will be repeated."""
    if log.is_file():
        lines = log.read_text(encoding="utf-8").splitlines()
        # The last line may be incomplete.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] < begin]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
