"""One interface for every way to search, the search of one database, and from scores to probabilities."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from cellcode.client.answers import Searched
from cellcode.database import Database
from cellcode.errors import EmptyRegionError, InputError, UsageError
from cellcode.geography import Region
from cellcode.geography.s2 import projection, ranges
from cellcode.index import exact, tune, two_stage
from cellcode.index.codeset import CodeSet, Found, checked
from cellcode.types import Float32, Float64, Ids, Int64, Ranges

Method = Literal["exact", "two_stage"]
Scan = tuple[Found, Method, int]  # with the number of first-stage entries that were scored again


@dataclass(frozen=True)
class Hits:
    """The best cells of B queries, best first; equal scores go to the smaller id. Iterating gives cell_ids and scores.

    Attributes:
        cell_ids: (B, K) uint64.
        scores: (B, K) float32.
        log_mass: (B,) float64, log of the sum of exp(score / temperature) over all cells searched: the normaliser of the
            posterior. An estimate where not every cell was compared; None where no temperature was given.
        searched: how.
    """

    cell_ids: Ids
    scores: Float32
    log_mass: Float64 | None
    searched: Searched

    def __iter__(self) -> Iterator[npt.NDArray[np.generic]]:
        return iter((self.cell_ids, self.scores))


class Searcher(Protocol):
    """Finds the cells whose codes are most similar to queries."""

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float | None = None) -> Hits:
        """Return the k best cells of each query.

        Args:
            queries: (B, D) float32.
            region: only cells with their centre inside are searched.
            temperature: of `Hits.log_mass`.

        Raises:
            InputError: queries of another width or with values that are not finite, no cell in the region, or fewer than k.
        """

    def count(self, region: Region | None = None) -> int:
        """Return how many cells a search of the region would compare; 0 if none lies in it."""


class CodeSearcher:
    """Exact search of codes that are in memory or mapped; `level` is the S2 level of their cells."""

    def __init__(self, codes: CodeSet, level: int) -> None:
        self.codes, self.level = codes, level
        self._everything = codes.everything  # always the same array: what is known of it is remembered
        self._last: tuple[Region | None, Int64] = (None, self._everything)

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float | None = None) -> Hits:
        """See `Searcher`."""
        asked, slices = checked(queries, self.codes.dim), self._slices(region)
        k = check_k(k, cells := _size(slices), region)
        if temperature is not None and not temperature > 0:
            raise UsageError(f"temperature must be above 0, not {temperature}")
        found, method, again = self._find(asked, k, slices, cells, temperature)
        searched = Searched(method, cells, method == "exact", again)
        return Hits(np.asarray(self.codes.ids[found.rows]), found.scores, found.log_mass, searched)

    def count(self, region: Region | None = None) -> int:
        """See `Searcher`."""
        return _size(self._slices(region))

    def _find(self, queries: Float32, k: int, slices: Int64, cells: int, temperature: float | None) -> Scan:
        return exact.scan(self.codes, queries, k, slices, temperature), "exact", 0

    def _slices(self, region: Region | None) -> Int64:
        """Rows of the region's cells; those of the last region are remembered."""
        if region is None:
            return self._everything
        if self._last[0] is not region and self._last[0] != region:
            self._last = (region, ranges.rows_of_ranges(self.codes.ids, ranges_of(region, self.level)))
        return self._last[1]


class DatabaseSearcher(CodeSearcher):
    """Search of one database.

    A first stage is used where the database has one and it costs less than comparing every cell of the region: `Hits.searched`
    says what was done. Not for several threads at once.

    Args:
        method: "auto", or one of the two always.
    """

    def __init__(self, database: Database, method: Literal["auto"] | Method = "auto") -> None:
        super().__init__(database.code_set, database.level)
        if method == "two_stage" and database.search_settings is None:
            raise UsageError(f"{database.folder} has no first stage; search it exactly")
        self.database, self.method = database, method
        self._tail: tuple[Int64, two_stage.Tail] | None = None

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open the database in a folder; InputError if it is none or damaged."""
        return cls(Database.open(folder))

    def _find(self, queries: Float32, k: int, slices: Int64, cells: int, temperature: float | None) -> Scan:
        entries = self._entries(k, cells, len(queries))
        if entries is not None and (stage := self.database.first_stage) is not None:
            rows = two_stage.candidates(stage, queries, k, entries, slices)
            if rows is not None:
                tail = self._tail_of(slices) if temperature is not None else None
                return two_stage.among(self.codes, rows, queries, k, temperature, tail), "two_stage", entries
        return super()._find(queries, k, slices, cells, temperature)

    def _entries(self, k: int, cells: int, queries: int) -> int | None:
        """Number of first-stage entries to score again; None: the search is to be exact."""
        settings, total = self.database.search_settings, len(self.codes)
        if settings is None or self.method == "exact":
            return None
        entries = settings.entries_for(k)
        if entries is None or self.method == "two_stage":
            return entries
        two_stages = tune.cost(settings, entries, total, cells / total)
        return entries if two_stages < tune.exact_cost(cells, self.codes.dim, queries) else None

    def _tail_of(self, slices: Int64) -> two_stage.Tail:
        if self._tail is None or self._tail[0] is not slices:
            self._tail = (slices, two_stage.Tail(self.codes, slices))
        return self._tail[1]


def check_k(k: int, cells: int, region: Region | None) -> int:
    """Return k as a plain integer; UsageError or InputError unless 1 <= k <= cells."""
    try:
        k = operator.index(k)
    except TypeError:
        raise UsageError(f"k must be a whole number, not {k!r}") from None
    if k < 1:
        raise UsageError(f"k must be at least 1, not {k}")
    if not cells and region is not None:
        raise EmptyRegionError(f"no cell of the database lies in the region {region.describe()}; check its coordinates")
    if k > cells:
        where = "the database" if region is None else f"the region {region.describe()}"
        raise InputError(f"{k} cells were requested, {where} has {cells}; ask for fewer")
    return k


def ranges_of(region: Region, level: int) -> Ranges:
    """Return the ranges of a region, (R, 2); none where it is smaller than a cell."""
    try:
        return region.ranges(level)
    except EmptyRegionError:
        return ranges.empty()


def _size(slices: Int64) -> int:
    return int((slices[:, 1] - slices[:, 0]).sum())


def probabilities(hits: Hits, temperature: float) -> Float64:
    """Return the posterior (softmax) of each hit of a search with this temperature, (B, K); over all cells it sums to 1."""
    assert hits.log_mass is not None
    return np.asarray(np.exp(hits.scores.astype(np.float64) / temperature - hits.log_mass[:, None]))


def mean_position(lat_deg: Float64, lon_deg: Float64, probability: Float64) -> tuple[float, float]:
    """Return latitude and longitude of the posterior mean, in degrees: the mean unit vector, back on the sphere.

    Args:
        lat_deg, lon_deg, probability: (K,) of cells; their probabilities need not sum to 1.
    """
    lat, lon = projection.to_degrees(*np.stack(projection.to_xyz(lat_deg, lon_deg)) @ probability)
    return float(lat), float(lon)
