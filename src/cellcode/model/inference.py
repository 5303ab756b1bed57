"""The batched inference loop: images through an encoder, some at a time, without gradients."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cellcode.device import autocast
from cellcode.model.encoder import Encoder
from cellcode.types import Float32, UInt8

BATCH = 64


def infer(
    function: Callable[[Tensor], Tensor], images: UInt8, precision: str, device: torch.device, batch_size: int = BATCH
) -> Tensor:
    """Apply a function to images (N, ...), N at least 1, batch by batch; what it returned for each, (N, ...), on the CPU.

    Args:
        function: takes a batch on `device`, where its parameters are already.
        precision: see `cellcode.device.autocast`.
    """
    parts = []
    with torch.inference_mode(), autocast(precision, device):
        for first in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[first : first + batch_size]))  # a copy: images may be read-only
            parts.append(function(batch.to(device)).cpu())
    return torch.cat(parts)


def embed(encoder: Encoder, images: UInt8, precision: str, device: torch.device, batch_size: int = BATCH) -> Float32:
    """Embed images with an encoder that is on `device` and in evaluation mode; may be called by several threads.

    They are (N, H, W, 3), or (N, S, H, W, 3) for an encoder of S scales; the result is (N, D), of unit length.
    """
    if not len(images):
        return np.zeros((0, encoder.dim), np.float32)
    return np.asarray(infer(encoder, images, precision, device, batch_size).float().numpy())
