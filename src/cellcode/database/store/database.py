"""The cell-code database on disk: one self-contained folder, memory-mapped; docs/formats.md has its schema."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.database.calibration.fit import Calibration
from cellcode.database.calibration.regressions import Imputation
from cellcode.database.store import layout
from cellcode.database.store.rows import Facts, RowReader
from cellcode.errors import InputError, unreadable
from cellcode.files import sha256, writing
from cellcode.index.codeset import CodeSet, CodeTable
from cellcode.index.first_stage import FirstStage
from cellcode.index.first_stage import load as load_first_stage
from cellcode.index.quantise import Codebook, Directions, PackedCodes
from cellcode.index.tune import Settings
from cellcode.model.encoder import Encoder
from cellcode.runs import architecture
from cellcode.types import Float16, Float32, Ids

BLOCK = 65536  # cells that are compared at once
Lines = list[tuple[str, str]]
SCATTERED_BYTES = 4 << 30  # codes larger than this are not mapped where rows are scattered


@dataclass(frozen=True)
class Database:
    """An open database; `Database.open` makes one. Row i of all arrays is cell ids[i]; they are memory-mapped."""

    folder: Path
    manifest: dict[str, Any]
    config: Config  # of the run
    ids: Ids  # (N,), sorted
    codes: Float16 | PackedCodes  # (N, D), or packed into fewer bytes and decoded when rows are taken
    calibration: Calibration

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a database; nothing large is read.

        InputError: it is none, one of another version, or has files that are missing, truncated or do not belong together.
        """
        folder = Path(folder)
        manifest = layout.read_manifest(folder)
        try:
            layout.check_files(folder, manifest)
            rows, dim = int(manifest["cells"]["total"]), int(manifest["dim"])
            guess = Imputation.load(folder / layout.IMPUTATION, dim) if layout.IMPUTATION in manifest["files"] else None
            calibration = Calibration.from_json(manifest["calibration"], guess)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / layout.MANIFEST} is damaged ({error}); {layout.KIND.advice}") from None
        ids = mapped(folder / layout.IDS, (rows,), np.uint64)
        codes = open_codes(folder, rows, dim, packed=layout.PACKED in manifest["files"])
        return cls(folder, manifest, configuration.load_saved(folder / layout.CONFIG), ids, codes, calibration)

    @classmethod
    def of(cls, database: Database | Path | str) -> Database:
        """Return a database, opened if it is a folder; see `open`."""
        return database if isinstance(database, Database) else cls.open(database)

    @cached_property
    def code_set(self) -> CodeSet:
        """The codes as the search takes them."""
        facts = self.manifest["codes"]
        has_coarse = layout.COARSE in self.manifest["files"]
        coarse = mapped(self.folder / layout.COARSE, self.codes.shape, np.int8) if has_coarse else None
        bounds = facts["int8_step"], facts["int8_error"], facts["longest"]
        return CodeSet(self.ids, self._code_rows(), coarse, *bounds)

    def _code_rows(self) -> CodeTable:
        """The codes, large ones read where rows are scattered (which Windows cannot)."""
        if isinstance(self.codes, PackedCodes) or self.codes.nbytes < SCATTERED_BYTES or not hasattr(os, "preadv"):
            return self.codes
        return RowReader(self.folder / layout.CODES, self.codes)

    @cached_property
    def search_settings(self) -> Settings | None:
        """How the database is searched in two stages; None: it has no first stage."""
        value = self.manifest["search"]
        return Settings.from_json(value) if value is not None else None

    @cached_property
    def first_stage(self) -> FirstStage | None:
        """The quantised codes, read whole at the first use."""
        settings = self.search_settings
        if settings is None:
            return None
        starts = None
        if settings.over == "parents":
            starts = np.array(mapped(self.folder / layout.STARTS, (settings.stage_entries + 1,), np.uint32))
            if starts[-1] != len(self.ids):
                raise InputError(
                    f"{self.folder / layout.STARTS} ends with row {starts[-1]}, {layout.IDS} holds {len(self.ids)}; build the "
                    "database again"
                )
        shape = (2, settings.components, self.code_set.dim)
        directions = Directions(*np.array(mapped(self.folder / layout.DIRECTIONS, shape, np.float32)))
        path = self.folder / layout.FIRST_STAGE
        return load_first_stage(path, directions, starts, settings.stage_entries, settings.levels)

    @cached_property
    def facts(self) -> Facts:
        """Facts of every cell; read at the first use."""
        try:
            cells, facts = Facts.load(self.folder / layout.CELLS)
        except (pa.ArrowException, KeyError, OSError) as error:
            path = self.folder / layout.CELLS
            raise unreadable(path, error, f"{path} cannot be read; build the database again") from None
        if not np.array_equal(cells, self.ids):
            raise InputError(
                f"{self.folder / layout.CELLS} holds other cells than {layout.IDS} ({len(cells)} and {len(self.ids)}); build "
                "the database again"
            )
        return facts

    def terms(self) -> tuple[Float16 | None, Float16 | None]:
        """Return the aerial embeddings and the prototypes of every cell, (N, D) float16, memory-mapped.

        Rows of cells without the term are 0. None: no cell has the term, or the build did not keep the terms.
        """
        return self._term(layout.AERIAL), self._term(layout.PROTOTYPES)

    def tiles(self) -> Float16 | None:
        """Return the aerial embeddings as the encoder gave them, before smoothing; see `terms`."""
        return self._term(layout.TILES) if layout.TILES in self.manifest["files"] else self._term(layout.AERIAL)

    def tile_digests(self) -> Ids | None:
        """Return a digest of each cell's tile, (N,) uint64, 0 where it has none; None if the build kept none."""
        kept = layout.DIGESTS in self.manifest["files"]
        return mapped(self.folder / layout.DIGESTS, self.ids.shape, np.uint64) if kept else None

    @cached_property
    def queries(self) -> Float32:
        """Embeddings of the validation photos that settings of the search are checked with, (V, D)."""
        return np.array(mapped(self.folder / layout.QUERIES, (None, self.code_set.dim), np.float32))

    def encoder(self) -> Encoder:
        """Return the ground encoder of the codes, on the CPU, loaded at the first call; InputError where it is another."""
        return self._encoder

    @property
    def level(self) -> int:
        """S2 level of the cells."""
        return int(self.manifest["levels"]["cell"])

    @property
    def identity(self) -> str:
        """Hex digest of everything that defines the answers."""
        return str(self.manifest["identity"])

    @property
    def bytes(self) -> int:
        """Size of what an exact answer needs: ids and codes."""
        codes = self.codes.numbers if isinstance(self.codes, PackedCodes) else self.codes
        return int(self.ids.nbytes + codes.nbytes)

    @property
    def region_bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the cells in degrees; west > east across the antimeridian."""
        west, south, east, north = self.manifest["bounds"]
        return west, south, east, north

    def verify(self) -> None:
        """Read all of it: every file's digest, and the order of ids; InputError names the first file that was changed."""
        layout.KIND.verify(self.folder, self.manifest["files"])
        if not (self.ids[1:] > self.ids[:-1]).all():
            raise InputError(f"{self.folder / layout.IDS} is not in the order of its cells; build the database again")

    @cached_property
    def _encoder(self) -> Encoder:
        path = self.folder / layout.ENCODER
        if sha256(path) != self.manifest["files"][layout.ENCODER]["sha256"]:
            raise InputError(f"the encoder in {path} does not belong to this database; build it again from its run")
        try:
            weights = load_file(path)
        except SafetensorError as error:
            otherwise = f"the encoder in {path} cannot be read ({error}); build the database again"
            raise unreadable(path, error, otherwise) from None
        model, kept = self.config.model, self.folder / layout.BACKBONE
        return architecture.restored(model.ground, model.dim, weights, kept, self.folder / layout.CONFIG)

    def rows(self, name: str) -> npt.NDArray[Any]:
        """Map a file with one row per cell; zeros where the database does not have it, because no cell has what it holds."""
        if name in self.manifest["files"]:
            with writing(self.folder / name):
                return np.asarray(np.load(self.folder / name, mmap_mode="r"))
        # Without smoothing the raw embeddings are the terms themselves.
        if name == layout.TILES and layout.AERIAL in self.manifest["files"]:
            return self.rows(layout.AERIAL)
        if name == layout.DIGESTS:
            return np.zeros(len(self.ids), np.uint64)
        return np.broadcast_to(np.float16(0), self.codes.shape)

    def _term(self, name: str) -> Float16 | None:
        return mapped(self.folder / name, self.codes.shape, np.float16) if name in self.manifest["files"] else None


def mapped(path: Path, shape: tuple[int | None, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Map a numpy file; InputError unless it holds the shape (None: any number) and type that the manifest promises.

    Copy on write: nothing is ever written, but torch takes only arrays that could be.
    """
    try:
        array = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        otherwise = f"{path} is not a readable numpy file; build the database again"
        raise unreadable(path, error, otherwise) from None
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        sizes = (array.shape, shape)
        held, promised = (" x ".join("any" if size is None else str(size) for size in each) for each in sizes)
        raise InputError(
            f"{path} holds {held} {array.dtype} values, not the {promised} {np.dtype(dtype)} that its manifest promises; "
            "build the database again"
        )
    return array


def open_codes(folder: Path, rows: int, dim: int, packed: bool) -> Float16 | PackedCodes:
    """Map the codes of a database, (rows, dim), which are float16 or packed; see `mapped`."""
    if not packed:
        return mapped(folder / layout.CODES, (rows, dim), np.float16)
    try:
        arrays = load_arrays(folder / layout.CODEBOOK)
        codebook = Codebook(arrays["centroids"], Directions(arrays["turn"], arrays["ask"]))
    except (SafetensorError, KeyError) as error:
        path = folder / layout.CODEBOOK
        raise unreadable(path, error, f"{path} is not a readable codebook; build the database again") from None
    return PackedCodes(mapped(folder / layout.PACKED, (rows, codebook.pieces), np.uint8), codebook)


def differences(one: Database, other: Database) -> Lines:
    """Return a line for everything that differs, first whether answers do."""
    alike = one.identity == other.identity
    text = f"{one.identity}: exact searches of both answer alike" if alike else f"{one.identity} -> {other.identity}"
    lines = [("identity", text)]
    for name in ("run", "levels", "dim", "codes", "imagery", "calibration", "search", "licences", "attributions"):
        lines += _changed(name, one.manifest[name], other.manifest[name])
    lines += [("configuration", text) for text in configuration.differences(one.config, other.config)]
    return lines + _cells(one, other)


def _changed(name: str, before: Any, after: Any) -> Lines:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in before | after if before.get(key) != after.get(key)]
        return [(f"{name}.{key}", f"{before.get(key)} -> {after.get(key)}") for key in keys]
    return [(name, f"{before} -> {after}")] if before != after else []


def _cells(one: Database, other: Database) -> Lines:
    both, rows, other_rows = np.intersect1d(one.ids, other.ids, assume_unique=True, return_indices=True)
    lines = [("cells", f"{len(both)} in both, {len(one.ids) - len(both)} gone, {len(other.ids) - len(both)} new")]
    if one.code_set.dim != other.code_set.dim or not len(both):
        return lines
    changed, largest = 0, 0.0
    for first in range(0, len(both), BLOCK):
        part = slice(first, first + BLOCK)
        before, after = one.codes[rows[part]].astype(np.float32), other.codes[other_rows[part]].astype(np.float32)
        apart = np.linalg.norm(before - after, axis=1)
        changed, largest = changed + int((apart > 0).sum()), max(largest, float(apart.max()))
    return [*lines, ("codes", f"{changed} of {len(both)} differ, by at most {largest:.3g}")]
