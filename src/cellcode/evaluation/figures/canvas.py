"""What figures are drawn from and on: an evaluation, the look, and a map of cells."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from cellcode.aerial import AerialSource
from cellcode.database import Database
from cellcode.evaluation.confidence import Checked, Stated
from cellcode.evaluation.metrics import Result
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.types import Bools, Float32, Float64, Ids


class CannotDrawError(Exception):
    """The database or the photos lack what a figure shows; the sentence says what."""


@dataclass(frozen=True)
class Material:
    """An evaluation, as figures need it.

    Attributes:
        table: the N tested photos.
        queries: (N, D) float32, the photos as the ground encoder sees them.
        results: of the systems, the hybrid first.
        seen: (N,) bool, the prototype-level cell of the photo has training photos.
        values: report.json.
        aerial: imagery for the gallery.
        out_of_region: answers to out-of-region photos.
    """

    database: Database
    table: PhotoTable
    queries: Float32
    results: list[Result]
    checked: Checked
    seen: Bools
    values: dict[str, Any]
    aerial: AerialSource | None = None
    out_of_region: Stated | None = None

    @property
    def hybrid(self) -> Result:
        """How the database did."""
        return self.results[0]

    @property
    def radius_m(self) -> float:
        """The middle radius: within it a photo counts as found."""
        return float(self.values["confidence"]["radius_m"])


BLUE, VERMILLION, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
SKY, PURPLE, ORANGE, GREY = "#56B4E9", "#CC79A7", "#E69F00", "#767676"
COLOURS = {
    "hybrid": BLACK, "prototypes": BLUE, "aerial": GREEN, "image_retrieval": VERMILLION, "nearest_photo": ORANGE,
    "nearest_cell": GREY,
}  # fmt: skip
STYLES = {
    "hybrid": "-", "prototypes": "--", "aerial": "-.", "image_retrieval": ":", "nearest_photo": "--", "nearest_cell": ":",
}  # fmt: skip
MARKERS = {"hybrid": "o", "prototypes": "s", "aerial": "^", "image_retrieval": "D"}
NAMES = {
    "hybrid": "hybrid (cell codes)",
    "prototypes": "prototypes only",
    "aerial": "aerial only",
    "image_retrieval": "image retrieval",
    "nearest_photo": "nearest training photo (oracle)",
    "nearest_cell": "nearest cell (oracle)",
    "chance": "chance",
}
WIDTH_IN = 8.0
LOOK: Any = {
    "font.size": 12, "axes.titlesize": 13, "axes.labelsize": 12, "legend.fontsize": 11, "xtick.labelsize": 11,
    "ytick.labelsize": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
    "figure.titlesize": 14,
}  # fmt: skip
P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Give what a function draws the look; fonts are chosen when axes are made."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(LOOK):
            return draw(*args, **kwargs)

    return drawn


def new(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty figure."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def grid(axes: Axes) -> None:
    """Draw a faint grid behind curves."""
    axes.set_axisbelow(True)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)


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
    """Axes in kilometres east and north of the middle of some cells, in true proportion."""

    def __init__(self, axes: Axes, ids: Ids) -> None:
        self.axes = axes
        lat, lon = s2.cell_centers(ids)
        lon = lon[0] + distance.wrap_lon(lon - lon[0])  # also across the antimeridian
        self.lat0_deg, self.lon0_deg = (float(np.min(each) + np.ptp(each) / 2) for each in (lat, lon))
        axes.set_aspect("equal")
        axes.locator_params(nbins=6)
        axes.set(xlabel="km east", ylabel="km north")

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
