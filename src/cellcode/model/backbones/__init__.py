"""Backbones: images in, a map of local features out. `BACKBONES` has them by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cellcode.config import EncoderConfig
from cellcode.errors import PluginError
from cellcode.model.checks import require_shape
from cellcode.plugins import Registry

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Features:
    """Local features (B, C, h, w) and, from transformers, the class token (B, C)."""

    map: Tensor
    token: Tensor | None = None


class Backbone(nn.Module):
    """Blocks run one after the other, so that a prefix of them can be frozen and its output cached.

    A factory is called with the encoder's block of the configuration and the options as keyword arguments. `pretrained` in
    it is False where the weights come from a run or database.

    Args:
        blocks: modules in their order; each takes and returns one tensor. The first is given images (B, 3, H, W), normalised.
        channels: C of the final map.
        mean, std: what pixels in 0..1 are normalised with, one number per channel.
    """

    # Keep only the inputs of blocks in training, and compute the rest again for the gradient: memory for time. Running
    # statistics then see every batch twice.
    recompute = False

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        channels: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.channels, self.mean, self.std = channels, tuple(mean), tuple(std)
        self.name = type(self).__name__  # for messages

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run blocks[start:stop]; the input of block 0 is (B, 3, H, W), normalised. PluginError if one returns no tensor."""
        for block in self.blocks[start:stop]:
            again = self.recompute and self.training and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            if not isinstance(x, Tensor):
                kind, given = type(block).__name__, type(x).__name__
                raise PluginError(f"backbone {self.name}: a block ({kind}) returned a {given}, not one tensor")
        return x

    def features(self, x: Tensor) -> Features:
        """Read the output of the last block as features; it is the map unless a backbone says otherwise."""
        return Features(x)

    def read(self, x: Tensor) -> Features:
        """Return `features` of the last block's output; PluginError if it is no map of the right shape."""
        features = self.features(x)
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # a trace has no sizes
            who = f"backbone {self.name}"
            if not isinstance(features, Features):
                raise PluginError(f"{who}: expected Features, and it returned a {type(features).__name__}")
            require_shape(who, "a map", features.map, len(x), self.channels, None, None)
            if features.token is not None:
                require_shape(who, "a class token", features.token, len(x), self.channels)
        return features

    def keep(self, folder: Path) -> list[str]:
        """Write what the network needs beside its name and weights to be built again; returns the names of the files."""
        return []

    def forward(self, x: Tensor) -> Features:
        """Return the features of normalised images (B, 3, H, W)."""
        return self.read(self.run(x))


BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    "cellcode.backbones",
    Backbone,
    {
        "tiny": "cellcode.model.backbones.convolutional:tiny",
        "efficientnet-lite0": "cellcode.model.backbones.convolutional:efficientnet_lite0",
        "hf:": "cellcode.model.backbones.hugging_face:hugging_face",
    },
)


def make_backbone(config: EncoderConfig) -> Backbone:
    """Return the backbone of a configuration.

    Raises:
        UsageError: the name is unknown.
        MissingExtraError: its package is not installed.
        InputError: its weights cannot be loaded.
        PluginError: a plug-in cannot be imported or built, or has no blocks or channels.
    """
    backbone = BACKBONES.make(config.backbone, config, **config.options)
    backbone.name = config.backbone
    count, channels = len(backbone.blocks), backbone.channels
    if not count or not isinstance(channels, int) or channels < 1:
        found = f"it has {count} blocks and channels {channels}"
        raise PluginError(f"backbone {config.backbone}: expected at least one block and one channel, and {found}")
    return backbone
