"""Made-up code sets with real statistics, to test search over millions of cells without training them.

A generated set has the mean, spectrum, spatial correlation and code lengths of a trained set (`CodeStatistics`), and its
queries stand to their true cells as the trained set's photos do. Every component of a code, along the trained codes'
principal directions, is a Gaussian field over the cell grid: a pyramid of random lattices with spacings of 1, 2, 4 ... 32
cells, weighted so that the sum has the component's autocorrelation. The codes are then rescaled to the trained lengths.

A code depends on the seed and the cell alone, whatever is generated before it, and fields run on across block borders.
Bytes repeat on one machine, version of torch and number of threads.

Not reproduced: correlation beyond 32 cells and negative correlation; structure other than Gaussian, such as smooth areas
with sharp borders (neighbours' cosines spread less than trained ones) or the same kind of place returning far away;
directions of a larger world that the trained cells never showed. True cells rank better in the median and worse in the tail
than trained ones. Query residuals are drawn from the real photos', so no more distinct ones exist than photos.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from code_statistics import LAGS, CodeStatistics
from torch import Tensor

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.geography.s2 import hilbert
from cellcode.simulation.noise import hashed
from cellcode.types import Float32, Float64, Ids, Int64

BLOCK_DEPTH = 8  # a block is an S2 cell this many levels above the cells: 256 x 256 of them
_TILE_DEPTH = 6  # the finest noise is drawn for 64 x 64 cells from one stream
_OCTAVES = 6  # lattices with spacings of 1, 2 ... 32 cells
_MARGIN = 2  # lattice points beside a block; doubled, they leave room for the shift
_SHIFT = 2  # cells, along i, j, both or none
_LAG_WEIGHTS = np.array(
    [10.0, 3, 2, 2, 1, 0.5, 0.25]
)  # of lag 0 and LAGS: near cells decide a search, far lags are noisy


class CodeField:
    """A field of codes over the cells of the whole Earth, of which any block can be made on its own."""

    def __init__(self, statistics: CodeStatistics, seed: int) -> None:
        """Prepare the field of `seed` with the given statistics."""
        self.statistics = statistics
        self._seed = seed
        # The lattice of spacing 2 is aligned with the cells' parents, as prototypes one level up are: trained neighbours
        # resemble each other more inside a parent (mean cosine 0.94) than across its edge (0.81). At higher levels they do
        # not, so components are shifted by groups.
        rank = np.arange(statistics.dim)
        group = rank % 2 * 2 + (rank + rank // 2) % 2  # shifts of both axes differ rank by rank
        order = np.argsort(group, kind="stable")  # a group's components side by side
        ends = np.searchsorted(group[order], np.arange(5))
        self._groups = [slice(int(first), int(end)) for first, end in pairwise(ends)]
        self._weights = torch.from_numpy(_octave_weights(statistics.correlation[order]))  # octaves x D
        self._mean = torch.from_numpy(statistics.mean)
        self._directions = torch.from_numpy((statistics.basis * statistics.spread).T[order])
        # Independent cells show what lengths codes have before they are rescaled, and how far queries are from them.
        free = torch.randn((1 << 13, statistics.dim), generator=torch.Generator().manual_seed(0))
        codes = torch.addmm(self._mean, free, self._directions)
        self._raw_norms = np.quantile(codes.norm(dim=1).numpy(), np.linspace(0, 1, len(statistics.norms)))
        self._gain = self._query_gain(self._rescaled(codes).numpy())

    def blocks(
        self, cells: int, lat_deg: float = 52.0, lon_deg: float = 5.0, level: int = 16
    ) -> Iterator[tuple[Ids, Float32]]:
        """Yield ids (n,) and codes (n, D) of `cells` cells about a place, in rising order of ids.

        The cells fill a square of blocks (S2 cells with 256 x 256 cells, or one smaller block) on one face of the cube
        but for its last ids, cut to the exact number.
        """
        left = cells
        for block in _square_of_blocks(cells, lat_deg, lon_deg, level):
            ids, codes = self._block(block, level)
            yield ids[:left], codes[:left]
            left -= ids.size
            if left <= 0:
                return

    def queries(
        self, ids: npt.ArrayLike, codes: npt.NDArray[np.floating], count: int, seed: int
    ) -> tuple[Float32, Int64]:
        """Make queries for cells drawn from a generated set, `codes` (N, D) of `ids` (N,).

        Returns unit queries (count, D) and the rows (count,) of their true cells.
        """
        if np.size(ids) != len(codes):
            raise InputError(f"{np.size(ids)} ids do not belong to {len(codes)} codes")
        random = np.random.default_rng(seed)
        rows = random.integers(0, len(codes), count)
        return self._asked(np.asarray(codes[rows], np.float32), self._gain, random), rows

    def _asked(self, own: Float32, gain: Float32, random: np.random.Generator) -> Float32:
        """Return a query for each true code (B, D), unit length."""
        known = self.statistics
        components = (own - known.mean) @ known.basis
        residuals = known.query_residuals[random.integers(0, len(known.query_residuals), len(own))].astype(np.float32)
        queries = (known.query_mean + gain * components + residuals) @ known.basis.T
        unit: Float32 = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        return unit

    def _query_gain(self, codes: Float32) -> Float32:
        """Return the gains (D,), all scaled by the factor that gives queries the real median cosine with their true codes.

        Unscaled they fall short (0.40 for 0.46): real codes and queries agree in more than a line through Gaussians.
        """
        low, high = 0.0, 4.0
        for _ in range(12):
            middle = (low + high) / 2
            asked = self._asked(codes, self.statistics.query_gain * np.float32(middle), np.random.default_rng(0))
            cosine = np.median((asked * codes).sum(axis=1) / np.linalg.norm(codes, axis=1))
            low, high = (middle, high) if cosine < self.statistics.true_cosine else (low, middle)
        return self.statistics.query_gain * np.float32(low)

    def _rescaled(self, codes: Tensor) -> Tensor:
        """Give codes (N, D) the trained lengths, in place: the longest becomes as long as the longest trained one."""
        lengths = codes.norm(dim=1).numpy()
        wanted = np.interp(lengths, self._raw_norms, self.statistics.norms)
        return codes.mul_(torch.from_numpy((wanted / lengths).astype(np.float32))[:, None])

    def _block(self, block: Ids, level: int) -> tuple[Ids, Float32]:
        """Return all cells of `level` in one S2 cell (1,) and their codes."""
        ids = s2.descendants(block, level).ravel()
        i, j = _grid(ids)
        left, low, side = int(i.min()), int(j.min()), int(np.sqrt(ids.size))
        face = int(ids[0] >> np.uint64(61))
        field = self._smooth_field(face, left, low, side)
        self._add_white_noise(field, face, left, low)
        in_order = field.reshape(side * side, -1)[torch.from_numpy((i - left) * side + (j - low))]
        return ids, self._rescaled(torch.addmm(self._mean, in_order, self._directions)).numpy()

    def _smooth_field(self, face: int, left: int, low: int, side: int) -> Tensor:
        """Return the octaves from spacing 2 upwards on the cells of a block, (side, side, D)."""
        field = self._lattice(_OCTAVES - 1, face, left, low, side)
        for octave in range(_OCTAVES - 2, 0, -1):
            lattice = self._lattice(octave, face, left, low, side)
            field = _refined(field, (left, low), octave, _MARGIN, len(lattice)).add_(lattice)
        field = _refined(field, (left, low), 0, _SHIFT, side + _SHIFT)
        shifted = field.new_empty((side, side, field.shape[2]))
        for group, part in enumerate(self._groups):
            i, j = (_SHIFT * bit for bit in divmod(group, 2))
            shifted[..., part] = field[i : i + side, j : j + side, part]
        return shifted

    def _lattice(self, octave: int, face: int, left: int, low: int, side: int) -> Tensor:
        """Return an octave's weighted noise on a block and a margin around it."""
        points = np.arange(max(side >> octave, 1) + 2 * _MARGIN) - _MARGIN
        i, j = ((place >> octave) + points for place in (left, low))
        return _lattice_noise(self._seed, face, octave, i, j, self.statistics.dim).mul_(self._weights[octave])

    def _add_white_noise(self, field: Tensor, face: int, left: int, low: int) -> None:
        """Add the octave of spacing 1 to the (side, side, D) field of a block, in place."""
        tile = 1 << _TILE_DEPTH
        side, weight = len(field), self._weights[0]

        def add(corner: tuple[int, int]) -> None:
            i, j = corner
            key = hashed(self._seed, [0, 1], face, i // tile, j // tile).astype(np.uint64)
            stream = torch.Generator().manual_seed(int(key[0]) << 31 ^ int(key[1]))
            noise = torch.empty((tile, tile, field.shape[2])).normal_(generator=stream)
            inside_i, inside_j = slice(max(left - i, 0), left + side - i), slice(max(low - j, 0), low + side - j)
            noise = noise[inside_i, inside_j]
            at_i, at_j = max(i - left, 0), max(j - low, 0)
            field[at_i : at_i + tile, at_j : at_j + tile].addcmul_(noise, weight)

        corners = [
            (i, j)
            for i in range(left // tile * tile, left + side, tile)
            for j in range(low // tile * tile, low + side, tile)
        ]
        # torch draws normals on one thread and without the interpreter's lock.
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(add, corners))


def _square_of_blocks(cells: int, lat_deg: float, lon_deg: float, level: int) -> Iterator[Ids]:
    """Yield the blocks (1,) of a square about the place that holds `cells` cells, in rising order."""
    depth = min(BLOCK_DEPTH, level, int(np.ceil(np.log2(max(cells, 1)) / 2)))
    block_level = level - depth
    side = int(np.ceil(np.sqrt(cells / 4**depth)))
    if cells < 1 or side > 1 << block_level:
        raise InputError(f"{cells} cells of level {level} do not fit one face of the cube; ask for 1 to {4**level}")
    face, i, j, size = hilbert.face_ij_size(s2.cell_ids(lat_deg, lon_deg, block_level))
    first_i, first_j = (np.clip(place // size - (side - 1) // 2, 0, (1 << block_level) - side) for place in (i, j))
    steps = np.arange(side)
    grid_i, grid_j = np.meshgrid(first_i + steps, first_j + steps)
    faces = np.full(side * side, face[0])
    blocks = hilbert.from_face_ij(faces, grid_i.ravel() * size[0], grid_j.ravel() * size[0], block_level)
    yield from np.sort(blocks)[:, None]


def _grid(ids: Ids) -> tuple[Int64, Int64]:
    """Return the place of each cell in its face's grid of its level."""
    _, i, j, size = hilbert.face_ij_size(ids)
    return i // size, j // size


def _normal_table() -> Float32:
    """Return the normal distribution's quantiles at 2^16 even probabilities: a hash's upper bits become a normal value."""
    probabilities = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    table: Float32 = torch.special.ndtri(probabilities).numpy().astype(np.float32)
    return table


_NORMAL = _normal_table()


def _lattice_noise(seed: int, face: int, octave: int, i: Int64, j: Int64, dim: int) -> Tensor:
    """Return normal values that depend on the lattice point alone, so that neighbouring blocks agree; (I, J, dim)."""
    bits = hashed(seed, 8 * octave + face + 2, i[:, None, None], j[:, None], np.arange(dim, dtype=np.uint32))
    return torch.from_numpy(_NORMAL[bits >> np.uint32(16)])


def _refined(field: Tensor, corner: tuple[int, int], octave: int, margin: int, points: int) -> Tensor:
    """Put the next coarser lattice's field on that of `octave`: `points` squared, from `margin` points before `corner`."""
    # The doubled field begins at fine point 2 ((corner >> octave + 1) - _MARGIN) + 1.
    i, j = ((place >> octave & 1) + 2 * _MARGIN - 1 - margin for place in corner)
    return _doubled(field)[i : i + points, j : j + points]


def _doubled(field: Tensor) -> Tensor:
    """Double the resolution of an (I, J, D) field bilinearly: (2 I - 2, 2 J - 2, D), from half a step inside the border.

    New points lie a quarter of a step either side of the old ones; index 0 is fine point 1 of old point 0.
    """
    for axis in (0, 1):
        points = field.shape[axis] - 1
        here, there = field.narrow(axis, 0, points), field.narrow(axis, 1, points)
        shape = list(field.shape)
        shape[axis : axis + 1] = [points, 2]
        fine = field.new_empty(shape)
        torch.lerp(here, there, 0.25, out=fine.select(axis + 1, 0))
        torch.lerp(here, there, 0.75, out=fine.select(axis + 1, 1))
        shape[axis : axis + 2] = [2 * points]
        field = fine.reshape(shape)
    return field


def _octave_weights(correlation: Float32) -> Float32:
    """Return the weight of each octave's unit noise, (octaves, D), for autocorrelations (D, L) at `LAGS`.

    Non-negative least squares over the octaves' shares of the variance, by multiplicative updates. Negative correlations
    count as 0: no sum of octaves has them.
    """
    kernels = _octave_covariances()
    shapes = kernels / kernels[:, :1] * _LAG_WEIGHTS
    wanted = np.concatenate([np.ones((len(correlation), 1)), np.maximum(correlation, 0)], axis=1) * _LAG_WEIGHTS
    shares = np.full((len(correlation), _OCTAVES), 1 / _OCTAVES)
    projected, gram = wanted @ shapes.T, shapes @ shapes.T
    for _ in range(3000):
        shares *= projected / np.maximum(shares @ gram, 1e-12)
    shares /= shares.sum(axis=1, keepdims=True)
    return np.sqrt(shares / kernels[:, 0]).T.astype(np.float32)


def _octave_covariances() -> Float64:
    """Return the covariance of unit lattice noise doubled 0, 1 ... times at lag 0 and `LAGS` along an axis.

    Doubling averages noise, so the value at lag 0 falls; the values are means over the places between lattice points.
    """
    result = np.zeros((_OCTAVES, 1 + len(LAGS)))
    for octave in range(_OCTAVES):
        kernel = np.zeros(9)
        kernel[4] = 1
        for _ in range(octave):
            padded = np.pad(kernel, 1)
            kernel = np.stack(
                [0.75 * padded[:-1] + 0.25 * padded[1:], 0.25 * padded[:-1] + 0.75 * padded[1:]], axis=1
            ).ravel()
        along = [float(kernel[: kernel.size - lag] @ kernel[lag:]) if lag < kernel.size else 0.0 for lag in (0, *LAGS)]
        result[octave] = np.array(along) / 2**octave * (along[0] / 2**octave)
    return result
