"""What training asks of a table of prototypes, whether every process holds all of it or a part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cellcode.geography import distance, s2
from cellcode.geography.s2 import ranges
from cellcode.model.losses import PairLoss
from cellcode.model.places import Places
from cellcode.model.prototypes import clusters
from cellcode.model.prototypes.clusters import Clusters
from cellcode.types import Bools, Float64, Ids

_EDGES = [4, 7, 5, 2]  # edge neighbours among a cell and all its neighbours, in the order of `s2.edge_neighbors`


@dataclass(frozen=True)
class Pairing:
    """How places are paired with prototypes."""

    near_m: float  # prototypes nearer than this are no negatives
    haversine_m: float | None = (
        None  # soft labels by distance, whose 1/e is here; None: they are the interpolation weights
    )


@dataclass(frozen=True)
class PrototypeLookup(ABC):
    """The prototypes around N positions; `weight` is (N, 9) float32, see `PrototypeTable.neighbours`."""

    weight: Tensor

    def any(self) -> Tensor:
        """Return which positions have a prototype near them, (N,) bool."""
        return self.weight.sum(dim=1) > 0

    @abstractmethod
    def interpolate(self) -> Tensor:
        """Return the prototype interpolated at each position, (N, D)."""

    @abstractmethod
    def part(self, first: int, last: int) -> PrototypeLookup:
        """Return the positions first..last."""

    @abstractmethod
    def loss(self, loss: PairLoss, places: Places, pairing: Pairing) -> Tensor:
        """Compare embeddings at the positions with every prototype, (N,).

        Positive: the prototype interpolated at the position. Negatives: all prototypes that are not near. A loss with
        `soft_labels` takes labels of all prototypes instead; a position without a prototype near it has no label.
        """


class PrototypeTable(ABC):
    """One learned vector for each S2 cell of a level, sorted by id; see `Prototypes` for how they are interpolated."""

    ids: Ids  # (P,), sorted; the same in every process
    level: int
    radius_cells: float  # support of the kernel in cell widths; 0 takes the own cell alone
    clusters: Clusters | None = None  # rows that look alike, for hard rows; set by training
    takes_hard_rows = False  # a step can compare rows that look like those of its batch, and then needs `clusters`

    @abstractmethod
    def around(self, lat_deg: Float64, lon_deg: Float64, draw: int) -> PrototypeLookup:
        """Look up the prototypes around positions (N,) of this process; each process has as many.

        `draw` is the number of the draw of a sharded table's rows, the same in every process.
        """

    @abstractmethod
    def best(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best similarity (V,) among this process's rows and its row in the whole table (V,) int64."""

    @abstractmethod
    def own_rows(self) -> tuple[int, int]:
        """Return the first row that this process clusters, and the row behind its last; parts make up the table."""

    @abstractmethod
    def unit_rows(self, rows: Tensor) -> Tensor:
        """Return some of `own_rows` at unit length, (M, D) float32; rows are numbered as in the whole table."""

    def cluster(self, seed: int) -> Clusters:
        """Cluster the prototypes by their similarity; all processes together, with the same result."""
        return clusters.find(self.unit_rows, *self.own_rows(), len(self.ids), seed)

    def neighbours(self, lat_deg: Float64, lon_deg: Float64) -> tuple[Tensor, Tensor]:
        """Return rows (B, 9) int64 and kernel weights (B, 9) float32 around positions.

        Cells that the table does not have get row 0 and weight 0; the other weights sum to 1, or to 0 where none is near.
        """
        own = s2.cell_ids(lat_deg, lon_deg, self.level)
        around = np.concatenate([own[:, None], s2.all_neighbors(own)], axis=1)
        center_lat, center_lon = (a.reshape(around.shape) for a in s2.cell_centers(around))
        apart_m = distance.haversine_m(lat_deg[:, None], lon_deg[:, None], center_lat, center_lon)
        if self.radius_cells:
            edges = center_lat[:, _EDGES], center_lon[:, _EDGES]
            widths_m = distance.haversine_m(center_lat[:, :1], center_lon[:, :1], *edges).mean(axis=1)
            weight = np.clip(1 - (apart_m / (self.radius_cells * widths_m[:, None])) ** 2, 0, None) ** 2
        else:
            weight = (np.arange(9) == 0) * np.ones_like(apart_m)
        rows = ranges.rows_of_ids(self.ids, around)
        weight = np.where((rows >= 0) & ~_repeated(around), weight, 0.0)
        total = weight.sum(axis=1, keepdims=True)
        weight = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        return torch.from_numpy(np.maximum(rows, 0)), torch.from_numpy(weight.astype(np.float32))


def part(count: int, rank: int, world: int) -> tuple[int, int]:
    """Return the first row of a process and the first of the next one; parts differ by at most one row."""
    return count * rank // world, count * (rank + 1) // world


def _repeated(ids: Ids) -> Bools:
    """Mark entries of a row that stand earlier in it already: beside a corner of the cube a neighbour appears twice."""
    same = ids[:, :, None] == ids[:, None, :]
    earlier = np.tril(np.ones((ids.shape[1], ids.shape[1]), bool), -1)
    return np.asarray((same & earlier).any(axis=2))
