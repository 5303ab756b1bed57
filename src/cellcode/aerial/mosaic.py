"""A folder of rasters read as one source."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from cellcode.aerial.geotiff import GeoTiffSource
from cellcode.aerial.source import Crop
from cellcode.errors import InputError
from cellcode.geography import Region, distance

SUFFIXES = {".tif", ".tiff", ".vrt"}


class MosaicSource:
    """Rasters of a folder, each in its own CRS; where they overlap, the one with more imagery comes first.

    Args:
        folder: its files ending in .tif, .tiff or .vrt are used.

    Raises:
        InputError: there are none, or one of them cannot be used.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"{folder} holds no rasters ({', '.join(sorted(SUFFIXES))})")
        self.sources = [GeoTiffSource(path) for path in files]
        self._tree = shapely.STRtree([source.footprint().shape for source in self.sources])
        self.attribution = "; ".join(sorted({source.attribution for source in self.sources if source.attribution}))
        self.licence = "; ".join(sorted({source.licence for source in self.sources if source.licence}))
        self.identity = hashlib.sha256("".join(source.identity for source in self.sources).encode()).hexdigest()[:16]
        self.date = max((source.date for source in self.sources if source.date), default=None)
        self.bounds = self.footprint().bounds

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`; gaps of one raster are filled from the next."""
        corner = np.array([-1, 1]) * size_m / np.sqrt(2)
        south_north, west_east = distance.offset(lat_deg, lon_deg, corner, corner)
        west, east = float(west_east[0]), float(west_east[1])
        if west > east:  # across the antimeridian: rare enough to ask every raster
            near = range(len(self.sources))
        else:
            near = self._tree.query(shapely.box(west, south_north[0], east, south_north[1]))
        crops = [self.sources[i].read(lat_deg, lon_deg, size_m, size_px, bearing_deg) for i in near]
        pixels, mask = np.zeros((size_px, size_px, 3), np.uint8), np.zeros((size_px, size_px), bool)
        named, dates = [], []
        for crop in sorted(crops, key=lambda crop: -int(crop.mask.sum())):
            fresh = crop.mask & ~mask
            if fresh.any():
                pixels[fresh], mask = crop.pixels[fresh], mask | fresh
                named.append(crop.attribution)
                dates += [crop.date] if crop.date else []
        return Crop(pixels, mask, "; ".join(dict.fromkeys(name for name in named if name)), min(dates, default=None))

    def footprint(self) -> Region:
        """Return the union of the outlines."""
        return Region(shapely.union_all([source.footprint().shape for source in self.sources]))

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """See `AerialSource.covers`."""
        return self.footprint().contains(lat_deg, lon_deg)
