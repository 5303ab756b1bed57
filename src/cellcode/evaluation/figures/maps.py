"""Maps of codes and answers over the region, and photos beside the aerial tiles of the truth and of the answer."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import ImageOps

from cellcode.aerial import AerialSource
from cellcode.evaluation.figures import canvas
from cellcode.evaluation.figures.canvas import CannotDrawError, Map, Material, coarsened, grid, new, styled
from cellcode.geography import distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.index.codeset import CodeTable
from cellcode.photos import PhotoError, read_image
from cellcode.types import Bools, Float32, Float64, Ids, Int64

TILE_PX, PHOTO_PX = 192, 256
ROWS = (("easy", 1, 2), ("medium", 7, 16), ("hard", 100, None))
EXAMPLES = 2
NEVER = np.iinfo(np.int64).max
BLOCK = 65536
SAMPLE = 20_000  # codes that the components are fitted to
PAIRS = 20_000
MOST_PAIRS = 1 << 22
FAR_CELLS = 10  # cells further apart than this many edges share nothing in a prototype's neighbourhood
AROUND_CELLS = 8


@styled
def hit_map(material: Material) -> Figure:
    """Draw the cells, darker with more training photos, and each tested photo as found or missed."""
    database, table = material.database, material.table
    ids, photos = coarsened(database.ids, database.facts.photos)
    figure = new(6.6 * canvas.height_over_width(ids) + 1.5)
    drawn = Map(figure.add_subplot(), ids)
    shade = np.log1p(photos) / max(np.log1p(photos.max()), 1e-9)
    faces = np.stack([0.95 - 0.40 * shade, 0.95 - 0.36 * shade, 0.95 - 0.30 * shade], axis=1)
    faces[photos == 0] = (1.0, 0.98, 0.88)
    drawn.cells(ids, facecolors=faces, edgecolors="#cccccc", linewidths=0.3)
    found = material.hybrid.error_m <= material.radius_m
    size = float(np.clip(30_000 / len(table), 7, 26))
    missed_at, found_at = ((table.lat_deg[each], table.lon_deg[each]) for each in (~found, found))
    drawn.mark(*missed_at, s=size, marker="x", c=canvas.VERMILLION, linewidths=1.0)
    drawn.mark(*found_at, s=size, marker="o", c=canvas.BLUE, linewidths=0)
    drawn.axes.set_title(f"Photos found within {material.radius_m:g} m: {found.mean():.0%} of {len(found)}")
    mark: dict[str, Any] = {"linestyle": "", "markersize": 7}
    marks: list[Line2D | Patch] = [
        Line2D([], [], marker="o", color=canvas.BLUE, label=f"found within {material.radius_m:g} m", **mark),
        Line2D([], [], marker="x", color=canvas.VERMILLION, label="missed", **mark),
        Patch(facecolor="#8c969f", edgecolor="#cccccc", label="cell with many training photos"),
    ]
    if (photos == 0).any():
        marks.append(Patch(facecolor="#fffae0", edgecolor="#cccccc", label="cell without any"))
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
    return figure


@styled
def prototype_components(material: Material) -> Figure:
    """Draw the three principal components of the prototypes as red, green and blue."""
    prototypes, has = material.database.terms()[1], material.database.facts.has_prototype
    if prototypes is None or not has.any():
        raise CannotDrawError("the database keeps no prototypes")
    title = "Prototypes: what ground photos taught of each cell"
    return _components(material.database.ids, prototypes, np.flatnonzero(has), title)


@styled
def code_components(material: Material) -> Figure:
    """Draw the three principal components of the cell codes as red, green and blue."""
    rows = np.arange(len(material.database.ids))
    cells = material.database.manifest["cells"]
    made_of = "prototypes and aerial embeddings together"
    if not cells["both"] and not (cells["aerial_only"] and cells["prototype_only"]):
        made_of = "aerial embeddings alone" if cells["aerial_only"] else "prototypes alone"
    return _components(material.database.ids, material.database.codes, rows, f"Cell codes: {made_of}")


@styled
def query_similarity(material: Material) -> Figure:
    """Draw the scores of all cells for a photo that was found and for one that was missed."""
    database, error_m = material.database, material.hybrid.error_m
    found = error_m <= material.radius_m
    chosen = [_typical(error_m, mask) for mask in (found, ~found) if mask.any()]
    proportion = canvas.height_over_width(database.ids)
    figure = new((canvas.WIDTH_IN + 1) / len(chosen) * proportion + 1.6, canvas.WIDTH_IN + 2)
    for column, row in enumerate(chosen):
        drawn = Map(figure.add_subplot(1, len(chosen), column + 1), database.ids)
        ids, scores = coarsened(database.ids, _scores(material, row))
        low, high = np.quantile(scores, [0.02, 1.0])
        cells = drawn.cells(ids, array=scores, cmap="cividis", edgecolors="face", linewidths=0.2, clim=(low, high))
        assert material.hybrid.cells is not None
        answer = s2.cell_centers(material.hybrid.cells[row, :1])
        truth = (material.table.lat_deg[row], material.table.lon_deg[row])
        drawn.mark(*answer, s=260, marker="s", facecolors="none", edgecolors=canvas.VERMILLION, linewidths=2.6)
        drawn.mark(*truth, s=130, marker="*", c="white", edgecolors="black", linewidths=1.1)
        drawn.axes.set_title(f"{'Found' if found[row] else 'Missed'}: answer {_length(error_m[row])} off")
        if column:
            drawn.axes.set_ylabel("")
        figure.colorbar(cells, ax=drawn.axes, location="bottom", shrink=0.8, label="score of the cell")
    marks = [
        Line2D([], [], marker="*", markerfacecolor="white", color="black", linestyle="", markersize=12, label="truth"),
        Line2D([], [], marker="s", markerfacecolor="none", color=canvas.VERMILLION, linestyle="", markersize=11,
               markeredgewidth=2.4, label="answer"),
    ]  # fmt: skip
    figure.suptitle("How similar one photo is to every cell", x=0.01, ha="left")
    figure.legend(handles=marks, loc="outside upper right", ncols=2, frameon=False)
    return figure


@styled
def self_similarity(material: Material) -> Figure:
    """Draw how one prototype resembles its neighbours, and the similarity of neighbours beside that of far cells."""
    prototypes, has = material.database.terms()[1], material.database.facts.has_prototype
    rows = np.flatnonzero(has)
    if prototypes is None or len(rows) < 20:
        raise CannotDrawError("the database keeps fewer than 20 prototypes")
    # One row for each prototype: upsampled to the cells it would resemble itself.
    level = int(material.values["levels"]["prototype"])
    ids, first = np.unique(s2.parents(np.asarray(material.database.ids[rows]), level), return_index=True)
    rows, edge_m = rows[first], s2.mean_edge_m(level)
    near, far = _pair_similarities(ids, prototypes, rows, FAR_CELLS * edge_m)
    figure = new(4.9, canvas.WIDTH_IN + 2)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    centre = _amid_neighbours(ids, edge_m)
    lat, lon = s2.cell_centers(ids)
    around = distance.haversine_m(lat[centre], lon[centre], lat, lon) < 1.45 * AROUND_CELLS * edge_m
    similarity = prototypes[rows[around]].astype(np.float32) @ prototypes[rows[centre]].astype(np.float32)
    drawn = Map(left, ids[centre : centre + 1])
    look: dict[str, Any] = {"cmap": "cividis", "edgecolors": "#ffffff", "linewidths": 0.4, "clim": (0, 1)}
    cells = drawn.cells(ids[around], array=similarity, **look)
    drawn.mark(lat[centre], lon[centre], s=130, marker="*", c="white", edgecolors="black", linewidths=1.1)
    reach_km = AROUND_CELLS * edge_m / 1000
    left.set(xlim=(-reach_km, reach_km), ylim=(-reach_km, reach_km), title="One prototype (star) and those around it")
    figure.colorbar(cells, ax=left, shrink=0.85, label="cosine similarity")
    bins = np.linspace(min(-0.5, float(far.min()) if len(far) else 0), 1, 61)
    for values, colour, hatch, name in (
        (far, canvas.BLUE, "", f"over {FAR_CELLS * edge_m / 1000:.1f} km apart"),
        (near, canvas.VERMILLION, "//", "touching cells"),
    ):  # fmt: skip
        if len(values):
            share = np.full(len(values), 100 / len(values))
            right.hist(values, bins, weights=share, color=colour, alpha=0.6, hatch=hatch, edgecolor=colour,
                       histtype="stepfilled", label=f"{name}\n(median {np.median(values):.2f})")  # fmt: skip
    right.axvline(0, color="black", linewidth=0.8)
    right.set(
        xlabel="cosine similarity of two prototypes", ylabel="pairs (%)", title="Far prototypes: near orthogonal?"
    )
    right.legend(loc="upper left", edgecolor="none", framealpha=1)
    grid(right)
    return figure


def _components(ids: Ids, codes: CodeTable, rows: Int64, title: str) -> Figure:
    if len(rows) < 2:
        raise CannotDrawError("the database has fewer than two cells with them")
    cells, colours = coarsened(np.asarray(ids[rows]), principal_colours(codes, rows))
    figure = new(6.6 * canvas.height_over_width(cells) + 1.2)
    drawn = Map(figure.add_subplot(), cells)
    drawn.cells(cells, facecolors=colours, edgecolors="face", linewidths=0.2)
    drawn.axes.set_title(f"{title}\n(like colours: like vectors; 3 principal components as RGB)")
    return figure


def principal_colours(codes: CodeTable, rows: Int64) -> Float64:
    """Return the three principal components of rows, (M,), of codes, (N, D), brought to unit length, as colours.

    These are (M, 3) in 0..1, which stands for percentile 2 to 98 of each component. Codes are read a block at a time.
    """
    sample = _unit(codes[rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)]])
    mean = sample.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    axes = axes[:, :-4:-1]
    axes = axes * np.where(axes.sum(axis=0) < 0, -1, 1)  # a sign of its own would change colours between machines
    blocks = (rows[first : first + BLOCK] for first in range(0, len(rows), BLOCK))
    turned = np.concatenate([(_unit(codes[block]) - mean) @ axes for block in blocks])
    low, high = np.percentile(turned, [2, 98], axis=0)
    return np.asarray(np.clip((turned - low) / np.maximum(high - low, 1e-9), 0, 1), np.float64)


def _unit(codes: npt.NDArray[np.floating]) -> Float32:
    wide = np.asarray(codes, np.float32)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-9))


def _scores(material: Material, row: int) -> Float32:
    codes, query = material.database.codes, material.queries[row]
    blocks = (codes[first : first + BLOCK] for first in range(0, len(codes), BLOCK))
    return np.concatenate([block.astype(np.float32) @ query for block in blocks])


def _typical(error_m: Float64, mask: Bools) -> int:
    rows = np.flatnonzero(mask)
    return int(rows[np.argsort(error_m[rows])[len(rows) // 2]])


def _pair_similarities(
    ids: Ids, prototypes: npt.NDArray[np.floating], rows: Int64, far_m: float
) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(0)
    a = rng.permutation(len(ids))[:PAIRS]
    b = rows_of_ids(ids, s2.edge_neighbors(ids[a])[:, :2])
    there = b >= 0
    pairs = np.stack([np.repeat(a, 2).reshape(-1, 2)[there], b[there]])
    lat, lon = s2.cell_centers(ids)
    wide = rng.integers(0, len(ids), (2, PAIRS))
    apart_m = distance.haversine_m(lat[wide[0]], lon[wide[0]], lat[wide[1]], lon[wide[1]])
    return _cosines(prototypes, rows[pairs]), _cosines(prototypes, rows[wide[:, apart_m > far_m]])


def _cosines(prototypes: npt.NDArray[np.floating], pairs: Int64) -> Float32:
    one, other = (prototypes[rows].astype(np.float32) for rows in pairs)
    return np.asarray((one * other).sum(axis=1))


def _amid_neighbours(ids: Ids, edge_m: float) -> int:
    """The cell with the most others around it; the one nearest to the middle of them all where several have."""
    lat, lon = s2.cell_centers(ids)
    some = np.linspace(0, len(ids) - 1, min(len(ids), max(1, MOST_PAIRS // len(ids)), 400)).astype(int)
    apart_m = distance.haversine_m(lat[some, None], lon[some, None], lat, lon)
    return int(some[(apart_m < AROUND_CELLS * edge_m).sum(axis=1).argmax()])


def _length(metres: float) -> str:
    return f"{metres:.0f} m" if metres < 1000 else f"{metres / 1000:.1f} km"


@styled
def rank_gallery(material: Material) -> Figure:
    """Draw photos whose true cell has rank 1-2, 7-16 or at least 100: photo, tile of the truth, tile of the answer."""
    rank = true_ranks(material)
    titles = ("photo", "true cell", "answer") if material.aerial is not None else ("photo",)
    examples = [(name, first, last, _examples(rank, first, last)) for name, first, last in ROWS]
    if not (rows := [row for row in examples if len(row[3])]):
        raise CannotDrawError("no tested photo has a rank that it shows")
    columns = EXAMPLES * len(titles)
    assert material.hybrid.cells is not None
    most = material.hybrid.cells.shape[1]
    each_in = 1.75 if len(titles) > 1 else 3.0
    figure = new(each_in * len(rows) + 0.8, canvas.WIDTH_IN + 2 if len(titles) > 1 else canvas.WIDTH_IN)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, first, last, chosen) in enumerate(rows):
        for place in range(EXAMPLES):
            cells = grid[line, place * len(titles) : (place + 1) * len(titles)]
            for axes, title in zip(cells, titles, strict=True):
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if not line:
                    axes.set_title(title, loc="center")
            if place < len(chosen):
                _example(material, int(chosen[place]), cells)
                found = rank[chosen[place]]
                cells[0].set_xlabel(f"rank {found}" if found < NEVER else f"rank > {most}")
        grid[line, 0].set_ylabel(f"{name}\nrank {first}–{last}" if last else f"{name}\nrank {first} or more")
    figure.suptitle("Easy, medium and hard photos, by the rank of the true cell", x=0.01, ha="left")
    return figure


def true_ranks(material: Material) -> Int64:
    """Return the rank, from 1, of the cell that holds each photo, (N,); NEVER where it is not among the answers."""
    cells = material.hybrid.cells
    assert cells is not None
    own = s2.cell_ids(material.table.lat_deg, material.table.lon_deg, material.database.level)
    same = cells == own[:, None]
    return np.where(same.any(axis=1), same.argmax(axis=1) + 1, NEVER).astype(np.int64)


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
    size_m, off_m = material.database.config.tile.size_m, material.hybrid.error_m[row]
    _tile(material.aerial, own, size_m, cells[1], canvas.BLUE)
    _tile(material.aerial, answer, size_m, cells[2], canvas.BLUE if own[0] == answer[0] else canvas.VERMILLION)
    cells[2].set_xlabel(f"{off_m:.0f} m off" if off_m < 1000 else f"{off_m / 1000:.1f} km off")


def _tile(source: AerialSource, cell: Ids, size_m: float, axes: Axes, colour: str) -> None:
    lat, lon = s2.cell_centers(cell)
    crop = source.read(float(lat[0]), float(lon[0]), size_m, TILE_PX)
    axes.imshow(crop.pixels)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=3)
