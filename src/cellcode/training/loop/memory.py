"""Tiles of the last batches, which photos are compared with as further negatives."""

import torch
from torch import Tensor, nn

from cellcode.model.places import Places


class TileMemory(nn.Module):
    """The last `size` tiles of all processes: their embeddings and codes as they were, and their positions.

    A batch has some dozens of tiles and a region thousands of cells. Embeddings change little within some dozens of steps, so
    those of the last batches are good negatives and cost a product only (Wang et al., "Cross-Batch Memory for Embedding
    Learning", CVPR 2020). Checkpoints hold it.
    """

    added: Tensor
    embeddings: Tensor
    codes: Tensor
    lat_deg: Tensor
    lon_deg: Tensor

    def __init__(self, size: int, dim: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))
        for name in ("embeddings", "codes"):
            self.register_buffer(name, torch.zeros(size, dim, device=device))
        for name in ("lat_deg", "lon_deg"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    def add(self, tiles: Places, codes: Places | None) -> None:
        """Keep tiles (N, D) and, where there are any, their codes in place of the oldest ones."""
        size, first = len(self.embeddings), int(self.added)
        rows = torch.arange(first, first + len(tiles.lat_deg))[-size:] % size  # none twice
        for kept, values in ((self.embeddings, tiles), (self.codes, codes)):
            if values is not None:
                kept[rows] = values.embeddings.detach().float()[-size:]
        for kept, degrees in ((self.lat_deg, tiles.lat_deg), (self.lon_deg, tiles.lon_deg)):
            kept[rows] = torch.from_numpy(degrees[-size:])
        self.added += len(tiles.lat_deg)

    def places(self, what: Tensor) -> Places | None:
        """Return `embeddings` or `codes` with their positions; None before the first ones."""
        known = min(int(self.added), len(what))
        # A copy: the next batch overwrites rows before gradients have flowed through all products.
        return (
            Places(what[:known].clone(), self.lat_deg[:known].numpy(), self.lon_deg[:known].numpy()) if known else None
        )
