"""The protocol every source of aerial imagery follows, and opening one by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError, UsageError
from cellcode.geography import Region


@dataclass(frozen=True)
class Crop:
    """A square of imagery.

    Attributes:
        pixels: (size_px, size_px, 3) uint8 RGB; 0 where the mask is False.
        mask: (size_px, size_px) bool, True where there is imagery.
        attribution: whom to name for it.
        date: of the imagery, ISO 8601, where known; of several, the oldest.
    """

    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    attribution: str
    date: str | None = None


@runtime_checkable
class AerialSource(Protocol):
    """Imagery that can be cut around any point.

    Attributes:
        attribution, licence: for the manifest of what is made from it; may be empty.
        identity: changes when the imagery does.
        date: of the imagery, ISO 8601, where known.
        bounds: west, south, east, north in degrees.
    """

    attribution: str
    licence: str
    identity: str
    date: str | None
    bounds: tuple[float, float, float, float]

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """Cut a square of `size_m` metres centred on a point; its top points to `bearing_deg`, clockwise from north."""

    def footprint(self) -> Region:
        """Return the area that may have imagery."""

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tell which points, (N,) degrees, lie in the footprint."""


def open_source(spec: AerialSource | Path | str) -> AerialSource:
    """Open the imagery of a path: a GeoTIFF, COG or VRT, or a folder of them. A source is returned as it is.

    Raises:
        InputError: it does not exist or cannot be used; the sentence says why.
        UsageError: a kind of source that is not supported.
    """
    from cellcode.aerial.geotiff import GeoTiffSource
    from cellcode.aerial.mosaic import MosaicSource

    if not isinstance(spec, Path | str):
        return spec
    if "{z}" in str(spec) or "://" in str(spec) or Path(spec).suffix.lower() == ".mbtiles":
        raise UsageError(f"aerial source {spec}: tile services and .mbtiles are not supported yet; give a GeoTIFF")
    path = Path(spec)
    if path.is_dir():
        return MosaicSource(path)
    if not path.exists():
        raise InputError(f"aerial source {path} does not exist; give a GeoTIFF, a COG, a VRT or a folder of them")
    return GeoTiffSource(path)
