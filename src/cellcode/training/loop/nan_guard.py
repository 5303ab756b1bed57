"""Stops the training at a non-finite loss and keeps the batch for inspection."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellcode.distributed import collectives
from cellcode.errors import CellcodeError
from cellcode.training.data.prefetch import Batch


@dataclass(frozen=True)
class _Noted:
    step: int
    batch: Batch
    losses: dict[str, Tensor]
    total: Tensor
    arrived: torch.cuda.Event | None


class NanGuard:
    """Checks every loss. On CUDA it does so one batch late, when the value has arrived, so that nothing waits for it.

    The weights have been updated by then, but no checkpoint has been written: `settle` comes before each.

    Args:
        folder: of the run; the batch goes into its folder "stopped".
        late: batches that may be trained on before a loss is checked; None: what suits the device.
    """

    def __init__(self, folder: Path, device: torch.device, late: int | None = None) -> None:
        self.folder = folder / "stopped"
        self._late = int(device.type == "cuda") if late is None else late
        self._noted: deque[_Noted] = deque()

    def note(self, step: int, batch: Batch, losses: dict[str, Tensor], total: Tensor) -> None:
        """Note a batch, with its losses by pair and their sum over all processes, and check the one that is due.

        Raises:
            CellcodeError: its loss is not finite; raised in all processes together.
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
        path.parent.mkdir(exist_ok=True)
        kept: dict[str, Any] = {name: loss.float().cpu().numpy() for name, loss in noted.losses.items()}
        kept["photos"] = noted.batch.photos.inputs.numpy()  # as the encoder saw them
        kept["lat_deg"], kept["lon_deg"] = noted.batch.photos.lat_deg, noted.batch.photos.lon_deg
        if noted.batch.tiles is not None:
            kept["tiles"] = noted.batch.tiles.inputs.numpy()
        np.savez(path, step=noted.step, indices=noted.batch.indices, **kept)
        raise CellcodeError(
            f"the loss of step {noted.step} is not finite; its photos, tiles and losses are in {path.parent}: look at them, "
            "or lower training.learning_rate and train again"
        )
