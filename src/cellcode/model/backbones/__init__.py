"""Backbones: images in, a map of local features out. `BACKBONES` has them by name."""

from cellcode.model.backbones.protocol import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, Backbone, Features, make_backbone

__all__ = ["BACKBONES", "IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "Features", "make_backbone"]
