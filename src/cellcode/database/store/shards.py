"""A folder of shards as `cellcode split` writes it, opened as the database that it was cut from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from cellcode.database.calibration.fit import Calibration
from cellcode.database.store.database import Database
from cellcode.database.store.layout import MANIFEST
from cellcode.database.store.rows import Facts
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.index.codeset import CodeSet
from cellcode.index.tune import Settings
from cellcode.integrity import DIGEST, Kind
from cellcode.model.encoder import Encoder
from cellcode.types import Float16, Float32, Ids, Int64

SHARDS = "shards.json"
KIND = Kind("cellcode-database-shards", 2, unsealed=(1,), advice="copy it again, or split the database again")


def open_database(cells: Database | Path | str) -> Database:
    """Return a database: an open one as it is, else the one in a folder, or the one that a folder of shards was cut from."""
    if isinstance(cells, Database):
        return cells
    folder = Path(cells)
    if not (folder / MANIFEST).is_file() and folder.is_dir():
        if not any(folder.iterdir()):
            raise InputError(f"{folder} is not a cell-code database: the folder is empty")
        if (folder / SHARDS).is_file() or _databases_in(folder):
            return ShardedDatabase.open(folder)
    return Database.open(folder)


def write_shards(folder: Path, whole: Database, shards: Sequence[Database]) -> None:
    """Write shards.json: which shards belong to the folder, and what the manifest of the whole database says."""
    facts = {name: value for name, value in whole.manifest.items() if name not in ("files", DIGEST)}
    ordered = sorted(shards, key=lambda shard: shard.folder.name)
    listed = [{"name": each.folder.name, "identity": each.identity, "cells": len(each.ids)} for each in ordered]
    KIND.write(folder / SHARDS, {"shards": listed, "database": facts})


@dataclass(frozen=True)
class ShardedDatabase(Database):
    """The shards of one database as one database; exact searches give the answers of the whole, bit for bit.

    It has no first stage of its own; `search.sharded` has the search of shards that have one.
    """

    shards: tuple[Database, ...] = ()  # the ids of one all lie before those of the next

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a folder of shards; nothing large is read but the ids.

        InputError: a shard is missing, damaged, of another run or not of this folder, or nothing lists the shards.
        """
        folder = Path(folder)
        found = _databases_in(folder)
        if not (folder / SHARDS).is_file():
            check_shards([Shard.of(Database.open(folder / name)) for name in found])
            raise InputError(
                f"{folder} has no {SHARDS}, so nothing shows whether a shard is missing; run `cellcode split` again, or "
                "join its databases with `cellcode merge`"
            )
        value = KIND.read(folder / SHARDS)
        try:
            manifest, listed = value["database"], {each["name"]: each["identity"] for each in value["shards"]}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / SHARDS} is damaged ({error}); {KIND.advice}") from None
        if missing := sorted(listed.keys() - set(found)):
            raise InputError(f"{folder}: the shard {missing[0]} is missing; copy it there, or split the database again")
        shards = sorted((Database.open(folder / name) for name in found), key=lambda shard: int(shard.ids[0]))
        overlapping = check_shards([Shard.of(shard) for shard in shards])
        for shard in shards:
            if listed.get(shard.folder.name) != shard.identity:
                raise InputError(
                    f"{shard.folder} is not one of the shards that {SHARDS} lists; remove it or split the database again"
                )
        if overlapping:
            raise same_cells(*(shards[number].folder for number in overlapping[0]))
        ids = np.concatenate([shard.ids for shard in shards])
        codes = cast("Float16", _Rows([shard.codes for shard in shards]))
        calibration = Calibration.from_json(manifest["calibration"], shards[0].calibration.imputation)
        return cls(folder, manifest, shards[0].config, ids, codes, calibration, tuple(shards))

    @cached_property
    def code_set(self) -> CodeSet:
        """The codes as the search takes them."""
        sets = [shard.code_set for shard in self.shards]
        coarse = [each.coarse for each in sets if each.coarse is not None]
        return CodeSet(
            ids=self.ids,
            exact=cast("Float16", _Rows([each.exact for each in sets])),
            coarse=cast("Any", _Rows(coarse)) if len(coarse) == len(sets) else None,
            scale=sets[0].scale,
            coarse_error=max(each.coarse_error for each in sets),
            longest=max(each.longest for each in sets),
        )

    @cached_property
    def search_settings(self) -> Settings | None:
        """None: there is no first stage of the whole."""
        return None

    @cached_property
    def facts(self) -> Facts:
        """Facts of every cell; read at the first use."""
        return Facts.joined([shard.facts for shard in self.shards])

    def tiles(self) -> Float16 | None:
        """See `Database.tiles`."""
        return _joined([shard.tiles() for shard in self.shards])

    def tile_digests(self) -> Ids | None:
        """See `Database.tile_digests`."""
        digests = [each for shard in self.shards if (each := shard.tile_digests()) is not None]
        return np.concatenate(digests) if len(digests) == len(self.shards) else None

    @cached_property
    def queries(self) -> Float32:
        """See `Database.queries`; every shard has all of them."""
        return self.shards[0].queries

    def encoder(self) -> Encoder:
        """See `Database.encoder`."""
        return self.shards[0].encoder()

    @property
    def bytes(self) -> int:
        """See `Database.bytes`."""
        return sum(shard.bytes for shard in self.shards)

    def verify(self) -> None:
        """Verify every shard; see `Database.verify`."""
        for shard in self.shards:
            shard.verify()

    def _term(self, name: str) -> Float16 | None:
        return _joined([shard._term(name) for shard in self.shards])


class _Rows:
    """Tables of equally wide rows, one after the other, as one; none of them is copied whole."""

    def __init__(self, tables: Sequence[Any]) -> None:
        self._tables = tables
        self._ends = np.cumsum([len(table) for table in tables])
        self.shape = (int(self._ends[-1]), int(tables[0].shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int64) -> npt.NDArray[Any]:
        if isinstance(rows, slice):
            return self._range(*rows.indices(len(self)))
        shape, rows = (*np.shape(rows), self.shape[1]), np.ravel(rows)
        owner = np.searchsorted(self._ends, rows, side="right")
        out = np.empty((len(rows), self.shape[1]), self._tables[0][:0].dtype)
        for number in np.unique(owner):
            mine = owner == number
            out[mine] = self._tables[number][rows[mine] - (self._ends[number] - len(self._tables[number]))]
        return out.reshape(shape)

    def _range(self, first: int, last: int, step: int) -> npt.NDArray[Any]:
        if step != 1:
            return self[np.arange(first, last, step)]
        starts = [0, *self._ends.tolist()]
        parts = zip(self._tables, starts[:-1], starts[1:], strict=True)
        pieces = [
            table[max(first - start, 0) : last - start] for table, start, end in parts if start < last and first < end
        ]
        if not pieces:
            return np.asarray(self._tables[0][:0])
        return np.asarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))


def _joined(tables: list[Float16 | None]) -> Float16 | None:
    kept = [table for table in tables if table is not None]
    return cast("Float16", _Rows(kept)) if len(kept) == len(tables) else None


def _databases_in(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))


@dataclass(frozen=True)
class Shard:
    """What must be known of a shard to search it beside others."""

    name: str  # its folder
    identity: str
    cells: int
    first: int  # smallest id
    last: int  # largest id
    dim: int
    level: int
    run: str  # identity of the run that its codes were made with
    factors: tuple[float | str | None, ...]  # what its calibration does to the terms of a code

    @classmethod
    def of(cls, database: Database) -> Self:
        """Describe an open database."""
        return cls(
            name=str(database.folder),
            identity=database.identity,
            cells=len(database.ids),
            first=int(database.ids[0]),
            last=int(database.ids[-1]),
            dim=int(database.codes.shape[1]),
            level=database.level,
            run=str(database.manifest["run"]["identity"]),
            factors=database.calibration.comparable,
        )

    def __str__(self) -> str:
        """Name and range of cells, as `Searched.missing` gives them."""
        return "{} ({} to {})".format(self.name, *s2.tokens(np.array([self.first, self.last], np.uint64)))


def check_shards(shards: Sequence[Shard]) -> list[tuple[int, int]]:
    """Check that scores of different shards can be compared: InputError where run, width, level or calibration differ.

    Returns pairs of shards whose ranges of ids overlap: only their ids can tell whether they share a cell.
    """
    for one, other in pairwise(shards):
        if (one.run, one.dim, one.level) != (other.run, other.dim, other.level):
            raise InputError(f"{one.name} and {other.name} were built from different runs; shards must share one")
        if one.factors != other.factors:
            raise InputError(
                f"{one.name} and {other.name} have different calibrations, so their scores cannot be compared; "
                "clip shards out of one database"
            )
    overlapping = []
    for i, one in enumerate(shards):
        for j, other in enumerate(shards[:i]):
            if one.name == other.name:
                raise InputError(f"{one.name} is given twice as a shard")
            if one.first <= other.last and other.first <= one.last:
                overlapping.append((j, i))
    return overlapping


def common(ids: Ids, others: Ids) -> int:
    """Return how many ids two sorted arrays share."""
    if not len(ids):
        return 0
    rows = np.minimum(np.searchsorted(ids, others), len(ids) - 1)
    return int((ids[rows] == others).sum())


def same_cells(one: Path | str, other: Path | str) -> InputError:
    """The error for shards that are not disjoint."""
    return InputError(f"{one} and {other} share cells, which would be answered twice; shards must be disjoint")
