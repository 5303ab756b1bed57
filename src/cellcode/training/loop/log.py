"""log.jsonl of a run and the same for TensorBoard, which only the first process writes; the stop at a non-finite loss."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellcode.distributed import collectives
from cellcode.errors import CellcodeError, MissingExtraError
from cellcode.files import atomic_path, write_bytes, writing
from cellcode.training.data.inputs import Batch


class Log:
    """Lines of a training: losses, seconds and photos per second of a step, peak memory of the process; recall.

    Lines of the step `begin` and later ones are dropped: those steps will be repeated.

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
        with writing(path):
            self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=begin)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        for each in (self._file, self._board):
            if each is not None:
                each.close()

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
        speed = {"seconds": round(seconds, 4), "photos_per_s": round(photos / seconds, 1)}
        self._line({"step": step, **values, **speed, "memory_bytes": peak_memory()})

    def write_recall(self, step: int, recall: float) -> None:
        """Write the recall of the validation sample after a step."""
        self._line({"step": step, "validation_recall": round(recall, 5)})

    def _line(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            with writing(Path(self._file.name)):
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
        kept = [line for line in log.read_bytes().splitlines() if _step(line) < begin]
        write_bytes(log, b"".join(line + b"\n" for line in kept))


def _step(line: bytes) -> float:
    """The step of a line; one that was cut off or damaged belongs to none, and is dropped."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


@dataclass(frozen=True)
class _Noted:
    step: int
    batch: Batch
    losses: dict[str, Tensor]
    total: Tensor
    arrived: torch.cuda.Event | None


class NanGuard:
    """Stops the training at a non-finite loss and keeps the batch for inspection, in the folder "stopped" of the run.

    On CUDA a loss is checked one batch late, when the value has arrived, so that nothing waits for it. The weights have been
    updated by then, but no checkpoint has been written: `settle` comes before each.

    Args:
        late: batches that may be trained on before a loss is checked; None: what suits the device.
    """

    def __init__(self, folder: Path, device: torch.device, late: int | None = None) -> None:
        self.folder = folder / "stopped"
        self._late = int(device.type == "cuda") if late is None else late
        self._noted: deque[_Noted] = deque()

    def note(self, step: int, batch: Batch, losses: dict[str, Tensor], total: Tensor) -> None:
        """Note a batch, with its losses by pair and their sum over all processes, and check the one that is due.

        A loss that is not finite raises CellcodeError in all processes together.
        """
        arrived = None
        if total.is_cuda:
            total = total.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self._noted.append(_Noted(step, batch, {name: loss.detach() for name, loss in losses.items()}, total, arrived))
        while len(self._noted) > self._late:
            self._check(self._noted.popleft())

    def settle(self) -> None:
        """Check all that were noted; raises as `note` does."""
        while self._noted:
            self._check(self._noted.popleft())

    def _check(self, noted: _Noted) -> None:
        if noted.arrived is not None:
            noted.arrived.synchronize()
        if torch.isfinite(noted.total):
            return
        path = self.folder / f"step-{noted.step}-process-{collectives.rank()}.npz"
        kept: dict[str, Any] = {name: loss.float().cpu().numpy() for name, loss in noted.losses.items()}
        kept["photos"] = noted.batch.photos.inputs.numpy()  # as the encoder saw them
        kept["lat_deg"], kept["lon_deg"] = noted.batch.photos.lat_deg, noted.batch.photos.lon_deg
        if noted.batch.tiles is not None:
            kept["tiles"] = noted.batch.tiles.inputs.numpy()
        with atomic_path(path) as temporary:
            np.savez(temporary, step=noted.step, indices=noted.batch.indices, **kept)
        raise CellcodeError(
            f"the loss of step {noted.step} is not finite; its photos, tiles and losses are in {path.parent}: look at them, "
            "or lower training.learning_rate and train again"
        )
