"""Where on the globe the rendered world lies: in the North Sea, so that nobody takes it for a real town.

The world's metres are those of UTM zone 31; its aerial image is a raster of that projection.
"""

import numpy as np
import rasterio.warp

from cellcode.geography import Region
from cellcode.types import Float64

CRS = "EPSG:32631"
WEST_M, SOUTH_M = 503_000, 5_761_000  # near 52.0 N 3.04 E


def to_degrees(size_m: int, x_m: Float64, y_m: Float64) -> tuple[Float64, Float64]:
    """Return latitude and longitude of points of a world; x to the east and y to the south of its north-west corner."""
    lon, lat = rasterio.warp.transform(CRS, "EPSG:4326", WEST_M + x_m, SOUTH_M + size_m - y_m)
    return np.asarray(lat, np.float64), np.asarray(lon, np.float64)


def convergence_deg(size_m: int, x_m: Float64, y_m: Float64) -> Float64:
    """Bearing of the raster's north at each point, clockwise from true north."""
    lat, lon = to_degrees(size_m, x_m, y_m)
    ahead_lat, ahead_lon = to_degrees(size_m, x_m, y_m - 100.0)
    return np.asarray(np.degrees(np.arctan2((ahead_lon - lon) * np.cos(np.radians(lat)), ahead_lat - lat)))


def outline(size_m: int, share: tuple[float, float, float, float] = (0, 0, 1, 1)) -> Region:
    """Return a world, or a rectangle of it: west, north, east and south as shares of the world's edge."""
    west, north, east, south = (each * float(size_m) for each in share)
    lat, lon = to_degrees(size_m, np.array([west, east, east, west]), np.array([south, south, north, north]))
    ring = [[float(b), float(a)] for a, b in zip(lat, lon, strict=True)]
    return Region.geojson({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
