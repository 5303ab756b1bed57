"""Prototypes: one learned vector for each cell that has training photos, and their interpolation around a position."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellcode.device import send
from cellcode.geography import distance, s2
from cellcode.geography.s2 import ranges
from cellcode.types import Bools, Float64, Ids, Int64

_EDGES = [4, 7, 5, 2]  # edge neighbours among a cell and all its neighbours, in the order of `s2.edge_neighbors`


class Prototypes(nn.Module):
    """A table of unit vectors, one for each S2 cell of a level.

    A cell is coarse, so a photo's prototype is interpolated around its position (the paper). The kernel is our choice:
    (1 - (d / R)^2)^2 for centres nearer than R, over the own cell and its eight neighbours. R is `radius_cells` times the
    mean distance to the four edge neighbours; up to 1.2 the kernel has reached zero before a centre enters or leaves the
    neighbourhood, so the result is continuous across the borders of cells and faces, up to the change of R between
    neighbouring cells (up to 3.5 % beside the edges of the cube, where a weight may jump by 0.02).

    Args:
        ids: (P,) uint64, sorted, all of one level.
        dim: D.
        radius_cells: support of the kernel in cell widths; 0 takes the own cell alone.
    """

    def __init__(self, ids: Ids, dim: int, radius_cells: float) -> None:
        super().__init__()
        self.ids, self.radius_cells = ids, radius_cells
        self.level = int(s2.levels(ids[:1])[0]) if len(ids) else 0
        self.weight = nn.Parameter(F.normalize(torch.randn(len(ids), dim), dim=1))

    def lookup(self, ids: Ids) -> Int64:
        """Return the row of each cell, any shape, -1 where the table has none."""
        return ranges.rows_of_ids(self.ids, ids)

    def neighbours(self, lat_deg: Float64, lon_deg: Float64) -> tuple[Tensor, Tensor]:
        """Return rows and weights around positions; see `neighbours`."""
        return neighbours(self.ids, self.level, self.radius_cells, lat_deg, lon_deg)

    def interpolate(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean of prototypes at unit length, (B, D) float32."""
        device = self.weight.device
        near = F.normalize(self.weight[send(rows, device)], dim=2)  # B x 9 x D
        return F.normalize((near * send(weights, device)[..., None]).sum(dim=1), dim=1)

    def all(self) -> Tensor:
        """Return every prototype at unit length, (P, D) float32."""
        return F.normalize(self.weight, dim=1)


def neighbours(ids: Ids, level: int, radius_cells: float, lat_deg: Float64, lon_deg: Float64) -> tuple[Tensor, Tensor]:
    """Return rows (B, 9) int64 and kernel weights (B, 9) float32 around positions; the kernel is that of `Prototypes`.

    Rows are those of the sorted table `ids`, 0 where it does not have a cell. Those get weight 0, the others sum to 1; all are
    0 where none is near.
    """
    own = s2.cell_ids(lat_deg, lon_deg, level)
    around = np.concatenate([own[:, None], s2.all_neighbors(own)], axis=1)  # B x 9
    center_lat, center_lon = (a.reshape(around.shape) for a in s2.cell_centers(around))
    apart_m = distance.haversine_m(lat_deg[:, None], lon_deg[:, None], center_lat, center_lon)
    if radius_cells:
        edges = center_lat[:, _EDGES], center_lon[:, _EDGES]
        widths_m = distance.haversine_m(center_lat[:, :1], center_lon[:, :1], *edges).mean(axis=1)
        weight = np.clip(1 - (apart_m / (radius_cells * widths_m[:, None])) ** 2, 0, None) ** 2
    else:
        weight = (np.arange(9) == 0) * np.ones_like(apart_m)
    rows = ranges.rows_of_ids(ids, around)
    weight = np.where((rows >= 0) & ~_repeated(around), weight, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    weight = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    return torch.from_numpy(np.maximum(rows, 0)), torch.from_numpy(weight.astype(np.float32))


def _repeated(ids: Ids) -> Bools:
    """Mark entries of a row that stand earlier in it already: beside a corner of the cube a neighbour appears twice."""
    same = ids[:, :, None] == ids[:, None, :]
    earlier = np.tril(np.ones((ids.shape[1], ids.shape[1]), bool), -1)
    return np.asarray((same & earlier).any(axis=2))
