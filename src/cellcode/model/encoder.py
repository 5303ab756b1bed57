"""The encoder: pixels in, a unit vector out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellcode.config import Config, EncoderConfig
from cellcode.model.aggregation import AGGREGATIONS, make_aggregation
from cellcode.model.backbones import BACKBONES, make_backbone
from cellcode.model.checks import require_shape
from cellcode.model.losses import make_loss


class Encoder(nn.Module):
    """Backbone, aggregation and a linear projection. Ground and aerial encoders share this class, not their weights.

    An image may come at several scales (Fervers et al., ECCV 2024): backbone and aggregation are shared by the scales, and
    what they make of each is concatenated before the projection (our reading of it; one scale is the encoder of the paper).

    Raises what `make_backbone` and `make_aggregation` raise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, dim: int, scales: int = 1) -> None:
        super().__init__()
        self.backbone = make_backbone(config)
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.aggregation = make_aggregation(config.aggregation, self.backbone.channels)
        self.projection = nn.Linear(scales * self.aggregation.out_dim, dim)
        self.dim, self.scales = dim, scales
        self.frozen_blocks = 0
        self.register_buffer("mean", 255 * torch.tensor(self.backbone.mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.backbone.std), persistent=False)

    def forward(self, images: Tensor, after: int | None = None) -> Tensor:
        """Embed images, or what `prefix` returned for `after` blocks; (B, D) float32, unit length.

        Images are (B, H, W, 3), or (B, S, H, W, 3) where S is not 1; uint8 or float in 0..255.
        """
        return self.from_prefix(self.prefix(images, 0), 0) if after is None else self.from_prefix(images, after)

    def prefix(self, images: Tensor, stop: int) -> Tensor:
        """Return the output of the first `stop` blocks (0: normalised images, B x 3 x H x W); scales are its second axis."""
        if self.scales > 1:
            images = images.flatten(0, 1)
        x: Tensor = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        x = self.backbone.run(x.contiguous(memory_format=torch.channels_last), 0, stop)
        return x.reshape(-1, self.scales, *x.shape[1:]) if self.scales > 1 else x

    def from_prefix(self, x: Tensor, start: int) -> Tensor:
        """Embed what `prefix` returned for the same number of blocks; PluginError where a part returns what it must not."""
        if self.scales > 1:
            x = x.flatten(0, 1)
        features = self.backbone.read(self.backbone.run(x, start))
        vectors = self.aggregation(features)
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # a trace has no sizes
            require_shape(f"aggregation {self.aggregation.name}", "vectors", vectors, len(x), self.aggregation.out_dim)
        return F.normalize(self.projection(vectors.reshape(-1, self.projection.in_features)).float(), dim=1)

    def freeze(self, blocks: int) -> None:
        """Exclude the first `blocks` blocks from training, their running statistics included."""
        self.frozen_blocks = blocks
        for block in self.backbone.blocks[:blocks]:
            block.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Switch the parts that train; frozen blocks stay in evaluation mode."""
        super().train(mode)
        for block in self.backbone.blocks[: self.frozen_blocks]:
            block.eval()
        return self


def require_parts(config: Config) -> None:
    """Raise UsageError or PluginError, before any work, if a backbone, an aggregation or the loss cannot be used."""
    for encoder in (config.model.ground, config.model.aerial):
        BACKBONES.find(encoder.backbone)
        AGGREGATIONS.find(encoder.aggregation.name)
    make_loss(config.loss, sharded=config.prototypes.table == "sharded")
