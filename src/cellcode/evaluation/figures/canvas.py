"""Cells on a map."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from cellcode.geography import distance, s2
from cellcode.types import Float64, Ids

MOST_CELLS = 20_000  # more would be smaller than a pixel: they are drawn as their parents


def coarsened(ids: Ids, values: npt.NDArray[Any]) -> tuple[Ids, Float64]:
    """Return few enough cells to be drawn, and the mean of their values, (N,) or (N, M)."""
    level = int(s2.levels(ids[:1])[0])
    cells, rows = ids, np.arange(len(ids))
    while len(cells) > MOST_CELLS:
        level -= 1
        cells, rows = np.unique(s2.parents(ids, level), return_inverse=True)
    table = np.asarray(values, np.float64).reshape(len(ids), -1)
    count = np.bincount(rows, minlength=len(cells))
    means = np.stack([np.bincount(rows, column, len(cells)) / count for column in table.T], axis=1)
    return cells, means.reshape(len(cells), *np.shape(values)[1:])


class Map:
    """Axes in kilometres east and north of a point, in true proportion.

    Args:
        axes: to draw on.
        ids: cells whose middle is the origin.
    """

    def __init__(self, axes: Axes, ids: Ids) -> None:
        self.axes = axes
        lat, lon = s2.cell_centers(ids)
        lon = lon[0] + distance.wrap_lon(lon - lon[0])  # also across the antimeridian
        self.lat0_deg, self.lon0_deg = (float(np.min(each) + np.ptp(each) / 2) for each in (lat, lon))
        axes.set_aspect("equal")
        axes.locator_params(nbins=6)
        axes.set_xlabel("km east")
        axes.set_ylabel("km north")

    def km(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> tuple[Float64, Float64]:
        """Return where points are drawn."""
        east_m, north_m = distance.local_m(self.lat0_deg, self.lon0_deg, lat_deg, lon_deg)
        return east_m / 1000, north_m / 1000

    def cells(self, ids: Ids, **style: Any) -> PolyCollection:
        """Draw cells; `style` is matplotlib's, such as `facecolors` or `array` and `cmap`."""
        corners = s2.cell_polygons(ids)
        drawn = PolyCollection(list(np.stack(self.km(corners[..., 0], corners[..., 1]), axis=-1)), **style)
        self.axes.add_collection(drawn)
        self.axes.autoscale_view()
        return drawn

    def mark(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, **style: Any) -> None:
        """Draw points; `style` is that of matplotlib's `scatter`."""
        self.axes.scatter(*self.km(lat_deg, lon_deg), **style)


def height_over_width(ids: Ids) -> float:
    """Return the proportion of the cells' extent."""
    lat, lon = s2.cell_centers(ids)
    east, north = distance.local_m(lat[0], lon[0], lat, lon)
    edge_m = s2.mean_edge_m(int(s2.levels(ids[:1])[0]))
    return float(np.clip((np.ptp(north) + edge_m) / (np.ptp(east) + edge_m), 0.25, 2.0))
