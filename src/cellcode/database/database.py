"""The cell-code database on disk: one self-contained folder, memory-mapped; docs/formats.md has its schema."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.database.calibration import Calibration
from cellcode.errors import InputError
from cellcode.files import read_json, sha256
from cellcode.model.encoder import Encoder
from cellcode.runs import architecture

FORMAT = "cellcode-database"
VERSION = 1
MANIFEST, CONFIG, ENCODER = "manifest.json", "config.yaml", "ground.safetensors"
BACKBONE = "backbone"
IDS, CODES, CELLS = "ids.npy", "codes.npy", "cells.parquet"
AERIAL, PROTOTYPES = "terms/aerial.npy", "terms/prototypes.npy"

Ids = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.float16]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Facts:
    """What is known of each cell, (N,) arrays in the order of the ids.

    Attributes:
        photos: int32, training photos in the cell.
        dates: int32, distinct capture days among them.
        first_date, last_date: datetime64[D], NaT where no photo carries a date.
        has_prototype, has_aerial: bool, the terms of its code.
    """

    photos: npt.NDArray[np.int32]
    dates: npt.NDArray[np.int32]
    first_date: npt.NDArray[np.datetime64]
    last_date: npt.NDArray[np.datetime64]
    has_prototype: Bools
    has_aerial: Bools

    def save(self, path: Path, ids: Ids) -> None:
        """Write cells.parquet."""
        columns = {field.name: pa.array(getattr(self, field.name)) for field in fields(self)}
        pq.write_table(pa.table({"cell": pa.array(ids, pa.uint64()), **columns}), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read cells.parquet."""
        table = pq.read_table(path)
        values = {field.name: table.column(field.name).to_numpy() for field in fields(cls)}
        for name in ("first_date", "last_date"):
            values[name] = values[name].astype("datetime64[D]")
        return cls(**values)


@dataclass(frozen=True)
class Database:
    """An open database; `Database.open` makes one.

    Attributes:
        manifest: manifest.json; docs/formats.md has its keys.
        config: the configuration of the run.
        ids: (N,) uint64, sorted, memory-mapped.
        codes: (N, D) float16, memory-mapped; row i belongs to ids[i].
    """

    folder: Path
    manifest: dict[str, Any]
    config: Config
    ids: Ids
    codes: Codes
    calibration: Calibration

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a database; nothing large is read.

        Raises:
            InputError: the folder holds no database, one of another version, or files that are missing, truncated or do
                not belong together.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        _check_sizes(folder, manifest)
        ids, codes = _map(folder / IDS), _map(folder / CODES)
        rows, dim = manifest["cells"]["total"], manifest["dim"]
        if ids.shape != (rows,) or ids.dtype != np.uint64:
            raise InputError(f"{folder / IDS} does not hold the {rows} cells of the manifest; build the database again")
        if codes.shape != (rows, dim) or codes.dtype != np.float16:
            raise InputError(
                f"{folder / CODES} holds {' x '.join(map(str, codes.shape))} values, not the {rows} codes of width "
                f"{dim} that its manifest promises; build the database again"
            )
        return cls(
            folder=folder,
            manifest=manifest,
            config=configuration.load(folder / CONFIG),
            ids=ids,
            codes=codes,
            calibration=Calibration(**manifest["calibration"]),
        )

    @cached_property
    def facts(self) -> Facts:
        """Facts of every cell; read at the first use."""
        try:
            facts = Facts.load(self.folder / CELLS)
        except (pa.ArrowInvalid, KeyError, OSError):
            raise InputError(f"{self.folder / CELLS} cannot be read; build the database again") from None
        if len(facts.photos) != len(self.ids):
            raise InputError(
                f"{self.folder / CELLS} holds {len(facts.photos)} cells, {IDS} holds {len(self.ids)}; "
                "build the database again"
            )
        return facts

    def terms(self) -> tuple[Codes | None, Codes | None]:
        """Return the aerial embeddings and the prototypes of every cell, (N, D) float16, memory-mapped.

        Rows of cells without the term are 0. None: no cell has the term, or the build did not keep the terms.
        """
        return self._term(AERIAL), self._term(PROTOTYPES)

    def encoder(self) -> Encoder:
        """Return the ground encoder that the codes were made for, on the CPU; loaded at the first call.

        Raises:
            InputError: the encoder in the folder is not the one of this database.
        """
        return self._encoder

    @property
    def identity(self) -> str:
        """Hex digest of everything that defines the answers."""
        return str(self.manifest["identity"])

    @property
    def bytes(self) -> int:
        """Size of what search needs: ids and codes."""
        return int(self.ids.nbytes + self.codes.nbytes)

    @property
    def region_bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the cells in degrees; west > east across the antimeridian."""
        west, south, east, north = self.manifest["bounds"]
        return west, south, east, north

    def verify(self) -> None:
        """Compare the checksum of every file with the manifest; reads everything.

        Raises:
            InputError: names the first file that was changed.
        """
        for name, facts in self.manifest["files"].items():
            if sha256(self.folder / name) != facts["sha256"]:
                raise InputError(f"{self.folder / name} was changed after the database was built; build it again")

    @cached_property
    def _encoder(self) -> Encoder:
        path = self.folder / ENCODER
        if sha256(path) != self.manifest["files"][ENCODER]["sha256"]:
            raise InputError(f"the encoder in {path} does not belong to this database; build it again from its run")
        encoder = architecture.rebuilt(self.config.model.ground, self.config.model.dim, self.folder / BACKBONE)
        try:
            encoder.load_state_dict(load_file(path))
        except (RuntimeError, SafetensorError):
            raise InputError(f"the encoder in {path} does not fit {self.folder / CONFIG}; build it again") from None
        return encoder.eval()

    def _term(self, name: str) -> Codes | None:
        if name not in self.manifest["files"]:
            return None
        term = _map(self.folder / name)
        if term.shape != self.codes.shape:
            raise InputError(f"{self.folder / name} does not hold as many rows as {CODES}; build the database again")
        return term


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a database of this version; InputError in one sentence if there is none."""
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a cell-code database (no {MANIFEST}); `cellcode build` makes one")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{folder} is not a cell-code database; `cellcode build` makes one")
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{folder} is a database of format version {manifest.get('version')}, this program reads version {VERSION}; "
            "build it again"
        )
    return manifest


def _check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    """Every file is there and as long as it was written."""
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing; build the database again")
        if (size := path.stat().st_size) != facts["bytes"]:
            kind = "truncated" if size < facts["bytes"] else "longer than it was written"
            raise InputError(f"{path} is {kind} ({size} of {facts['bytes']} bytes); copy or build the database again")


def _map(path: Path) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        raise InputError(f"{path} is no numpy file that can be read; build the database again") from None
