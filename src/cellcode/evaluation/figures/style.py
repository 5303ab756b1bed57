"""The look of all figures: sizes to be read at half size, colours of Okabe and Ito, which stay apart for colour-blind eyes."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
SKY, PURPLE, ORANGE, GREY = "#56B4E9", "#CC79A7", "#E69F00", "#767676"
COLOURS = {
    "hybrid": BLACK,
    "prototypes": BLUE,
    "aerial": GREEN,
    "image_retrieval": VERMILLION,
    "nearest_photo": ORANGE,
    "nearest_cell": GREY,
}
STYLES = {
    "hybrid": "-",
    "prototypes": "--",
    "aerial": "-.",
    "image_retrieval": ":",
    "nearest_photo": "--",
    "nearest_cell": ":",
}
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
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "legend.fontsize": 11,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "figure.titlesize": 14,
}


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
