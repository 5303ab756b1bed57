"""What a rendered world is made of, and how it looks: materials, facades, roofs, vegetation, and the camera."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cellcode.types import Float32

COARSE_M = 16  # large-scale noise is evaluated on this grid and interpolated
BUILDINGS = 1 << 18  # buildings are known by this many hashed numbers; two far ones may share one, which does no harm
COAST_M = 250  # what lies nearer to the sea is coast
TOWN, SUBURB, FOREST = 0.55, -0.25, 0.75  # thresholds on the fields `urban` and `wood`


# What the surface is made of.
Material = IntEnum(
    "Material",
    "GRASS ASPHALT PAVEMENT MARKING CROP PLOUGHED MEADOW FOREST_FLOOR WATER COURTYARD GRAVEL TREE HEDGE BUILDING SPORT POOL "
    "SHORE CAR_PARK",
    start=0,
)
# What differs between districts; three figures each, colours or measures.
Style = IntEnum("Style", "WALLS ROOFS ROADS PAVING GREEN SOIL WINDOWS", start=0)


Range = tuple[float, float]


@dataclass(frozen=True)
class Camera:
    """Ranges that cameras are drawn from, uniformly."""

    fov_deg: Range = (60, 110)
    height_m: Range = (1.5, 2.2)
    exposure: Range = (0.65, 1.35)
    white_balance: tuple[Range, Range, Range] = ((0.85, 1.15), (0.85, 1.15), (0.85, 1.15))
    noise: Range = (0.005, 0.03)


@dataclass(frozen=True)
class Look:
    """Statistics of a country.

    Attributes:
        walls, roofs: (N, 3) float32 colours that buildings choose from, RGB shares.
        street_pitch_m: distances of streets along both axes.
        more_storeys: added to every building.
        window_period, window_width: factors on the distance and the width of windows.
        trees: factor on their number.
        green, earth: factors on the colours of plants and of soil, RGB.
    """

    walls: Float32
    roofs: Float32
    street_pitch_m: tuple[float, float] = (92.0, 84.0)
    more_storeys: int = 0
    storey_m: float = 3.0
    window_period: float = 1.0
    window_width: float = 1.0
    trees: float = 1.0
    flat_roofs: bool = False
    green: tuple[float, float, float] = (1.0, 1.0, 1.0)
    earth: tuple[float, float, float] = (1.0, 1.0, 1.0)
    camera: Camera = Camera()


LOOKS = {
    "north": Look(
        walls=np.array(
            [(0.62, 0.34, 0.26), (0.50, 0.28, 0.22), (0.82, 0.78, 0.68), (0.90, 0.89, 0.86), (0.72, 0.62, 0.46),
             (0.58, 0.58, 0.58), (0.80, 0.66, 0.36), (0.44, 0.50, 0.56), (0.70, 0.48, 0.40), (0.56, 0.64, 0.56),
             (0.86, 0.72, 0.62), (0.38, 0.30, 0.28)],
            np.float32,
        ),
        roofs=np.array(
            [(0.60, 0.30, 0.20), (0.46, 0.26, 0.20), (0.30, 0.31, 0.34), (0.42, 0.43, 0.45), (0.68, 0.42, 0.28),
             (0.62, 0.62, 0.60), (0.24, 0.24, 0.26), (0.40, 0.47, 0.40)],
            np.float32,
        ),
    ),
    "south": Look(
        walls=np.array(
            [(0.94, 0.92, 0.86), (0.90, 0.82, 0.66), (0.88, 0.74, 0.58), (0.93, 0.86, 0.76), (0.84, 0.62, 0.48),
             (0.78, 0.76, 0.72)],
            np.float32,
        ),
        roofs=np.array(
            [(0.72, 0.46, 0.32), (0.66, 0.40, 0.28), (0.78, 0.72, 0.64), (0.84, 0.82, 0.78), (0.58, 0.54, 0.50)],
            np.float32,
        ),
        street_pitch_m=(70.0, 110.0), more_storeys=1, storey_m=3.6, window_period=1.45, window_width=0.7, trees=0.45,
        flat_roofs=True, green=(1.25, 1.0, 0.95), earth=(1.25, 1.1, 0.85),
        camera=Camera(fov_deg=(50, 75), height_m=(2.2, 2.8), exposure=(0.8, 1.5),
                      white_balance=((1.0, 1.25), (0.9, 1.1), (0.75, 1.0)), noise=(0.02, 0.05)),
    ),
}  # fmt: skip
