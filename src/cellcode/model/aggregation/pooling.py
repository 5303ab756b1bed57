"""Means of the map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellcode.config import AggregationConfig
from cellcode.model.aggregation.protocol import Aggregation
from cellcode.model.backbones import Features

FLATTEN_GRID = 4  # rows and columns that "flatten" pools any map to


class Mean(Aggregation):
    """The mean of the map."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.out_dim = channels

    def forward(self, features: Features) -> Tensor:
        """Return (B, C)."""
        return features.map.float().mean(dim=(2, 3))


class GeM(Aggregation):
    """Generalised mean with a learned power (Radenovic et al. 2018); p = 1 is the mean of the positive part."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.out_dim = channels
        self.p = nn.Parameter(torch.tensor(config.gem_p))

    def forward(self, features: Features) -> Tensor:
        """Return (B, C)."""
        x = features.map.float().clamp(min=1e-6)
        return x.pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class Flatten(Aggregation):
    """The map itself on a fixed grid: keeps where things are in the picture, which matters for small views."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        self.out_dim = channels * FLATTEN_GRID**2

    def forward(self, features: Features) -> Tensor:
        """Return (B, C * 16)."""
        return F.adaptive_avg_pool2d(features.map.float(), FLATTEN_GRID).flatten(1)
