"""Where things are: S2 cells over numpy arrays, distances, regions. Imports no other room."""

from cellcode.geography import distance, s2
from cellcode.geography.numbers import parse_number
from cellcode.geography.regions.region import Region
from cellcode.geography.s2 import ranges

__all__ = ["Region", "distance", "parse_number", "ranges", "s2"]
