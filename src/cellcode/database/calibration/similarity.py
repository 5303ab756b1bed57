"""Similarities of validation photos to the two terms of cells: the data that the calibration is fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from cellcode.geography import distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.runs import Validation
from cellcode.types import Bools, Float32, Float64, Ids, Int64

MAX_PHOTOS = 4096
MAX_ENTRIES = 1 << 24  # photos x cells; two float32 arrays of this size are 128 MB
KINDS = ("both", "aerial_only", "prototype_only")


class Terms(NamedTuple):
    """The two terms of N cells, (N, D) of unit length, zeros in cells that lack the term; None when none has it."""

    aerial: npt.NDArray[np.floating] | None
    prototypes: npt.NDArray[np.floating] | None
    has_aerial: Bools
    has_prototype: Bools

    def rows(self, rows: slice) -> Terms:
        """Return the terms of some cells."""
        return Terms(*(values[rows] if values is not None else None for values in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Similarities:
    """Validation photos against cells. V photos that have a cell near them, M cells (all, or a sample)."""

    # (V, M), products of each photo and each term, and the prototype imputed for the cell; zeros where there is none.
    aerial: Float32
    prototypes: Float32
    imputed: Float32
    has_aerial: Bools  # (M,), as is the next
    has_prototype: Bools
    near: Bools  # (V, M), the cell's centre is within the radius of the photo
    nearest: Int64  # (V,), the cell nearest to each photo
    stands_for: Float32  # (M,), how many cells of the database each one stands for (1 without sampling)
    cells: int  # of the database
    photos_near: int  # with a cell near them, before sampling

    @property
    def photos(self) -> int:
        """V."""
        return len(self.nearest)

    @property
    def kind(self) -> Int64:
        """What each cell has, (M,): an index into KINDS."""
        return np.where(self.has_aerial & self.has_prototype, 0, np.where(self.has_aerial, 1, 2))

    @property
    def visited(self) -> Bools:
        """Whether the cell nearest to each photo has a prototype, (V,)."""
        return self.has_prototype[self.nearest]

    @property
    def cells_of(self) -> dict[str, int]:
        """Number of (sampled) cells of each kind."""
        return dict(zip(KINDS, np.bincount(self.kind, minlength=3).tolist(), strict=True))

    @property
    def photos_of(self) -> dict[str, int]:
        """Number of photos by the kind of the cell nearest to them."""
        return dict(zip(KINDS, np.bincount(self.kind[self.nearest], minlength=3).tolist(), strict=True))


class Imputed(Protocol):
    """Imputed prototypes; see `imputation.Imputation`, which imports this module."""

    def transposed(self, queries: Float32) -> tuple[Float32, Float32]:
        """Return (B, D) and (B,)."""


def compare(
    validation: Validation, ids: Ids, terms: Terms, radius_m: float, seed: int, imputation: Imputed | None = None
) -> Similarities:
    """Compare the photos with the cells.

    At most MAX_PHOTOS photos are taken, at random. Where photos times cells then exceed MAX_ENTRIES, every cell near a
    photo is kept and the others are sampled at random, each standing for several; sums over cells stay unbiased, the
    best of all cells (recall@1, top scores) is then the best of the sample.
    """
    near = _near(validation, ids, radius_m)
    photos = np.flatnonzero([len(rows) > 0 for rows in near])
    photos_near = len(photos)
    rng = np.random.default_rng([seed, 5])
    if len(photos) > MAX_PHOTOS:
        photos = np.sort(rng.permutation(photos)[:MAX_PHOTOS])
    near = [near[photo] for photo in photos]
    rows, stands_for = _choose_cells(len(ids), near, rng)
    mask = np.zeros((len(photos), len(rows)), bool)
    for photo, cells in enumerate(near):
        mask[photo, np.searchsorted(rows, cells)] = True
    # The nearest cell is one of those within the radius.
    places = zip(validation.lat_deg[photos], validation.lon_deg[photos], near, strict=True)
    nearest = np.array([cells[np.argmin(_apart_m(lat, lon, ids[cells]))] for lat, lon, cells in places], np.int64)
    queries = validation.queries[photos]
    aerial = _products(queries, terms.aerial, rows)
    imputed = np.zeros((1, 1), np.float32)  # stands for all
    if imputation is not None:
        turned, constant = imputation.transposed(queries)
        lone = terms.has_aerial[rows] & ~terms.has_prototype[rows]
        imputed = (_products(turned, terms.aerial, rows) + constant[:, None]) * lone
    return Similarities(
        aerial,
        _products(queries, terms.prototypes, rows),
        np.broadcast_to(imputed, aerial.shape),
        terms.has_aerial[rows],
        terms.has_prototype[rows],
        near=mask,
        nearest=np.searchsorted(rows, nearest).astype(np.int64),
        stands_for=stands_for,
        cells=len(ids),
        photos_near=photos_near,
    )


def _near(validation: Validation, ids: Ids, radius_m: float) -> list[Int64]:
    """Rows of the cells with centres within the radius of each photo, sorted.

    Cells are found from a grid of points around each photo, closer than cells are narrow: the cost follows the photos.
    """
    level = int(s2.levels(ids[:1])[0])
    step_m = 0.4 * s2.mean_edge_m(level)  # the narrowest cells are 0.6 mean edges wide
    reach = int(np.ceil(radius_m / step_m)) + 2
    east, north = (step_m * axis.ravel() for axis in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    near = []
    for lat_deg, lon_deg in zip(validation.lat_deg, validation.lon_deg, strict=True):
        cells = np.unique(s2.cell_ids(*distance.offset(lat_deg, lon_deg, east, north), level))
        cells = cells[_apart_m(lat_deg, lon_deg, cells) <= radius_m]
        rows = rows_of_ids(ids, cells)
        near.append(rows[rows >= 0])
    return near


def _apart_m(lat_deg: float, lon_deg: float, cells: Ids) -> Float64:
    return distance.haversine_m(lat_deg, lon_deg, *s2.cell_centers(cells))


def _choose_cells(count: int, near: list[Int64], rng: np.random.Generator) -> tuple[Int64, Float32]:
    """Rows to compare with, sorted, and how many cells each stands for."""
    limit = MAX_ENTRIES // max(len(near), 1)
    if count <= limit or not near:
        rows = np.arange(count if near else 0)
        return rows, np.ones(len(rows), np.float32)
    kept = np.unique(np.concatenate(near))
    others = np.setdiff1d(np.arange(count), kept, assume_unique=True)
    sample = rng.permutation(others)[: max(limit - len(kept), 1024)]
    rows = np.concatenate([kept, sample])
    stands_for = np.ones(len(rows), np.float32)
    stands_for[len(kept) :] = len(others) / len(sample)
    order = np.argsort(rows)
    return rows[order], stands_for[order]


def _products(queries: Float32, term: npt.NDArray[np.floating] | None, rows: Int64, block: int = 65536) -> Float32:
    """Return queries . term[rows], (V, M)."""
    products = np.zeros((len(queries), len(rows)), np.float32)
    if term is None or not len(queries):
        return products
    wanted = torch.from_numpy(queries)
    for first in range(0, len(rows), block):
        part = torch.from_numpy(np.array(term[rows[first : first + block]])).float()
        products[:, first : first + block] = (wanted @ part.T).numpy()
    return products
