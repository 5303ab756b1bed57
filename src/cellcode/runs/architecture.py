"""What a run or a database keeps of a transformers backbone, so that it loads where the hub or the folder is not.

Weights are in safetensors files; a network of transformers also needs its configuration to be built again.
"""

from __future__ import annotations

from pathlib import Path

from cellcode.config import EncoderConfig
from cellcode.files import write_json
from cellcode.model.encoder import Encoder

FILES = ("config.json", "preprocessor_config.json")


def keep(encoder: Encoder, folder: Path) -> list[str]:
    """Write the configuration of a transformers backbone into `folder` and return the files; [] for other backbones."""
    backbone = encoder.backbone
    if backbone.origin is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    backbone.origin.save_pretrained(folder)
    write_json(folder / FILES[1], {"image_mean": list(backbone.mean), "image_std": list(backbone.std)})
    return list(FILES)


def rebuilt(config: EncoderConfig, dim: int, folder: Path, scales: int = 1) -> Encoder:
    """Make an encoder with random weights, from what `keep` left in `folder` where it left anything."""
    changes: dict[str, object] = {"pretrained": False}  # the weights come from the artefact, so nothing is fetched
    if (folder / FILES[0]).is_file():
        changes["backbone"] = f"hf:{folder}"
    return Encoder(config.model_copy(update=changes), dim, scales)
