"""Aerial imagery: one protocol and its sources, metric crops around a point. Knows no models."""

from cellcode.aerial.crops import read_crops
from cellcode.aerial.source import AerialSource, Crop, open_source

__all__ = ["AerialSource", "Crop", "open_source", "read_crops"]
