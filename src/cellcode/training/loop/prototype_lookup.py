"""The prototypes around the positions of a batch, of a table that is whole or split over processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.distributed import collectives
from cellcode.model.prototypes.sharded import Selection, ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.types import Float64


@dataclass(frozen=True)
class Around:
    """The prototypes around N positions: rows and weights (N, 9) of `Prototypes.neighbours`."""

    prototypes: Prototypes
    index: Tensor
    weight: Tensor

    def any(self) -> Tensor:
        """Tell which positions have a prototype near them, (N,) bool."""
        return self.weight.sum(dim=1) > 0

    def interpolate(self) -> Tensor:
        """Return the prototype interpolated at each position, (N, D)."""
        return self.prototypes.interpolate(self.index, self.weight)

    def part(self, first: int, last: int) -> Around:
        """Return the positions first..last."""
        return Around(self.prototypes, self.index[first:last], self.weight[first:last])


@dataclass(frozen=True)
class AroundSharded:
    """As `Around`, of a sharded table.

    Attributes:
        selection: the rows of this process that the step looks at.
        weight: (N, 9).
        mean: (N, D), the weighted mean of the prototypes around, whichever process holds them.
    """

    table: ShardedPrototypes
    selection: Selection
    weight: Tensor
    mean: Tensor

    def any(self) -> Tensor:
        """Tell which positions have a prototype near them, (N,) bool."""
        return self.weight.sum(dim=1) > 0

    def interpolate(self) -> Tensor:
        """Return the prototype interpolated at each position, (N, D)."""
        return F.normalize(self.mean, dim=1)

    def part(self, first: int, last: int) -> AroundSharded:
        """Return the positions first..last."""
        return AroundSharded(self.table, self.selection, self.weight[first:last], self.mean[first:last])


Near = Around | AroundSharded


def around(prototypes: Prototypes | ShardedPrototypes, lat_deg: Float64, lon_deg: Float64, draw: int) -> Near:
    """Look up the prototypes around positions (N,) of this process.

    Args:
        draw: number of the draw of a sharded table's rows; the same in every process, each of which has N positions.
    """
    index, weight = prototypes.neighbours(lat_deg, lon_deg)
    if isinstance(prototypes, Prototypes):
        return Around(prototypes, index, weight)
    everywhere = collectives.gather_array(index.numpy())
    selection = prototypes.select(everywhere, draw)
    weights = collectives.gather_array(weight.numpy())
    mean = prototypes.mean(selection, torch.from_numpy(everywhere), torch.from_numpy(weights))
    mine = collectives.rank() * len(index)
    return AroundSharded(prototypes, selection, weight, mean[mine : mine + len(index)])
