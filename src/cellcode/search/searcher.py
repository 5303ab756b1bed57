"""One interface for every way to search, and the exact scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from cellcode.errors import InputError
from cellcode.geography import Region, s2

Ids = npt.NDArray[np.uint64]
Float32 = npt.NDArray[np.float32]
BLOCK = 65536  # cells whose scores are held at a time


@dataclass(frozen=True)
class Hits:
    """The best cells of B queries, best first.

    Attributes:
        cell_ids: (B, K) uint64.
        scores: (B, K) float32.
        log_mass: (B,) float64, log of the sum of exp(score / temperature) over all cells searched: the normaliser of the
            posterior.
    """

    cell_ids: Ids
    scores: Float32
    log_mass: npt.NDArray[np.float64]


class Searcher(Protocol):
    """Finds the cells whose codes are most similar to queries."""

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float = 1.0) -> Hits:
        """Return the K = min(k, cells searched) best cells of each query.

        Args:
            queries: (B, D) float32, unit length.
            region: only cells with their centre inside are searched.
            temperature: of `Hits.log_mass`.

        Raises:
            InputError: no cell of the database lies in the region.
        """


class ExactSearcher:
    """Compares every query with every code, in blocks: memory does not depend on the number of cells.

    Args:
        ids: (N,) uint64, sorted.
        codes: (N, D) of any float type; may be memory-mapped.
    """

    def __init__(self, ids: Ids, codes: npt.NDArray[np.floating]) -> None:
        self.ids, self.codes = ids, codes

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float = 1.0) -> Hits:
        """See `Searcher`."""
        rows = self._rows(region)
        count, asked = len(rows) if rows is not None else len(self.ids), torch.from_numpy(np.ascontiguousarray(queries))
        best = torch.empty(len(queries), 0)
        best_rows = torch.empty(len(queries), 0, dtype=torch.int64)
        log_mass = torch.full((len(queries),), -torch.inf, dtype=torch.float64)
        for first in range(0, count, BLOCK):
            block = np.arange(first, min(first + BLOCK, count)) if rows is None else rows[first : first + BLOCK]
            codes = self.codes[block[0] : block[-1] + 1] if rows is None else self.codes[block]
            scores = asked @ torch.from_numpy(np.array(codes)).float().T
            log_mass = torch.logaddexp(log_mass, torch.logsumexp(scores.double() / temperature, dim=1))
            # Merge the block's best with the best so far; a stable order makes ties go to the smaller id.
            top, index = scores.topk(min(k, scores.shape[1]), dim=1)
            merged = torch.cat([best, top], dim=1)
            merged_rows = torch.cat([best_rows, torch.from_numpy(block)[index]], dim=1)
            order = torch.argsort(merged, dim=1, descending=True, stable=True)[:, :k]
            best, best_rows = merged.gather(1, order), merged_rows.gather(1, order)
        return Hits(np.asarray(self.ids[best_rows.numpy()]), best.numpy(), log_mass.numpy())

    def _rows(self, region: Region | None) -> npt.NDArray[np.int64] | None:
        if region is None:
            return None
        rows = np.flatnonzero(region.contains(*s2.cell_centers(self.ids)))
        if not len(rows):
            raise InputError(f"no cell of the database lies in the region {region.describe()}; check its coordinates")
        return rows
