"""Device and precision, chosen once and used everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cellcode.errors import InputError


def choose_device(name: str) -> torch.device:
    """Return the device of this name; "auto" takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        InputError: this machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(each for each, is_there in there.items() if is_there)
    if not there.get(name.partition(":")[0], True):
        found = ", ".join(each for each, is_there in there.items() if is_there)
        raise InputError(f"this machine has no device {name}; choose --device auto or one of: {found}")
    return torch.device(name)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context of products in bfloat16: by its name, or by "auto" on CUDA and on CPUs with instructions for it."""
    fast = device.type == "cuda" or (device.type == "cpu" and has_bfloat16())
    enabled = precision == "bfloat16" or (precision == "auto" and fast)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let CPUs sum gradients in a fixed order, so that as many threads give the same bits; other devices as they are set."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fills = settings.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # it would cost time, and nothing reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fills


def send(array: npt.NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Copy numbers of the host to a device; on CUDA without waiting for what it is doing.

    Memory that is not pinned is staged by the driver before the call returns, so that the array may change or go.
    """
    here: Any = array if isinstance(array, Tensor) else torch.from_numpy(array)
    there: Tensor = here.to(device, non_blocking=device.type == "cuda")
    return there


@lru_cache
def has_bfloat16() -> bool:
    """Return True if the CPU multiplies bfloat16 natively (AVX512-BF16, AMX or Arm's); emulated it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return False
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))
