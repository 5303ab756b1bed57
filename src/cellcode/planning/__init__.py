"""What a region will take, told before anything is fetched: cells, photos, imagery, bytes and time."""

from cellcode.planning.paper import Device
from cellcode.planning.photos import Photos
from cellcode.planning.plan import Plan, make

__all__ = ["Device", "Photos", "Plan", "make"]
