"""Embeddings with their positions: what pairs of a loss are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cellcode.distributed import collectives
from cellcode.geography import distance
from cellcode.types import Float64


@dataclass(frozen=True)
class Places:
    """Embeddings (N, D), unit length, and where they belong: lat_deg, lon_deg float64 (N,)."""

    embeddings: Tensor
    lat_deg: Float64
    lon_deg: Float64

    def first(self, count: int) -> Places:
        """Return the first places."""
        return Places(self.embeddings[:count], self.lat_deg[:count], self.lon_deg[:count])

    def of_all(self) -> Places:
        """Gather the places of all processes, in their order; each has as many."""
        if collectives.world() == 1:
            return self
        lat_deg, lon_deg = collectives.gather_array(np.stack([self.lat_deg, self.lon_deg], axis=1)).T
        return Places(collectives.gather(self.embeddings), lat_deg, lon_deg)

    def within(self, lat_deg: Float64, lon_deg: Float64, *limits_m: float) -> list[Tensor]:
        """Return for each limit which positions (M,) are nearer than it, (N, M) bool; see `distance.within_m`."""
        found = distance.within_m(self.lat_deg, self.lon_deg, lat_deg, lon_deg, *limits_m)
        return [torch.from_numpy(each) for each in found]
