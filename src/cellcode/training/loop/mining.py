"""Clusters the prototypes as training has made them so far: for hard rows of a sharded table, and for hard batches."""

from dataclasses import dataclass

import numpy as np

from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.model.prototypes.protocol import PrototypeTable
from cellcode.training.data.sampling import Sampler


@dataclass(frozen=True)
class Miner:
    """Clusters prototypes when they are due; None: there are none."""

    config: Config
    prototypes: PrototypeTable | None
    sampler: Sampler

    def mine_if_due(self, step: int) -> None:
        """Cluster before every `prototypes.mine_every_steps`th step; all processes must call it."""
        table, batches = self.prototypes, self.sampler.hard
        if table is None or step % self.config.prototypes.mine_every_steps:
            return
        rows = table.takes_hard_rows and self.config.prototypes.hard_rows > 0
        # Before the first step prototypes are random: as good as any for hard rows, useless for hard batches.
        if not (rows or (batches is not None and step)):
            return
        found = table.cluster(self.config.training.seed)
        if rows:
            table.clusters = found
        if batches is not None and step:
            batch = step * self.config.training.gradient_accumulation
            begins = collectives.gather_array(np.array([self.sampler.begin(batch)]))  # windows differ between processes
            batches.keep(batch, found.of_row, int(begins.min()))
