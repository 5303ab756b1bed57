"""The encoder: pixels in, a unit vector out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellcode.config import EncoderConfig
from cellcode.model.aggregation import make_aggregation
from cellcode.model.backbones import make_backbone


class Encoder(nn.Module):
    """Backbone, aggregation and a linear projection. Ground and aerial encoders share this class, not their weights.

    Args:
        config: names of the parts.
        dim: D of the embedding.

    Raises:
        UsageError, InputError, MissingExtraError: see `make_backbone`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, dim: int) -> None:
        super().__init__()
        self.backbone = make_backbone(config.backbone, config.pretrained)
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.aggregation = make_aggregation(config.aggregation, self.backbone.channels)
        self.projection = nn.Linear(self.aggregation.out_dim, dim)
        self.dim = dim
        self.frozen_blocks = 0
        self.register_buffer("mean", 255 * torch.tensor(self.backbone.mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.backbone.std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (B, H, W, 3), uint8 or float in 0..255.

        Returns:
            (B, D) float32, unit length.
        """
        return self.from_prefix(self.prefix(images, 0), 0)

    def prefix(self, images: Tensor, stop: int) -> Tensor:
        """Return the output of the first `stop` blocks; 0 gives normalised images (B, 3, H, W)."""
        x: Tensor = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        return self.backbone.run(x.contiguous(memory_format=torch.channels_last), 0, stop)

    def from_prefix(self, x: Tensor, start: int) -> Tensor:
        """Embed what `prefix` returned for the same number of blocks; (B, D) float32, unit length."""
        features = self.backbone.features(self.backbone.run(x, start))
        return F.normalize(self.projection(self.aggregation(features)).float(), dim=1)

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
