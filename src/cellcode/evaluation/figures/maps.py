"""Maps: what codes look like over the region, where a photo's answer lies, where answers are right."""

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cellcode.evaluation.figures.canvas import Map, coarsened, height_over_width
from cellcode.evaluation.figures.material import CannotDrawError, Material
from cellcode.evaluation.figures.style import BLUE, VERMILLION, WIDTH_IN, grid, new, styled
from cellcode.geography import distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.index.codeset import CodeTable
from cellcode.types import Bools, Float32, Float64, Ids, Int64

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
    figure = new(6.6 * height_over_width(ids) + 1.5)
    drawn = Map(figure.add_subplot(), ids)
    shade = np.log1p(photos) / max(np.log1p(photos.max()), 1e-9)
    faces = np.stack([0.95 - 0.40 * shade, 0.95 - 0.36 * shade, 0.95 - 0.30 * shade], axis=1)
    faces[photos == 0] = (1.0, 0.98, 0.88)
    drawn.cells(ids, facecolors=faces, edgecolors="#cccccc", linewidths=0.3)
    found = material.hybrid.error_m <= material.radius_m
    size = float(np.clip(30_000 / len(table), 7, 26))
    missed_at, found_at = ((table.lat_deg[each], table.lon_deg[each]) for each in (~found, found))
    drawn.mark(*missed_at, s=size, marker="x", c=VERMILLION, linewidths=1.0)
    drawn.mark(*found_at, s=size, marker="o", c=BLUE, linewidths=0)
    drawn.axes.set_title(f"Photos found within {material.radius_m:g} m: {found.mean():.0%} of {len(found)}")
    marks: list[Line2D | Patch] = [
        Line2D(
            [], [], marker="o", color=BLUE, linestyle="", markersize=7, label=f"found within {material.radius_m:g} m"
        ),
        Line2D([], [], marker="x", color=VERMILLION, linestyle="", markersize=7, label="missed"),
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
    rows = np.flatnonzero(has)
    return _components(material.database.ids, prototypes, rows, "Prototypes: what ground photos taught of each cell")


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
    proportion = height_over_width(database.ids)
    figure = new((WIDTH_IN + 1) / len(chosen) * proportion + 1.6, WIDTH_IN + 2)
    for column, row in enumerate(chosen):
        drawn = Map(figure.add_subplot(1, len(chosen), column + 1), database.ids)
        ids, scores = coarsened(database.ids, _scores(material, row))
        low, high = np.quantile(scores, [0.02, 1.0])
        cells = drawn.cells(ids, array=scores, cmap="cividis", edgecolors="face", linewidths=0.2, clim=(low, high))
        assert material.hybrid.cells is not None
        answer = s2.cell_centers(material.hybrid.cells[row, :1])
        truth = (material.table.lat_deg[row], material.table.lon_deg[row])
        drawn.mark(*answer, s=260, marker="s", facecolors="none", edgecolors=VERMILLION, linewidths=2.6)
        drawn.mark(*truth, s=130, marker="*", c="white", edgecolors="black", linewidths=1.1)
        drawn.axes.set_title(f"{'Found' if found[row] else 'Missed'}: answer {_length(error_m[row])} off")
        if column:
            drawn.axes.set_ylabel("")
        figure.colorbar(cells, ax=drawn.axes, location="bottom", shrink=0.8, label="score of the cell")
    marks = [
        Line2D([], [], marker="*", markerfacecolor="white", color="black", linestyle="", markersize=12, label="truth"),
        Line2D([], [], marker="s", markerfacecolor="none", color=VERMILLION, linestyle="", markersize=11,
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
    figure = new(4.9, WIDTH_IN + 2)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    centre = _amid_neighbours(ids, edge_m)
    lat, lon = s2.cell_centers(ids)
    around = distance.haversine_m(lat[centre], lon[centre], lat, lon) < 1.45 * AROUND_CELLS * edge_m
    similarity = prototypes[rows[around]].astype(np.float32) @ prototypes[rows[centre]].astype(np.float32)
    drawn = Map(left, ids[centre : centre + 1])
    cells = drawn.cells(
        ids[around], array=similarity, cmap="cividis", edgecolors="#ffffff", linewidths=0.4, clim=(0, 1)
    )
    drawn.mark(lat[centre], lon[centre], s=130, marker="*", c="white", edgecolors="black", linewidths=1.1)
    reach_km = AROUND_CELLS * edge_m / 1000
    left.set_xlim(-reach_km, reach_km)
    left.set_ylim(-reach_km, reach_km)
    left.set_title("One prototype (star) and those around it")
    figure.colorbar(cells, ax=left, shrink=0.85, label="cosine similarity")
    bins = np.linspace(min(-0.5, float(far.min()) if len(far) else 0), 1, 61)
    for values, colour, hatch, name in (
        (far, BLUE, "", f"over {FAR_CELLS * edge_m / 1000:.1f} km apart"), (near, VERMILLION, "//", "touching cells")
    ):  # fmt: skip
        if len(values):
            share = np.full(len(values), 100 / len(values))
            right.hist(values, bins, weights=share, color=colour, alpha=0.6, hatch=hatch, edgecolor=colour,
                       histtype="stepfilled", label=f"{name}\n(median {np.median(values):.2f})")  # fmt: skip
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel("cosine similarity of two prototypes")
    right.set_ylabel("pairs (%)")
    right.set_title("Far prototypes: near orthogonal?")
    right.legend(loc="upper left", edgecolor="none", framealpha=1)
    grid(right)
    return figure


def _components(ids: Ids, codes: CodeTable, rows: Int64, title: str) -> Figure:
    if len(rows) < 2:
        raise CannotDrawError("the database has fewer than two cells with them")
    cells, colours = coarsened(np.asarray(ids[rows]), principal_colours(codes, rows))
    figure = new(6.6 * height_over_width(cells) + 1.2)
    drawn = Map(figure.add_subplot(), cells)
    drawn.cells(cells, facecolors=colours, edgecolors="face", linewidths=0.2)
    drawn.axes.set_title(f"{title}\n(like colours: like vectors; 3 principal components as RGB)")
    return figure


def principal_colours(codes: CodeTable, rows: Int64) -> Float64:
    """Return the three principal components of some codes, brought to unit length, as colours.

    Args:
        codes: (N, D), read a block at a time.
        rows: (M,), the codes that are wanted.

    Returns:
        (M, 3) in 0..1, which stands for percentile 2 to 98 of each component.
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
    parts = [codes[first : first + BLOCK].astype(np.float32) @ query for first in range(0, len(codes), BLOCK)]
    return np.concatenate(parts)


def _typical(error_m: Float64, mask: Bools) -> int:
    """The photo of median error among some."""
    rows = np.flatnonzero(mask)
    return int(rows[np.argsort(error_m[rows])[len(rows) // 2]])


def _pair_similarities(
    ids: Ids, prototypes: npt.NDArray[np.floating], rows: Int64, far_m: float
) -> tuple[Float32, Float32]:
    """Similarities of cells that touch, and of random cells at least so far apart."""
    rng = np.random.default_rng(0)
    a = rng.permutation(len(ids))[:PAIRS]
    beside = s2.edge_neighbors(ids[a])[:, :2]
    b = rows_of_ids(ids, beside)
    there = b >= 0
    pairs = np.stack([np.repeat(a, 2).reshape(-1, 2)[there], b[there]])
    lat, lon = s2.cell_centers(ids)
    wide = rng.integers(0, len(ids), (2, PAIRS))
    apart_m = distance.haversine_m(lat[wide[0]], lon[wide[0]], lat[wide[1]], lon[wide[1]])
    return _cosines(prototypes, rows[pairs]), _cosines(prototypes, rows[wide[:, apart_m > far_m]])


def _cosines(prototypes: npt.NDArray[np.floating], pairs: Int64) -> Float32:
    """Products of pairs of rows, (2, M)."""
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
