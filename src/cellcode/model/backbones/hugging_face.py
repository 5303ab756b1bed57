"""Vision models of transformers: DINOv2 and ConvNeXt, from a hub id or a folder (which works offline)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cellcode.config import EncoderConfig
from cellcode.errors import InputError, MissingExtraError, UsageError
from cellcode.files import write_json
from cellcode.model.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, Features

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def hugging_face(config: EncoderConfig) -> Backbone:
    """Return the model behind `hf:ID_OR_FOLDER`.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: the model cannot be loaded.
        UsageError: it is of a type that is not supported.
    """
    name, source = config.backbone, config.backbone.removeprefix("hf:")
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise MissingExtraError("transformers", "hf", f"backbone {name}") from None
    load: Any = AutoModel.from_pretrained if config.pretrained else AutoModel.from_config
    try:
        # Code that comes with a model is never run: a database may name any model.
        settings = AutoConfig.from_pretrained(source, trust_remote_code=False)
        model = load(source if config.pretrained else settings, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"backbone {name} cannot be loaded ({reason}); give a hub id or a model's folder") from None
    if settings.model_type not in _TYPES:
        known = ", ".join(sorted(_TYPES))
        raise UsageError(f"backbone {name} is a {settings.model_type}; supported model types: {known}")
    return _TYPES[settings.model_type](model, _normalisation(source))


def _normalisation(source: str) -> _Normalisation:
    """Mean and deviation from preprocessor_config.json; ImageNet's if there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError):
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(values.get("image_mean", IMAGENET_MEAN)), tuple(values.get("image_std", IMAGENET_STD))


class _HuggingFace(Backbone):
    """Blocks out of a model, and its configuration, which is kept beside saved weights."""

    def __init__(self, model: Any, blocks: list[nn.Module], channels: int, normalisation: _Normalisation) -> None:
        super().__init__(blocks, channels, *normalisation)
        self.settings = model.config

    def keep(self, folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.save_pretrained(folder)
        write_json(folder / PREPROCESSOR, {"image_mean": list(self.mean), "image_std": list(self.std)})
        return [CONFIG, PREPROCESSOR]


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
        return _to_rows(self.embeddings(x), width // self.patch, self.specials)


class _TokenBlock(nn.Module):
    """A transformer layer (or the last norm) between tokens laid out in rows."""

    def __init__(self, layer: Any, specials: int) -> None:
        super().__init__()
        self.layer, self.specials = layer, specials

    def forward(self, x: Tensor) -> Tensor:
        made = self.layer(_to_tokens(x, self.specials))
        return _to_rows(made[0] if isinstance(made, tuple) else made, x.shape[2], self.specials)


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


class _Dinov2(_HuggingFace):
    def __init__(self, model: Any, normalisation: _Normalisation) -> None:
        config = model.config
        specials = 1 + getattr(config, "num_register_tokens", 0)
        blocks = [
            _PatchEmbedding(model.embeddings, config.patch_size, specials),
            *(_TokenBlock(layer, specials) for layer in model.encoder.layer),
            _TokenBlock(model.layernorm, specials),
        ]
        if (mask := getattr(model.embeddings, "mask_token", None)) is not None:
            mask.requires_grad_(False)  # of its pre-training on hidden patches; no forward here uses it
        super().__init__(model, blocks, config.hidden_size, normalisation)
        self.specials = specials

    def features(self, x: Tensor) -> Features:
        first = _rows_of_specials(x.shape[2], self.specials)
        return Features(x[:, first:].permute(0, 3, 1, 2), x[:, 0, 0])


def _convnext(model: Any, normalisation: _Normalisation) -> Backbone:
    blocks = [model.embeddings, *model.encoder.stages]
    return _HuggingFace(model, blocks, model.config.hidden_sizes[-1], normalisation)


_TYPES: dict[str, Callable[[Any, _Normalisation], Backbone]] = {
    "dinov2": _Dinov2,
    "dinov2_with_registers": _Dinov2,
    "convnext": _convnext,
    "convnextv2": _convnext,
}
