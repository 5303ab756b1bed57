"""Where things are: S2 cells over numpy arrays, distances, regions. Imports no other room."""

from cellcode.geography import distance, ranges, s2
from cellcode.geography.region import Region

__all__ = ["Region", "distance", "ranges", "s2"]
