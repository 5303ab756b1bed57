"""The base class of every aerial source, and the square of imagery that it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy.typing as npt

from cellcode.aerial.missing import Missing
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
    attribution: str = ""
    date: str | None = None
    complete: bool = True


class AerialSource(ABC):
    """Imagery that can be cut around any point; several threads may read at the same time.

    A source must have `read`, `footprint` and `identity`; everything else has a default.

    Attributes:
        identity: not empty; changes when the imagery does. A build or training of another identity is not resumed.
        attribution, licence: for the manifest of what is made from it; may be empty.
        date: of the imagery, ISO 8601, where known.
        is_remote: reading fetches over a network.
    """

    identity: str
    attribution: str = ""
    licence: str = ""
    date: str | None = None
    is_remote: bool = False

    @abstractmethod
    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """Cut a square of `size_m` metres centred on a point; its top points to `bearing_deg`, clockwise from north."""

    @abstractmethod
    def footprint(self) -> Region:
        """Return the area that may have imagery."""

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """Return which points, (N,) degrees, lie in the footprint, as (N,) bool."""
        return self.footprint().contains(lat_deg, lon_deg)

    def editions(self, count: int) -> Sequence[AerialSource]:
        """Return up to `count` views of the same place at different dates, the source itself first."""
        return [self]

    def close(self) -> None:  # noqa: B027 - a default
        """Close files and connections."""

    @cached_property
    def missing(self) -> Counter[Missing]:
        """What has been masked so far and why, each tile or file once."""
        return Counter()

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the footprint in degrees."""
        return self.footprint().bounds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
