"""A small residual network that is trained from scratch."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cellcode.config import EncoderConfig
from cellcode.model.backbones.protocol import Backbone

WIDTHS = (32, 64, 160)


def tiny(config: EncoderConfig) -> Backbone:
    """Return a small residual network trained from scratch: stride 16, sized for 96 x 72 photos on a laptop's CPU.

    The stem goes to a quarter of the resolution at once: at half of it, normalising and rectifying alone would cost as much
    as everything after.
    """
    stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 8, 4, 2, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True))
    stages = [_Residual(a, b, 2) for a, b in pairwise(WIDTHS)]
    return Backbone([stem, *stages], WIDTHS[-1], (0.45,) * 3, (0.25,) * 3)


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first may halve the map."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            pool = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
            self.shortcut = nn.Sequential(*pool, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))
