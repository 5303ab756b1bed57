"""The first stage of a two-stage search: product-quantised codes, scanned with faiss's fast scan.

Every code (or the mean of the codes of a parent cell) is brought into the coordinates of `directions`, where components
that matter little for scores are dropped, and cut into pieces of two numbers, each replaced by the nearest of 16
centroids; what that leaves is quantised again in the same way, once per level. Codes of places vary most in a few
directions, so a second level on those is worth more than further components. faiss compares 32 entries at a time by table
look-ups in registers (Andre et al., Quicker ADC, TPAMI 2021); to faiss a level is another row of pieces for the same query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError, unreadable
from cellcode.index.codeset import rows_of
from cellcode.index.quantise import Directions, centroids, find_directions, product_quantiser
from cellcode.types import Float32, Ids, Int64

CENTROIDS = 16
WIDTH = 2  # numbers per piece
Over = Literal["cells", "parents"]
Starts = npt.NDArray[np.integer]


@dataclass(frozen=True)
class FirstStage:
    """Quantised codes of cells or of parents: a faiss index.

    Entry j is row j; with `starts`, (P + 1,), it stands for the rows `starts[j]` to `starts[j + 1]`.
    """

    index: Any
    directions: Directions
    starts: Starts | None

    @property
    def over(self) -> Over:
        """What an entry stands for."""
        return "cells" if self.starts is None else "parents"

    @property
    def levels(self) -> int:
        """How often a code is quantised."""
        return int(self.index.d) // len(self.directions.for_codes)

    @property
    def entries(self) -> int:
        """Number of quantised codes."""
        return int(self.index.ntotal)

    @property
    def rows(self) -> int:
        """Number of rows behind all entries."""
        return self.entries if self.starts is None else int(self.starts[-1])

    @property
    def entry_bytes(self) -> int:
        """Size of an entry: half a byte per piece and level."""
        return int(self.index.code_size)

    def order(self, queries: Float32, entries: int) -> Int64:
        """Return the best entries of each query, best first, (B, entries) int64."""
        turned = np.tile(queries @ self.directions.for_queries.T, (1, self.levels))
        _, found = self.index.search(np.ascontiguousarray(turned), min(entries, self.entries))
        found = np.asarray(found, np.int64)
        if (found[:, 0] < 0).any():
            raise InputError("the first stage of the search does not hold the cells of its database; build it again")
        # faiss leaves out entries that are the worst in every piece and fills up with -1: they come last.
        for row in np.flatnonzero(found[:, -1] < 0):
            missing = found[row] < 0
            found[row, missing] = np.setdiff1d(np.arange(self.entries), found[row, ~missing])[: missing.sum()]
        return found

    def search(self, queries: Float32, entries: int) -> list[Int64]:
        """Return the rows behind the best entries of each query, in rising order; one array for each of B queries."""
        found = np.sort(self.order(queries, entries), axis=1)
        return list(found) if self.starts is None else [expand(self.starts, each) for each in found]

    def rows_an_entry(self) -> float:
        """Return the mean number of rows behind an entry."""
        return self.rows / self.entries

    def save(self, path: Path) -> None:
        """Write the index in faiss's own format."""
        import faiss

        faiss.write_index(self.index, str(path))

    def like(self) -> Builder:
        """Return a builder with the same centroids and directions, and no entries."""
        import faiss

        pieces = len(self.directions.for_codes) // WIDTH
        shape = (self.levels, pieces, CENTROIDS, WIDTH)
        return Builder(faiss.vector_to_array(self.index.pq.centroids).reshape(shape), self.directions)


class Builder:
    """Makes a first stage from codes that come in blocks, in the order of their rows; `train` or `FirstStage.like` make one.

    Centroids are (levels, pieces, 16, 2), directions (2 pieces, D).
    """

    def __init__(self, centroids: Float32, directions: Directions) -> None:
        import faiss

        levels, pieces = centroids.shape[:2]
        self.directions = directions
        self._quantisers = [product_quantiser(each) for each in centroids]
        self._index = faiss.IndexPQFastScan(levels * pieces * WIDTH, levels * pieces, 4, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(np.ascontiguousarray(centroids).ravel(), self._index.pq.centroids)
        self._index.is_trained = True

    def add(self, codes: Float32) -> None:
        """Add the codes of entries, (n, D)."""
        parts = [np.ascontiguousarray(codes @ self.directions.for_codes.T)]
        for quantiser in self._quantisers[:-1]:
            parts.append(parts[-1] - quantiser.decode(quantiser.compute_codes(parts[-1])))
        self._index.add(np.ascontiguousarray(np.concatenate(parts, axis=1)))

    def made(self, starts: Starts | None) -> FirstStage:
        """Return the first stage of what was added."""
        return FirstStage(self._index, self.directions, starts)


def train(sample: Float32, queries: Float32 | None, dims: int, levels: int, seed: int = 0) -> Builder:
    """Find directions and centroids from codes of entries, (M, D), and photos, (V, D); see `find_directions`.

    Args:
        dims: components that are kept, even, at most D.
        levels: how often codes are quantised; an entry takes `dims * levels / 4` bytes.
    """
    pieces = dims // WIDTH
    directions = find_directions(sample, queries, dims, pieces)
    left, made = np.ascontiguousarray(sample @ directions.for_codes.T), []
    for level in range(levels):
        made.append(centroids(left, pieces, CENTROIDS, seed + level))
        quantiser = product_quantiser(made[-1])
        left = left - quantiser.decode(quantiser.compute_codes(left))
    return Builder(np.stack(made), directions)


def load(path: Path, directions: Directions, starts: Starts | None, entries: int, levels: int) -> FirstStage:
    """Read an index whole: mapped, faiss reads it page by page, and slowly.

    InputError: the file is no such index, or holds another number of entries or another width.
    """
    import faiss

    try:
        index = faiss.read_index(str(path))
        if not isinstance(index, faiss.IndexPQFastScan):
            raise RuntimeError
    except (RuntimeError, MemoryError) as error:
        otherwise = f"{path} is not a search index that can be read; build the database again"
        raise unreadable(path, error, otherwise) from None
    width = len(directions.for_codes) * levels
    if (index.ntotal, index.d) != (entries, width):
        raise InputError(
            f"{path} holds {index.ntotal} entries of width {index.d}, the database has {entries} of {width}; "
            "build it again"
        )
    return FirstStage(index, directions, starts)


def parent_starts(parents: Ids) -> Int64:
    """Return the first row of each run of equal parents, (N,), and, last, the number of rows; (P + 1,) int64."""
    changes = np.flatnonzero(parents[1:] != parents[:-1]) + 1
    return np.concatenate([[0], changes, [len(parents)]]).astype(np.int64)


def means(codes: Float32, starts: Starts) -> Float32:
    """Return the mean of each run of codes (N, D), `starts[j]` to `starts[j + 1]`, (P, D): a parent may lack some cells."""
    first, counts = starts[:-1].astype(np.int64), np.diff(starts).astype(np.int64)
    sums = codes[first]
    for row in range(1, int(counts.max())):  # a few steps over all runs: much faster than numpy's reduceat
        longer = counts > row
        sums[longer] += codes[first[longer] + row]
    return np.asarray(sums / counts[:, None], np.float32)


def expand(starts: Starts, entries: Int64) -> Int64:
    """Return the rows of some entries, in their order."""
    return rows_of(np.stack([starts[entries], starts[entries + 1]], axis=1).astype(np.int64))
