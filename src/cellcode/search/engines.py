"""What runs the ground encoder of a database when photos are asked: torch, or OpenVINO where it is faster."""

import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cellcode.config import MachineConfig
from cellcode.database import Database
from cellcode.device import choose_device
from cellcode.errors import MissingExtraError, UsageError
from cellcode.files import atomic_folder
from cellcode.model import inference
from cellcode.types import Float32, UInt8

BATCH = 64


class Engine(Protocol):
    """Embeds photos at the encoder's size; may be called by several threads."""

    def embed(self, pixels: UInt8) -> Float32:
        """Embed (B, height_px, width_px, 3) uint8; returns (B, D) float32, unit length."""


class TorchEngine:
    """The encoder in torch; without a `machine` on the best device, in bfloat16 where the processor has it."""

    def __init__(self, database: Database, machine: MachineConfig | None = None) -> None:
        self._precision = (machine or database.config.machine).precision
        self._device = choose_device(machine.device if machine is not None else "auto")
        self._encoder = database.encoder().to(self._device)

    def embed(self, pixels: UInt8) -> Float32:
        """See `Engine`."""
        return inference.embed(self._encoder, pixels, self._precision, self._device)


class OpenVinoEngine:
    """The encoder compiled by OpenVINO for the CPU, in the precision that it chooses for it; see `make`.

    Each of the `calls` at the same time has its share of the cores.
    """

    def __init__(self, database: Database, calls: int = 1) -> None:
        self._compiled = _openvino().Core().compile_model(openvino_model(database), "CPU", {"NUM_STREAMS": str(calls)})
        self._own = threading.local()  # a request of OpenVINO serves one thread at a time

    def embed(self, pixels: UInt8) -> Float32:
        """See `Engine`."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        batches = (np.ascontiguousarray(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH))
        # Copies: the memory of a result is used again.
        vectors = np.concatenate([np.array(self._own.request.infer([batch])[0], np.float32) for batch in batches])
        # Its products may be in bfloat16, the norm among them.
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def make(name: str, database: Database, calls: int = 1, machine: MachineConfig | None = None) -> Engine:
    """Return the engine of this name.

    Args:
        calls: threads that will use it at the same time.
        machine: device and precision of torch; OpenVINO runs on the CPU and chooses its precision.

    Raises:
        UsageError: the name is unknown; MissingExtraError: its extra is not installed.
    """
    if name == "torch":
        return TorchEngine(database, machine)
    if name == "openvino":
        return OpenVinoEngine(database, calls)
    raise UsageError(f"unknown engine {name!r}; valid engines: torch, openvino")


def export_openvino(database: Database, folder: Path) -> Path:
    """Write the ground encoder as encoder.xml and encoder.bin for programs that run OpenVINO; returns the former's path.

    Its input is (B, height_px, width_px, 3) uint8 RGB, its output (B, D) float32 of unit length; weights are float16.
    """
    database.verify()
    with atomic_folder(folder) as temporary:
        _openvino().save_model(openvino_model(database), temporary / "encoder.xml", compress_to_fp16=True)
    return folder / "encoder.xml"


def openvino_model(database: Database) -> Any:
    """Return the ground encoder as an OpenVINO model for batches of any size."""
    _openvino()
    # Not `openvino.convert_model`: it reports its use to its makers.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    size = database.config.photo
    example = torch.zeros(2, size.height_px, size.width_px, 3, dtype=torch.uint8)
    with torch.inference_mode():
        decoder = TorchScriptPythonDecoder(database.encoder(), example_input=example)
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, size.height_px, size.width_px, 3])
    return model


def _openvino() -> Any:
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("openvino", "openvino", "this engine") from None
    return openvino
