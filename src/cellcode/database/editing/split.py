"""A database cut into shards, to be searched on several machines or merged again."""

import logging
from pathlib import Path

import numpy as np

from cellcode.database.editing.clip import clip
from cellcode.database.store.database import Database
from cellcode.database.store.shards import write_shards
from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder
from cellcode.geography import Region, s2

logger = logging.getLogger(__name__)
SHARD_DEPTH = 5  # shards are made of S2 cells of 4 ** 5 cells


def split(database: Database | Path | str, shards: int, *, out: Path | str) -> list[Database]:
    """Cut a database into shards of about as many cells.

    A shard is made of whole S2 cells, so that a region touches few of them; a small database may give fewer.

    Args:
        out: the folder for the shards, named 000.cells, 001.cells and so on.

    Raises:
        UsageError: fewer than one shard.
        InputError: `out` is not empty.
    """
    if shards < 1:
        raise UsageError(f"the number of shards must be at least 1, not {shards}")
    whole, out = Database.of(database), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; choose another --out for the shards")
    coarse, counts = np.unique(s2.parents(whole.ids, max(whole.level - SHARD_DEPTH, 0)), return_counts=True)
    # The shard in which the middle of a coarse cell falls.
    shard = ((np.cumsum(counts) - counts / 2) * shards // len(whole.ids)).astype(np.int64)
    numbers = np.unique(shard)
    names = [f"{number:03d}.cells" for number in range(len(numbers))]
    with atomic_folder(out) as folder:
        for name, number in zip(names, numbers, strict=True):
            clip(whole, Region.of_cells(coarse[shard == number]), out=folder / name)
        write_shards(folder, whole, [Database.open(folder / name) for name in names])
    if len(names) < shards:
        logger.info("%d shards instead of %d: more would have no cells", len(names), shards)
    return [Database.open(out / name) for name in names]
