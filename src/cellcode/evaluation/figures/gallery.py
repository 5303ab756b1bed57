"""Photos beside the aerial tiles of the truth and of the answer, from easy to hard."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import ImageOps

from cellcode.aerial import AerialSource
from cellcode.evaluation.figures.material import CannotDrawError, Material
from cellcode.evaluation.figures.style import BLUE, VERMILLION, WIDTH_IN, new, styled
from cellcode.geography import s2
from cellcode.photos import PhotoError, read_image
from cellcode.types import Ids, Int64

TILE_PX, PHOTO_PX = 192, 256
ROWS = (("easy", 1, 2), ("medium", 7, 16), ("hard", 100, None))
EXAMPLES = 2
NEVER = np.iinfo(np.int64).max


@styled
def rank_gallery(material: Material) -> Figure:
    """Draw photos whose true cell has rank 1-2, 7-16 or at least 100: photo, tile of the truth, tile of the answer."""
    rank = true_ranks(material)
    titles = ("photo", "true cell", "answer") if material.aerial is not None else ("photo",)
    rows = [(name, first, last, _examples(rank, first, last)) for name, first, last in ROWS]
    rows = [row for row in rows if len(row[3])]
    if not rows:
        raise CannotDrawError("no tested photo has a rank that it shows")
    columns = EXAMPLES * len(titles)
    each_in = 1.75 if len(titles) > 1 else 3.0
    figure = new(each_in * len(rows) + 0.8, WIDTH_IN + 2 if len(titles) > 1 else WIDTH_IN)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, first, last, chosen) in enumerate(rows):
        for place in range(EXAMPLES):
            cells = grid[line, place * len(titles) : (place + 1) * len(titles)]
            for axes, title in zip(cells, titles, strict=True):
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                if not line:
                    axes.set_title(title, loc="center")
            if place < len(chosen):
                _example(material, int(chosen[place]), cells)
                found = rank[chosen[place]]
                cells[0].set_xlabel(f"rank {found}" if found < NEVER else f"rank > {_most(material)}")
        said = f"rank {first}–{last}" if last else f"rank {first} or more"
        grid[line, 0].set_ylabel(f"{name}\n{said}")
    figure.suptitle("Easy, medium and hard photos, by the rank of the true cell", x=0.01, ha="left")
    return figure


def true_ranks(material: Material) -> Int64:
    """Return the rank, from 1, of the cell that holds each photo, (N,); NEVER where it is not among the answers."""
    cells = material.hybrid.cells
    assert cells is not None
    own = s2.cell_ids(material.table.lat_deg, material.table.lon_deg, material.database.level)
    same = cells == own[:, None]
    return np.where(same.any(axis=1), same.argmax(axis=1) + 1, NEVER).astype(np.int64)


def _most(material: Material) -> int:
    assert material.hybrid.cells is not None
    return int(material.hybrid.cells.shape[1])


def _examples(rank: Int64, first: int, last: int | None) -> Int64:
    rows = np.flatnonzero((rank >= first) & (rank <= (last or NEVER)))
    return np.random.default_rng(1).permutation(rows)[:EXAMPLES]


def _example(material: Material, row: int, cells: npt.NDArray[np.object_]) -> None:
    """Draw one photo into the first of the axes, and its tiles into the others."""
    table, level = material.table, material.database.level
    try:
        photo = read_image(table.files[row])
        # Square as the tiles are, so that rows line up.
        cells[0].imshow(np.asarray(ImageOps.pad(photo, (PHOTO_PX, PHOTO_PX), color="white")))
    except PhotoError:  # it could be read a moment ago
        cells[0].text(0.5, 0.5, "cannot be read", ha="center")
    if material.aerial is None:
        return
    assert material.hybrid.cells is not None
    own = s2.cell_ids(table.lat_deg[row], table.lon_deg[row], level)
    answer = material.hybrid.cells[row, :1]
    size_m = material.database.config.tile.size_m
    _tile(material.aerial, own, size_m, cells[1], BLUE)
    _tile(material.aerial, answer, size_m, cells[2], BLUE if own[0] == answer[0] else VERMILLION)
    off_m = material.hybrid.error_m[row]
    cells[2].set_xlabel(f"{off_m:.0f} m off" if off_m < 1000 else f"{off_m / 1000:.1f} km off")


def _tile(source: AerialSource, cell: Ids, size_m: float, axes: Axes, colour: str) -> None:
    lat, lon = s2.cell_centers(cell)
    crop = source.read(float(lat[0]), float(lon[0]), size_m, TILE_PX)
    axes.imshow(crop.pixels)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=3)
