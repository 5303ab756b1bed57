"""Aerial imagery: one base class and its sources, metric crops around a point. Knows no models."""

from cellcode.aerial.crops import read_crops
from cellcode.aerial.missing import Missing
from cellcode.aerial.open import open_source
from cellcode.aerial.protocol import AerialSource, Crop

__all__ = ["AerialSource", "Crop", "Missing", "open_source", "read_crops"]
