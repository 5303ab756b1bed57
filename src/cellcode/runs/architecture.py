"""The encoder of a run or database: built again by the names in its configuration, with the weights that were saved.

Weights are in safetensors files; a network of transformers also needs its own configuration, which `Backbone.keep` wrote.
Code is imported only if the user allows it: a run or database may come from anyone.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cellcode.config import EncoderConfig
from cellcode.errors import unreadable
from cellcode.model.aggregation import AGGREGATIONS
from cellcode.model.backbones import BACKBONES
from cellcode.model.backbones.hugging_face import CONFIG
from cellcode.model.encoder import Encoder


def rebuilt(config: EncoderConfig, dim: int, kept: Path, where: Path, scales: int = 1) -> Encoder:
    """Make an encoder with random weights; `kept` is the folder of what `Backbone.keep` wrote, if anything.

    Raises:
        PluginError: `where`, a file, names a plug-in whose module the user has not allowed, or one that cannot be used.
    """
    BACKBONES.require_allowed(config.backbone, where)
    AGGREGATIONS.require_allowed(config.aggregation.name, where)
    changes: dict[str, object] = {"pretrained": False}  # the weights come from the artefact, so nothing is fetched
    if config.backbone.startswith("hf:") and (kept / CONFIG).is_file():
        changes["backbone"] = f"hf:{kept}"
    return Encoder(config.model_copy(update=changes), dim, scales)


def restored(
    config: EncoderConfig, dim: int, weights: Mapping[str, Tensor], kept: Path, where: Path, scales: int = 1
) -> Encoder:
    """Make an encoder with saved weights, in evaluation mode; see `rebuilt`. InputError if they are of another network."""
    encoder = rebuilt(config, dim, kept, where, scales)
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        described = f"backbone {config.backbone}, aggregation {config.aggregation.name}, {dim} dimensions"
        reason = (
            f"do not fit the encoder that {where} describes ({described}); the network or the file has changed since"
        )
        raise unreadable(where, error, f"the saved weights {reason}") from None
    return encoder.eval()
