"""An aerial source of one's own: a checkerboard over the whole Earth, black and white squares of so many metres."""

import numpy as np

from cellcode.aerial import AerialSource, Crop
from cellcode.geography import Region, distance


class Checkerboard(AerialSource):
    """Squares along the meridians and parallels through 0, 0.

    Args:
        square_m: side of a square; options come as strings.
    """

    licence = "CC0-1.0"

    def __init__(self, square_m: str = "20") -> None:
        self.square_m = float(square_m)
        if not self.square_m > 0:
            raise ValueError(f"square_m={square_m} must be a positive number of metres")
        self.identity = f"checkerboard {self.square_m:g}"

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """Draw what lies under each pixel of the crop."""
        steps = ((np.arange(size_px) + 0.5) / size_px - 0.5) * size_m
        right, up = np.meshgrid(steps, -steps)
        bearing = np.deg2rad(bearing_deg)
        east_m = right * np.cos(bearing) + up * np.sin(bearing)
        north_m = up * np.cos(bearing) - right * np.sin(bearing)
        lat, lon = distance.offset(lat_deg, lon_deg, east_m, north_m)
        metres = np.deg2rad(np.stack([lat, lon * np.cos(np.deg2rad(lat_deg))])) * distance.EARTH_RADIUS_M
        white = np.floor(metres / self.square_m).sum(axis=0) % 2 == 1
        pixels = np.repeat(white[..., None] * np.uint8(255), 3, axis=-1)
        return Crop(pixels, np.ones((size_px, size_px), bool), date="2024-06-01")

    def footprint(self) -> Region:
        """Return the part of the Earth that web maps show."""
        return Region.bbox(-180, -85, 180, 85)
