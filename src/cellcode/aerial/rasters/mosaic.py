"""A folder of rasters read as one source."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import shapely

from cellcode.aerial.missing import Missing
from cellcode.aerial.multi import merged, union
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.aerial.rasters.geotiff import GeoTiffSource, OffGlobeError
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, distance

logger = logging.getLogger(__name__)

SUFFIXES = {".tif", ".tiff", ".vrt"}
PREFERENCES = ("imagery", "newest")


class MosaicSource(AerialSource):
    """Rasters of a folder, each in its own CRS.

    Args:
        folder: its files ending in .tif, .tiff or .vrt are used; one whose georeference is outside valid coordinates is
            left out, named and counted in `missing`.
        prefer: which of several comes first where they overlap: the one with most imagery in the crop ("imagery"), or the
            newest by its tag ("newest"; of one date, the one with most imagery; without a date last).

    Raises:
        InputError: there are none, or one of them cannot be used.
        UsageError: unknown preference.
    """

    def __init__(self, folder: Path | str, prefer: str = "imagery") -> None:
        if prefer not in PREFERENCES:
            raise UsageError(f"{folder}: prefer={prefer} must be one of {', '.join(PREFERENCES)}")
        folder = Path(folder)
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"{folder} holds no rasters ({', '.join(sorted(SUFFIXES))})")
        self.prefer = prefer
        self.sources = self._open(files)
        self._tree = shapely.STRtree([source.footprint().shape for source in self.sources])
        self.attribution = union(source.attribution for source in self.sources)
        self.licence = union(source.licence for source in self.sources)
        what = "".join(source.identity for source in self.sources) + ("" if prefer == "imagery" else prefer)
        self.identity = hashlib.sha256(what.encode()).hexdigest()[:16]
        self.date = max((source.date for source in self.sources if source.date), default=None)

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`; gaps of one raster are filled from the next."""
        corner = np.array([-1, 1]) * size_m / np.sqrt(2)
        south_north, west_east = distance.offset(lat_deg, lon_deg, corner, corner)
        west, east = float(west_east[0]), float(west_east[1])
        if west > east:  # across the antimeridian: rare enough to read every raster
            near = range(len(self.sources))
        else:
            near = self._tree.query(shapely.box(west, south_north[0], east, south_north[1]))
        crops = [self.sources[i].read(lat_deg, lon_deg, size_m, size_px, bearing_deg) for i in near]
        crops.sort(key=lambda crop: -int(crop.mask.sum()))
        if self.prefer == "newest":
            crops.sort(key=lambda crop: crop.date or "", reverse=True)
        return merged(crops, size_px)

    def footprint(self) -> Region:
        """Return the union of the outlines."""
        return Region(shapely.union_all([source.footprint().shape for source in self.sources]))

    def close(self) -> None:
        """Close the rasters."""
        for source in self.sources:
            source.close()

    def _open(self, files: list[Path]) -> list[GeoTiffSource]:
        sources, refused = [], []
        for path in files:
            try:
                sources.append(GeoTiffSource(path))
            except OffGlobeError as error:
                refused.append(str(error))
                self.missing[Missing("outside valid coordinates", path.name)] += 1
        if not sources:
            raise InputError(refused[0])
        if refused:
            logger.warning("%d of %d rasters left out: %s", len(refused), len(files), "; ".join(refused))
        return sources


def open_folder(text: str) -> MosaicSource:
    """Open `FOLDER` or `FOLDER#prefer=newest`; see `MosaicSource`."""
    folder, _, preference = text.partition("#prefer=")
    return MosaicSource(folder, preference or "imagery")
