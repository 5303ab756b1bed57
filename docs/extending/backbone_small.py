"""A backbone of three convolutions. In a configuration: `model.ground.backbone: backbone_small:Small`."""

from itertools import pairwise

from torch import nn

from cellcode.config import EncoderConfig
from cellcode.model.backbones import Backbone


class Small(Backbone):
    def __init__(self, config: EncoderConfig, width: int = 16) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, not {width}")
        channels = [3, width, 2 * width, 4 * width]
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in pairwise(channels)]
        super().__init__(blocks, channels[-1])
