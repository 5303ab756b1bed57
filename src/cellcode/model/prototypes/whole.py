"""Prototypes: one learned vector for each cell that has training photos, and their interpolation around a position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellcode.device import send
from cellcode.distributed import collectives
from cellcode.geography import distance, s2
from cellcode.geography.s2 import ranges
from cellcode.model.losses import PairLoss
from cellcode.model.places import Places
from cellcode.model.prototypes.protocol import Pairing, PrototypeLookup, PrototypeTable, part
from cellcode.types import Float64, Ids, Int64


class Prototypes(nn.Module, PrototypeTable):
    """A table of unit vectors, one for each S2 cell of a level.

    A cell is coarse, so a photo's prototype is interpolated around its position (the paper). The kernel is our choice:
    (1 - (d / R)^2)^2 for centres nearer than R, over the own cell and its eight neighbours. R is `radius_cells` times the
    mean distance to the four edge neighbours; up to 1.2 the kernel has reached zero before a centre enters or leaves the
    neighbourhood, so the result is continuous across the borders of cells and faces, up to the change of R between
    neighbouring cells (up to 3.5 % beside the edges of the cube, where a weight may jump by 0.02).

    `radius_cells` 0 takes the own cell alone.
    """

    def __init__(self, ids: Ids, dim: int, radius_cells: float) -> None:
        super().__init__()
        self.ids, self.radius_cells = ids, radius_cells
        self.level = int(s2.levels(ids[:1])[0]) if len(ids) else 0
        self.weight = nn.Parameter(F.normalize(torch.randn(len(ids), dim), dim=1))

    def lookup(self, ids: Ids) -> Int64:
        """Return the row of each cell, any shape, -1 where the table has none."""
        return ranges.rows_of_ids(self.ids, ids)

    def around(self, lat_deg: Float64, lon_deg: Float64, draw: int) -> PrototypeLookup:
        """See `PrototypeTable.around`."""
        index, weight = self.neighbours(lat_deg, lon_deg)
        return _Lookup(weight, index, self)

    def interpolate(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean of prototypes at unit length, (B, D) float32."""
        device = self.weight.device
        near = F.normalize(F.embedding(send(rows, device), self.weight), dim=2)  # B x 9 x D
        return F.normalize((near * send(weights, device)[..., None]).sum(dim=1), dim=1)

    def all(self) -> Tensor:
        """Return every prototype at unit length, (P, D) float32."""
        return F.normalize(self.weight, dim=1)

    def best(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """See `PrototypeTable.best`; every process holds all rows."""
        return (queries @ self.all().T).max(dim=1)

    def own_rows(self) -> tuple[int, int]:
        """See `PrototypeTable.own_rows`."""
        return part(len(self.ids), collectives.rank(), collectives.world())

    def unit_rows(self, rows: Tensor) -> Tensor:
        """See `PrototypeTable.unit_rows`."""
        return F.normalize(self.weight.detach()[rows.to(self.weight.device)], dim=1)

    @cached_property
    def centers(self) -> tuple[Float64, Float64]:
        """Latitudes and longitudes of the cells in degrees, (P,) each."""
        return s2.cell_centers(self.ids)


@dataclass(frozen=True)
class _Lookup(PrototypeLookup):
    index: Tensor  # (N, 9) int64, the rows of `weight`
    table: Prototypes

    def interpolate(self) -> Tensor:
        return self.table.interpolate(self.index, self.weight)

    def part(self, first: int, last: int) -> _Lookup:
        return _Lookup(self.weight[first:last], self.index[first:last], self.table)

    def loss(self, loss: PairLoss, places: Places, pairing: Pairing) -> Tensor:
        if loss.soft_labels:
            similarity = places.embeddings @ self.table.all().T  # N x P
            return loss.of_labels(similarity, self._labels(similarity, places, pairing.haversine_m))
        own = (places.embeddings * self.interpolate()).sum(1, keepdim=True)
        similarity = torch.cat([own, places.embeddings @ self.table.all().T], dim=1)  # N x (1 + P)
        far = ~places.within(*self.table.centers, pairing.near_m)[0]
        first = torch.zeros(similarity.shape, dtype=torch.bool)
        first[:, 0] = self.any()  # a position without a prototype near it has no positive
        others = torch.cat([torch.zeros(len(far), 1, dtype=torch.bool), far], dim=1)
        return loss.of_pairs(similarity, send(first, similarity.device), send(others, similarity.device))

    def _labels(self, similarity: Tensor, places: Places, haversine_m: float | None) -> Tensor:
        """Labels of all prototypes, (N, P) float32.

        With `haversine_m` the smoothed labels of PIGEON (Haas et al., CVPR 2024, eq. 2): exp(-(d_j - d_own) / haversine_m)
        for the distances d from the photo to the centres of the cells. We let them sum to 1, which cancels d_own, so that a
        photo beside many prototypes weighs no more than another (our choice).
        """
        if haversine_m is None:
            labels = torch.zeros_like(similarity, dtype=torch.float32)
            device = similarity.device
            return labels.scatter_add_(1, send(self.index, device), send(self.weight, device))
        lat_deg, lon_deg = places.lat_deg[:, None], places.lon_deg[:, None]
        apart_m = torch.from_numpy(distance.haversine_m(lat_deg, lon_deg, *self.table.centers))
        labels = torch.softmax(-apart_m / haversine_m, dim=1).float() * self.any()[:, None]
        return send(labels, similarity.device)
