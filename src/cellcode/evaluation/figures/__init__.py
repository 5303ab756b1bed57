"""Figures of an evaluation, each a function from its `Material` to a matplotlib figure."""

import io
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from cellcode.evaluation.figures import curves, maps
from cellcode.evaluation.figures.canvas import CannotDrawError, Material
from cellcode.files import write_bytes

__all__ = ["FIGURES", "CannotDrawError", "Material", "all_figures", "encode", "save"]

DPI = 120
# In the order of the page.
FIGURES: dict[str, Callable[[Material], Figure]] = {
    figure.__name__: figure
    for figure in (
        maps.hit_map, curves.error_curves, curves.density, maps.rank_gallery, maps.query_similarity,
        maps.prototype_components, maps.code_components, maps.self_similarity, curves.kappa, curves.reliability,
        curves.accuracy_against_coverage, curves.radius_coverage, curves.outside,
    )
}  # fmt: skip
OPTIONAL = {"outside"}  # not worth a sentence where what it shows was not given


def all_figures(material: Material) -> tuple[dict[str, Figure], list[str]]:
    """Draw what the database and the photos allow; return figures by name, and a sentence for each that cannot be drawn."""
    drawn, notes = {}, []
    for name, draw in FIGURES.items():
        try:
            drawn[name] = draw(material)
        except CannotDrawError as error:
            if name not in OPTIONAL:
                notes.append(f"no figure {name.replace('_', ' ')}: {error}")
    return drawn, notes


def encode(drawn: dict[str, Figure]) -> dict[str, bytes]:
    """Return each figure as a PNG."""
    made = {}
    for name, figure in drawn.items():
        figure.savefig(buffer := io.BytesIO(), format="png", dpi=DPI)
        made[name] = buffer.getvalue()
    return made


def save(pictures: dict[str, bytes], folder: Path) -> None:
    """Write PNGs named after their figures; one of an earlier evaluation that is not drawn now is removed."""
    for name in FIGURES.keys() - pictures.keys():
        (folder / f"{name}.png").unlink(missing_ok=True)
    for name, picture in pictures.items():
        write_bytes(folder / f"{name}.png", picture)
