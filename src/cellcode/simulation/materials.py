"""What a rendered world is made of, and the figures that its plan and its pictures share."""

from enum import IntEnum

COARSE_M = 16  # large-scale noise is evaluated on this grid and interpolated
BUILDINGS = 1 << 18  # buildings are known by this many hashed numbers; two far ones may share one, which does no harm
COAST_M = 250  # what lies nearer to the sea is coast
TOWN, SUBURB, FOREST = 0.55, -0.25, 0.75  # thresholds on the fields `urban` and `wood`


class Material(IntEnum):
    """What the surface is made of."""

    GRASS = 0
    ASPHALT = 1
    PAVEMENT = 2
    MARKING = 3
    CROP = 4
    PLOUGHED = 5
    MEADOW = 6
    FOREST_FLOOR = 7
    WATER = 8
    COURTYARD = 9
    GRAVEL = 10
    TREE = 11
    HEDGE = 12
    BUILDING = 13
    SPORT = 14
    POOL = 15
    SHORE = 16
    CAR_PARK = 17


class Style(IntEnum):
    """What differs between districts; three figures each, colours or measures."""

    WALLS = 0
    ROOFS = 1
    ROADS = 2
    PAVING = 3
    GREEN = 4
    SOIL = 5
    WINDOWS = 6
