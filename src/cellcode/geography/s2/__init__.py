"""S2 cells over numpy arrays: ids as uint64, angles in degrees, latitude first.

Ranges of ids, the Hilbert curve, the projection and the shapes of cells are in modules beside it.
"""

from cellcode.geography.s2.cells import (
    EARTH_AREA_M2,
    LEAVES,
    MAX_LEVEL,
    all_neighbors,
    cell_centers,
    cell_ids,
    cell_polygons,
    children,
    descendants,
    edge_neighbors,
    from_tokens,
    is_valid,
    levels,
    lowest_bit,
    mean_edge_m,
    parents,
    range_max,
    range_min,
    tokens,
)

__all__ = [
    "EARTH_AREA_M2",
    "LEAVES",
    "MAX_LEVEL",
    "all_neighbors",
    "cell_centers",
    "cell_ids",
    "cell_polygons",
    "children",
    "descendants",
    "edge_neighbors",
    "from_tokens",
    "is_valid",
    "levels",
    "lowest_bit",
    "mean_edge_m",
    "parents",
    "range_max",
    "range_min",
    "tokens",
]
