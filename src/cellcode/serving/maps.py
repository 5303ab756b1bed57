"""What the page's map shows: crops of cells and tiles of the imagery, and the posterior as cells of mixed levels."""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from cellcode.aerial import AerialSource, Crop
from cellcode.geography import s2
from cellcode.serving.problems import Problem
from cellcode.types import Bools, Float64, Ids, UInt8

TILE_PX = 256
QUALITY = 85
MISSING = 176  # grey of a crop where there is no imagery: black would look like a shadow
EQUATOR_M = 2 * math.pi * 6_378_137.0  # of the sphere of web mercator
CROP_CELLS = 2.0  # width of a crop in cell edges, so that surroundings show
STEPS = 40  # halvings of a heat map's threshold in its logarithm: more than the mass has digits


class Imagery:
    """Cuts pictures out of an aerial source, in threads of its own.

    Args:
        source: north is up in everything that is cut from it.
        min_zoom, max_zoom: of tiles; coarser ones would read most of the source each.
    """

    def __init__(self, source: AerialSource, min_zoom: int, max_zoom: int) -> None:
        self.source, self.min_zoom, self.max_zoom = source, min_zoom, max_zoom
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="imagery")

    def cell(self, lat_deg: float, lon_deg: float, level: int, size_px: int) -> bytes:
        """Return a JPEG around a cell's centre; Problem not_found: there is no imagery there."""
        crop = self.source.read(lat_deg, lon_deg, CROP_CELLS * s2.mean_edge_m(level), size_px)
        return _encoded(crop, np.where(crop.mask[..., None], crop.pixels, np.uint8(MISSING)), "JPEG")

    def tile(self, z: int, x: int, y: int) -> bytes:
        """Return a web-mercator tile as WebP, transparent where there is no imagery; Problem not_found: no imagery, or no tile.

        It is cut as a square in metres at the scale of its centre. From there to the edge of a tile of zoom 12 the scale of the
        projection changes by at most 0.08 %, a tenth of a pixel; by half of that with each further zoom.
        """
        if not self.min_zoom <= z <= self.max_zoom or not (0 <= x < 2**z and 0 <= y < 2**z):
            raise Problem("not_found", f"there is no tile {z}/{x}/{y}")
        lon_deg = (x + 0.5) / 2**z * 360 - 180
        lat = math.atan(math.sinh(math.pi * (1 - 2 * (y + 0.5) / 2**z)))
        crop = self.source.read(math.degrees(lat), lon_deg, EQUATOR_M * math.cos(lat) / 2**z, TILE_PX)
        alpha = [] if crop.mask.all() else [np.where(crop.mask, np.uint8(255), np.uint8(0))]
        return _encoded(crop, np.dstack([crop.pixels, *alpha]), "WEBP", method=1)  # the slower methods save little

    def close(self) -> None:
        """Let the threads end."""
        self.threads.shutdown(wait=False)


def _encoded(crop: Crop, pixels: UInt8, kind: str, **options: int) -> bytes:
    if not crop.mask.any():
        raise Problem("not_found", "there is no imagery here")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, quality=QUALITY, **options)
    return out.getvalue()


def aggregate(ids: Ids, mass: Float64, most: int) -> tuple[Ids, Float64]:
    """Merge cells into parents where that hides least, until at most `most` remain: few enough to send and draw.

    A cell is shown as large as its mass stays below a threshold, the smallest one that leaves few enough; cells with more mass
    than that are shown as they are. All cells merged into one lie in it, but it may hold ground without cells.

    Args:
        ids: (N,) cells of one level, without repetition.
        mass: (N,) their share of the posterior.
        most: at least the number of cube faces that the cells lie on.

    Returns:
        ids and mass of what is shown, sorted by id; none overlap.
    """
    order = np.argsort(ids)
    ids, mass = np.asarray(ids[order]), mass[order]
    if len(ids) <= most:
        return ids, mass
    level = int(s2.levels(ids[:1])[0])
    nodes = [(ids, mass)]
    above: list[Float64] = []  # mass of the parent of each node
    for coarser in range(level - 1, -1, -1):
        parents, first = np.unique(s2.parents(nodes[-1][0], coarser), return_index=True)
        sums = np.add.reduceat(nodes[-1][1], first)
        above.append(np.repeat(sums, np.diff([*first, len(nodes[-1][0])])))
        nodes.append((parents, sums))
    above.append(np.full(len(nodes[-1][0]), np.inf))

    def shown(threshold: float) -> list[Bools]:
        kept = [(sums <= threshold) & (parent > threshold) for (_, sums), parent in zip(nodes, above, strict=True)]
        kept[0] |= mass > threshold
        return kept

    low, high = np.log(max(mass.min(), 1e-300)), np.log(mass.sum() + 1e-300) + 1e-9
    for _ in range(STEPS):
        middle = (low + high) / 2
        if sum(int(kept.sum()) for kept in shown(float(np.exp(middle)))) > most:
            low = middle
        else:
            high = middle
    kept = shown(float(np.exp(high)))
    found = np.concatenate([cells[rows] for (cells, _), rows in zip(nodes, kept, strict=True)])
    sums = np.concatenate([values[rows] for (_, values), rows in zip(nodes, kept, strict=True)])
    order = np.argsort(found)
    return found[order], sums[order]
