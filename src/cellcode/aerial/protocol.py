"""The protocol that every aerial source follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy.typing as npt

from cellcode.geography import Region
from cellcode.types import Bools, UInt8


@dataclass(frozen=True)
class Crop:
    """A square of imagery.

    Attributes:
        pixels: (size_px, size_px, 3) uint8 RGB; 0 where the mask is False.
        mask: (size_px, size_px) bool, True where there is imagery.
        attribution: whom to name for it.
        date: of the imagery, ISO 8601, where known; of several, the oldest.
        complete: False where something is masked that could not be fetched now and may be there later.
    """

    pixels: UInt8
    mask: Bools
    attribution: str
    date: str | None = None
    complete: bool = True


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

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """Tell which points, (N,) degrees, lie in the footprint."""
