"""A table of prototypes split over processes, of which a step touches some rows.

Each process holds a contiguous range of the sorted S2 ids. A step copies the rows that it needs to a small leaf of the
graph, scores every process's places against them, and adds up over processes what the losses need: the sum of the
exponentials of each place's row, and the prototype interpolated at each place. Gradients reach that leaf only, never the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from cellcode.config import PrototypesConfig
from cellcode.device import send
from cellcode.distributed import collectives
from cellcode.geography import s2
from cellcode.model.losses import PairLoss, PrototypeSums
from cellcode.model.places import Places
from cellcode.model.prototypes.clusters import strata, with_certain
from cellcode.model.prototypes.protocol import Pairing, PrototypeLookup, PrototypeTable, part
from cellcode.model.prototypes.whole import Prototypes
from cellcode.types import Float32, Float64, Ids, Int64

BLOCK = 1 << 16  # rows made at a time
STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DECAY, EPSILON = 0.999, 1e-8  # of `RowwiseAdam`
Device = torch.device | str


@dataclass
class Selection:
    """The rows of this process that a step looks at."""

    host_rows: Int64  # (M,), ascending, of this process's part; M is at least 1
    rows: Tensor  # the same on the device
    raw: Tensor  # (M, D) float32, a leaf that collects the gradient
    unit: Tensor  # (M, D) the same at unit length
    log_count: (
        Tensor  # (M,) log of how many rows each stands for; -inf for a row that is only there so that there is one
    )


class ShardedPrototypes(PrototypeTable):
    """The table; what its prototypes are and how they are interpolated is as in `Prototypes`.

    This process keeps the rows `start` to `stop` on its device: `weight`, (stop - start, D), of any length; prototypes are its
    rows at unit length. The first vectors and every draw depend on the seed and not on the number of processes.
    """

    takes_hard_rows = True

    def __init__(
        self, ids: Ids, dim: int, radius_cells: float, config: PrototypesConfig, seed: int, device: Device = "cpu"
    ) -> None:
        self.ids, self.dim, self.radius_cells, self.config, self.seed = ids, dim, radius_cells, config, seed
        self.level = int(s2.levels(ids[:1])[0])
        self.start, self.stop = part(len(ids), collectives.rank(), collectives.world())
        self.weight = torch.empty(self.stop - self.start, dim, dtype=STORAGE[config.storage], device=device)
        for first, rows in _first_vectors(self.start, self.stop, len(ids), dim, seed):
            self.weight[first - self.start : first - self.start + len(rows)] = rows
        self.optimizer = RowwiseAdam(self.weight)
        self._selections: list[Selection] = []

    def around(self, lat_deg: Float64, lon_deg: Float64, draw: int) -> PrototypeLookup:
        """See `PrototypeTable.around`."""
        index, weight = self.neighbours(lat_deg, lon_deg)
        everywhere, weights = collectives.gather_array(index.numpy()), collectives.gather_array(weight.numpy())
        selection = self.select(everywhere, draw)
        mean = self.mean(selection, torch.from_numpy(everywhere), torch.from_numpy(weights))
        return _Lookup(weight, mean[collectives.rank() * len(index) :][: len(index)], selection, self)

    def select(self, around: Int64, draw: int) -> Selection:
        """Copy the rows of a step; every process gives the same arguments.

        `around` are rows of the whole table beside the places of all processes, (N, 9); their own cells come first.
        """
        rows, stands_for = self._chosen(around, draw)
        mine = slice(*np.searchsorted(rows, [self.start, self.stop]))
        rows, stands_for = rows[mine] - self.start, stands_for[mine]
        if not len(rows):  # a process without a row takes part in the exchanges all the same
            rows, stands_for = np.zeros(1, np.int64), np.zeros(1, np.float32)
        at = send(rows, self.weight.device)
        raw = self.weight[at].float().requires_grad_()
        selection = Selection(rows, at, raw, F.normalize(raw, dim=1), send(stands_for, raw.device).log())
        if torch.is_grad_enabled():
            self._selections.append(selection)
        return selection

    def _chosen(self, around: Int64, draw: int) -> tuple[Int64, Float32]:
        count, rule = len(self.ids), self.config
        if rule.negatives == "all":
            return np.arange(count), np.ones(count, np.float32)
        rng = np.random.default_rng([self.seed, 5, draw])
        rows, lengths = strata(count, max(1, min(round(rule.share * count), rule.most_rows)), rng)
        certain = around.ravel()
        if self.clusters is not None and rule.hard_rows:
            hard = self.clusters.hard_rows(np.unique(around[:, 0]), rule.hard_rows, rng)
            certain = np.concatenate([certain, hard])
        return with_certain(certain, rows, lengths)

    def mean(self, selection: Selection, index: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted mean of the prototypes around every place of every process, (N, D), not at unit length.

        `index` and `weight` (N, 9) are what `neighbours` gave for all places; the selection holds all rows that this needs.
        """
        device = self.weight.device
        index, weight = send(index, device) - self.start, send(weight, device)
        at = torch.searchsorted(selection.rows, index).clamp(max=len(selection.rows) - 1)
        weight = weight * (selection.rows[at] == index)
        return collectives.total((F.embedding(at, selection.unit) * weight[..., None]).sum(dim=1))

    def log_sum(
        self,
        selection: Selection,
        embeddings: Tensor,
        scale: float,
        shift: float = 0.0,
        left_out: Tensor | None = None,
        plus_one: bool = False,
    ) -> Tensor:
        """Return log(sum over prototypes of exp(scale s + shift)) of every place of every process, (N,) float32.

        Embeddings (N, D) are those of all processes; pairs that are `left_out` (N, M) do not count.
        """
        exponents = scale * (embeddings.float() @ selection.unit.T) + (shift + selection.log_count)  # N x M
        if left_out is not None:
            exponents = exponents.masked_fill(send(left_out, exponents.device), -torch.inf)
        top = exponents.detach().amax(dim=1)
        if collectives.world() > 1:
            dist.all_reduce(top, op=dist.ReduceOp.MAX)
        top = top.clamp(min=0) if plus_one else top
        total = collectives.total((exponents - top[:, None]).exp().sum(dim=1))
        return top + (total + torch.exp(-top) if plus_one else total).log()

    def centers(self, selection: Selection) -> tuple[Float64, Float64]:
        """Return latitudes and longitudes of the cells of the selection, (M,) each."""
        return s2.cell_centers(self.ids[self.start + selection.host_rows])

    def update(self, rate: float, step: int) -> None:
        """Step on the rows selected since the last update, with the sum of their gradients."""
        selections, self._selections = self._selections, []
        used = [(s.rows, s.raw.grad) for s in selections if s.raw.grad is not None]
        if not used:
            return
        rows, gradient = (torch.cat(each) for each in zip(*used, strict=True))
        if len(used) > 1:
            rows, where = torch.unique(rows, return_inverse=True)
            gradient = gradient.new_zeros(len(rows), self.dim).index_add_(0, where, gradient)
        self.optimizer.step(rows, gradient, rate, (self.seed * 1_000_003 + step) * 4096 + collectives.rank())

    def best(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """See `PrototypeTable.best`."""
        best = torch.full((len(queries),), -torch.inf, device=queries.device)
        row = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for first in range(self.start, self.stop, BLOCK):
            block = self.unit_rows(torch.arange(first, min(first + BLOCK, self.stop)))
            score, at = (queries @ block.T).max(dim=1)
            row = torch.where(score > best, at + first, row)
            best = torch.maximum(score, best)
        return best, row

    def own_rows(self) -> tuple[int, int]:
        """See `PrototypeTable.own_rows`."""
        return self.start, self.stop

    def unit_rows(self, rows: Tensor) -> Tensor:
        """See `PrototypeTable.unit_rows`."""
        return F.normalize(self.weight[(rows - self.start).to(self.weight.device)].float(), dim=1)

    def whole(self) -> Prototypes:
        """Gather the table in every process, on the CPU, at unit length."""
        table = Prototypes(self.ids[:0], self.dim, self.radius_cells)
        table.ids, table.level = self.ids, self.level
        rows = torch.zeros(len(self.ids), self.dim, device=self.weight.device)
        rows[self.start : self.stop] = F.normalize(self.weight.float(), dim=1)
        table.weight = torch.nn.Parameter(collectives.total_(rows).cpu())
        return table


@dataclass(frozen=True)
class _Lookup(PrototypeLookup):
    mean: Tensor  # (N, D), the weighted mean of the prototypes around, whichever process holds them
    selection: Selection
    table: ShardedPrototypes

    def interpolate(self) -> Tensor:
        return F.normalize(self.mean, dim=1)

    def part(self, first: int, last: int) -> _Lookup:
        return _Lookup(self.weight[first:last], self.mean[first:last], self.selection, self.table)

    def loss(self, loss: PairLoss, places: Places, pairing: Pairing) -> Tensor:
        everywhere, count = places.of_all(), len(places.lat_deg)

        def log_sum(
            scale: float, shift: float = 0.0, *, negatives_only: bool = False, plus_one: bool = False
        ) -> Tensor:
            left_out = None
            if negatives_only:
                (left_out,) = everywhere.within(*self.table.centers(self.selection), pairing.near_m)
            sums = self.table.log_sum(self.selection, everywhere.embeddings, scale, shift, left_out, plus_one)
            return sums[collectives.rank() * count :][:count]

        label = send(self.weight, self.mean.device).sum(dim=1)
        return loss.of_sums(PrototypeSums(places.embeddings, self.mean, label, log_sum))


def _first_vectors(start: int, stop: int, count: int, dim: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield random unit vectors of rows start..stop of `count`, block by block, with the row of the first of each block.

    A block has a seed of its own, so that a process makes only what it holds and a row is the same in any of them.
    """
    for first in range(start - start % BLOCK, stop, BLOCK):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
        rows = F.normalize(torch.randn(min(BLOCK, count - first), dim, generator=generator), dim=1)
        begin, end = max(first, start), min(first + BLOCK, stop)
        yield begin, rows[begin - first : end - first]


class RowwiseAdam:
    """Updates rows of a table (P, D), float32 or bfloat16, in place: Adam with one second moment a row and no first one.

    State is 8 bytes a row whatever its length, where Adam's is 8 bytes a number: for 5.5 million rows of 128 numbers 44 MB
    instead of 5.6 GB. torch.optim.SparseAdam keeps both moments of every number, so it is not used. Rows that a step does not
    touch do not change, and neither does their state; the second moment's bias is corrected by how often a row was touched.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.square = torch.zeros(len(table), device=table.device)  # decayed mean of the row's squared gradient
        self.count = torch.zeros(len(table), dtype=torch.int32, device=table.device)  # how often each row was touched

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rate: float, seed: int) -> None:
        """Move rows against their gradients; a step is of about `rate` a number, as Adam's.

        Rows (M,) are distinct; those whose gradient, of (M, D) float32, is zero are left alone. The seed is that of the
        rounding, where the table is bfloat16.
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
