"""An optimiser for tables of which a step touches a few rows: Adam with one second moment a row and no first one.

State is 8 bytes a row whatever its length, where Adam's is 8 bytes a number: for 5.5 million rows of 128 numbers 44 MB
instead of 5.6 GB. torch.optim.SparseAdam keeps both moments of every number, so it is not used. Rows that a step does not
touch do not change, and neither does their state; the second moment's bias is corrected by how often a row was touched.
"""

import torch
from torch import Tensor

DECAY = 0.999
EPSILON = 1e-8


class RowwiseAdam:
    """Updates rows of `table` in place.

    Args:
        table: (P, D) float32 or bfloat16.

    Attributes:
        square: (P,) float32, decayed mean of the squared gradient, averaged over the row.
        count: (P,) int32, how often each row was touched.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.square = torch.zeros(len(table), device=table.device)
        self.count = torch.zeros(len(table), dtype=torch.int32, device=table.device)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rate: float, seed: int) -> None:
        """Move rows against their gradients; a step is of about `rate` a number, as Adam's.

        Args:
            rows: (M,) int64, distinct.
            gradient: (M, D) float32; rows of zeros are left alone.
            rate: learning rate.
            seed: of the rounding, where the table is bfloat16.
        """
        power = gradient.square().mean(dim=1)
        some = power > 0
        # Every row is computed and those of zeros are put back: to choose them would wait for the device.
        before, count, square = self.table[rows], self.count[rows], self.square[rows]
        counted = count + some
        grown = torch.where(some, DECAY * square + (1 - DECAY) * power, square)
        size = (grown / (1 - DECAY ** counted.float())).sqrt() + EPSILON
        moved = before.float() - rate * gradient / size[:, None]
        self.count[rows], self.square[rows] = counted, grown
        moved = moved if self.table.dtype == torch.float32 else _rounded(moved, seed)
        self.table[rows] = torch.where(some[:, None], moved, before)


def _rounded(x: Tensor, seed: int) -> Tensor:
    """Round to bfloat16, up or down at random so that the mean is x: steps below its precision are not lost."""
    generator = torch.Generator(x.device).manual_seed(seed)
    below = torch.randint(0, 1 << 16, x.shape, generator=generator, dtype=torch.int32, device=x.device)
    # bfloat16 is the upper half of float32.
    return ((x.view(torch.int32) + below) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)
