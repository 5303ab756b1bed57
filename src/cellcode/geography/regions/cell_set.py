"""Areas made of S2 cells."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.geography.distance import EARTH_RADIUS_M
from cellcode.geography.regions import polygon
from cellcode.geography.s2 import hilbert, projection, ranges
from cellcode.types import Bools, Float64, Ids, Int64, Ranges

_FINE_LEVEL = 6  # sides of coarser cells are drawn with the corners of this level, about 1.5 degrees apart


@dataclass(frozen=True, eq=False)
class CellsArea:
    """The points in S2 cells of any levels; a point belongs to the leaf cell that `s2.cell_ids` puts it in.

    So a cell of a finer level than the given one that it lies in belongs to the area entirely, and a coarser one belongs
    to it when the leaf at its centre does. The centre is a corner of four leaves and rounding picks one of them; `ranges`
    and `contains` pick the same.

    Attributes:
        ids: (N,) uint64, sorted, none inside another.
    """

    ids: Ids

    @classmethod
    def of(cls, ids: npt.ArrayLike) -> Self:
        """Return the area of any cells; those inside others are dropped. InputError: there is none, or one is no cell."""
        try:
            ids = np.atleast_1d(np.asarray(ids, np.uint64)).ravel()
        except (TypeError, ValueError, OverflowError):
            raise InputError("region: cells must be given as 64-bit ids; read tokens with s2.from_tokens") from None
        if not len(ids):
            raise InputError("region: no cells were given")
        if not (valid := s2.is_valid(ids)).all():
            raise InputError(f"region: {s2.tokens(ids[~valid][:1])[0]!r} is not the token of an S2 cell")
        # Cells nest or are apart: in the order of their first leaves, larger before smaller, one is inside another if its
        # last leaf is no news.
        first, last = s2.range_min(ids), s2.range_max(ids)
        order = np.lexsort((~last, first))
        ids, last = ids[order], np.maximum.accumulate(last[order])
        return cls(ids[np.concatenate([[True], last[1:] > last[:-1]])])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CellsArea) and np.array_equal(self.leaves, other.leaves)

    def __hash__(self) -> int:
        return hash(self.leaves.tobytes())

    @cached_property
    def leaves(self) -> Ranges:
        """The ranges of leaf cells."""
        return ranges.join(ranges.spans(self.ids, s2.MAX_LEVEL), s2.MAX_LEVEL)

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the cells; west > east where their widest gap in longitude is on the map."""
        face, s, t, _ = self._squares
        (west, south), (east, north) = projection.boxes(face, s, t)
        order = np.argsort(west)
        west, east = west[order], np.maximum.accumulate(east[order])
        gaps = np.append(west[1:] - east[:-1], west[0] + 360 - east[-1])
        widest = int(gaps.argmax())
        if gaps[widest] < 1e-9:
            return -180.0, float(south.min()), 180.0, float(north.max())
        return float(west[(widest + 1) % len(west)]), float(south.min()), float(east[widest]), float(north.max())

    @cached_property
    def shape(self) -> BaseGeometry:
        """The box around the cells."""
        return polygon.box(*self.bounds).shape

    @cached_property
    def outline(self) -> BaseGeometry:
        """The cells as one shape with edges of at most about 1.5 degrees; off by up to some 1e-9 degrees of rounding."""
        face, s, t, level = self._squares
        rings = []
        for one in np.unique(level):
            of_level = level == one
            pieces = 1 << max(0, _FINE_LEVEL - int(one))
            rings += projection.rings(face[of_level], s[:, of_level], t[:, of_level], pieces)
        # The grid closes slits where the corner of a cell lies on the side of a larger one.
        return shapely.union_all([shapely.Polygon(ring) for ring in rings], grid_size=1e-9)

    def contains(self, lat: Float64, lon: Float64) -> Bools:
        """Tell which points lie in the cells."""
        leaf = s2.cell_ids(lat, lon, s2.MAX_LEVEL)
        row = np.searchsorted(self.leaves[:, 0], leaf, side="right") - 1
        inside = (row >= 0) & (leaf <= self.leaves[row, 1])
        return np.asarray(inside.reshape(np.broadcast_shapes(lat.shape, lon.shape)))

    def ranges(self, level: int) -> Ranges:
        """Return the cells of `level` with their centre in the area."""
        first, last = s2.parents(self.leaves[:, 0], level), s2.parents(self.leaves[:, 1], level)
        # Only the cells at the ends of a range of leaves can lie in it in part.
        ends = np.unique(np.concatenate([first, last]))
        ends = ends[self.contains(*s2.cell_centers(ends))]
        step = np.uint64(2) * s2.lowest_bit(first)
        middle = np.stack([first + step, last - step], axis=1)[last - first > step]
        return ranges.join(np.concatenate([middle, np.stack([ends, ends], axis=1)]), level)

    def area_m2(self) -> float:
        """Return the area on the sphere."""
        _, s, t, level = self._squares
        (u0, u1), (v0, v1) = projection.st_to_uv(s), projection.st_to_uv(t)
        # The solid angle of a rectangle on the cube, exactly; below a few km its middle stands for it, because the four
        # terms cancel (either way the error is below 1e-6 of the area).
        exact = _solid_angle(u1, v1) - _solid_angle(u0, v1) - _solid_angle(u1, v0) + _solid_angle(u0, v0)
        u, v = (u0 + u1) / 2, (v0 + v1) / 2
        small = (u1 - u0) * (v1 - v0) / (1 + u * u + v * v) ** 1.5
        return float(np.where(level < 11, exact, small).sum() * EARTH_RADIUS_M**2)

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON geometry."""
        return polygon.geojson_of(self.outline)

    @property
    def _squares(self) -> tuple[Int64, Float64, Float64, Int64]:
        """Face, s and t, each (2, N) low and high, and level of the cells; faces by their children, which lie beside poles."""
        whole = s2.levels(self.ids) == 0
        ids = np.concatenate([self.ids[~whole], s2.children(self.ids[whole]).ravel()])
        face, i, j, size = hilbert.face_ij_size(ids)
        s, t = np.stack([i, i + size]) / hilbert.LEAVES, np.stack([j, j + size]) / hilbert.LEAVES
        return face, s, t, s2.levels(ids)


def _solid_angle(u: Float64, v: Float64) -> Float64:
    return np.arctan(u * v / np.sqrt(1 + u * u + v * v))
