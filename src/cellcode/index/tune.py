"""Which first stage, and how many of its entries are scored again: decided by brute force on validation photos."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from cellcode.index import exact
from cellcode.index.codeset import CodeSet, Found
from cellcode.index.first_stage import FirstStage, Over
from cellcode.types import Float32, Int64

# Share of the k best of brute force that must be among the candidates. The 1000 best only serve to measure radii.
TARGETS = {1: 0.995, 100: 0.99, 1000: 0.95}
LADDER = tuple(100 * 2**step for step in range(9))  # up to 25,600 entries
BATCH = 64
# What a search costs beside reading, in bytes: a row that is scored again is gathered from anywhere.
BYTES_A_ROW = 8192
MULTIPLY = 1 / 8  # what multiplying with a query costs beside reading the codes


@dataclass(frozen=True)
class Settings:
    """How a database is searched in two stages, and what that was checked to give."""

    over: Over  # what an entry of the first stage stands for
    components: int  # of a code that are quantised
    levels: int  # how often; an entry takes `components * levels / 4` bytes
    stage_entries: int  # how many the first stage has
    entries: Mapping[int, int]  # for each k, how many entries are scored again when the k best are wanted
    kept: Mapping[int, float]  # for each k, the share of brute force's k best that was found on the validation photos
    queries: int  # validation photos that it was checked with; 0: nothing was checked

    @property
    def entry_bytes(self) -> int:
        """Size of an entry of the first stage."""
        return self.components * self.levels // 4

    def entries_for(self, k: int) -> int | None:
        """Return how many entries are scored again for the k best; None: more than was checked."""
        return next((count for most, count in sorted(self.entries.items()) if most >= k), None)

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        texts = {name: {str(k): each for k, each in getattr(self, name).items()} for name in ("entries", "kept")}
        return asdict(self) | texts

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` returned."""
        numbers = {name: {int(k): each for k, each in value[name].items()} for name in ("entries", "kept")}
        return cls(**{field.name: (value | numbers)[field.name] for field in fields(cls)})


def brute_force(codes: CodeSet, queries: Float32, most: int = max(TARGETS)) -> Found:
    """Return the truth to tune against: the (at most) `most` best rows of each query."""
    k = min(most, len(codes))
    batches = (queries[row : row + BATCH] for row in range(0, len(queries), BATCH))
    parts = [exact.scan(codes, batch, k, codes.everything) for batch in batches]
    return Found(np.concatenate([part.rows for part in parts]), np.concatenate([part.scores for part in parts]), None)


def check(stage: FirstStage, queries: Float32, truth: Found) -> Settings:
    """Choose the numbers of entries: the first step of the ladder that keeps the target share, and one more if there is one.

    A larger k has at least the entries of a smaller one. A k whose target no step reaches is left out: such searches are
    exact.
    """
    reach = min(LADDER[-1], stage.entries)
    batches = [slice(row, row + BATCH) for row in range(0, len(queries), BATCH)]
    places = np.concatenate([_places(stage, queries[batch], truth.rows[batch], reach) for batch in batches])
    entries: dict[int, int] = {}
    kept: dict[int, float] = {}
    for k, target in TARGETS.items():
        if k > places.shape[1]:
            break
        shares = [float((places[:, :k] < min(step, reach)).mean()) for step in LADDER]
        enough = next((number for number, share in enumerate(shares) if share >= target), None)
        if enough is None or LADDER[enough] > reach:
            break
        chosen = min(enough + 1, len(LADDER) - 1)
        entries[k] = max([min(LADDER[chosen], reach), *entries.values()])
        kept[k] = float((places[:, :k] < entries[k]).mean())
    dims = len(stage.directions.for_codes)
    return Settings(stage.over, dims, stage.levels, stage.entries, entries, kept, len(queries))


def cost(settings: Settings, entries: int | None, cells: int, share: float = 1.0) -> float:
    """Return what a query costs in two stages over a share of the cells, in bytes read.

    It is infinite without a number of entries to be scored again.
    """
    if entries is None:
        return math.inf
    again = BYTES_A_ROW * entries * cells / settings.stage_entries
    return settings.entry_bytes * settings.stage_entries + again / share


def exact_cost(cells: int, dim: int, queries: int) -> float:
    """Return what a query costs in an exact scan of int8 codes, in bytes read, when some are answered together."""
    return cells * dim * max(1 / queries, MULTIPLY)


def _places(stage: FirstStage, queries: Float32, truth: Int64, reach: int) -> Int64:
    """Place of each true row's entry in the order of the first stage, (B, K); `reach` where it comes later."""
    wanted = truth if stage.starts is None else np.searchsorted(stage.starts, truth, side="right") - 1
    order = stage.order(queries, reach)
    places = np.full(truth.shape, reach, np.int64)
    for number, (mine, sought) in enumerate(zip(order, wanted, strict=True)):
        by_entry = np.argsort(mine)
        at = np.minimum(np.searchsorted(mine, sought, sorter=by_entry), len(mine) - 1)
        found = mine[by_entry[at]] == sought
        places[number, found] = by_entry[at[found]]
    return places
