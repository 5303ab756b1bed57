"""A backbone of three convolutions. In a configuration: `model.ground.backbone: backbone_small:Small`."""

from itertools import pairwise

from pydantic import BaseModel, Field
from torch import nn

from cellcode.config import EncoderConfig
from cellcode.model.backbones import Backbone
from cellcode.plugins import read_options


class Options(BaseModel):
    width: int = Field(16, ge=1)


class Small(Backbone):
    def __init__(self, config: EncoderConfig) -> None:
        width = read_options(f"backbone {config.backbone}", config.options, Options).width
        channels = [3, width, 2 * width, 4 * width]
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in pairwise(channels)]
        super().__init__(blocks, channels[-1])
