"""The plan of a region before anything is fetched: cells, photos, imagery, bytes and time."""

from cellcode.planning.material import Photos
from cellcode.planning.plan import Plan, make
from cellcode.planning.step import Device

__all__ = ["Device", "Photos", "Plan", "make"]
