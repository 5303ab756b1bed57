"""The model: backbones, aggregation, encoders, prototypes, losses. Knows no files but pretrained weights."""

from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.whole import Prototypes

__all__ = ["Encoder", "Prototypes"]
