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
from cellcode.database.calibration.imputation import Imputation
from cellcode.database.store.facts import Facts
from cellcode.database.store.layout import (
    AERIAL,
    BACKBONE,
    CELLS,
    COARSE,
    CODEBOOK,
    CODES,
    CONFIG,
    DIGESTS,
    DIRECTIONS,
    ENCODER,
    FIRST_STAGE,
    IDS,
    IMPUTATION,
    MANIFEST,
    PACKED,
    PROTOTYPES,
    QUERIES,
    STARTS,
    TILES,
    check_files,
    read_manifest,
)
from cellcode.database.store.npy_file import RowReader
from cellcode.errors import InputError
from cellcode.files import sha256
from cellcode.index.codeset import CodeSet, CodeTable
from cellcode.index.directions import Directions
from cellcode.index.first_stage import FirstStage
from cellcode.index.first_stage import load as load_first_stage
from cellcode.index.quantise import Codebook, PackedCodes
from cellcode.index.tune import Settings
from cellcode.model.encoder import Encoder
from cellcode.runs import architecture
from cellcode.types import Float16, Float32, Ids

SCATTERED_BYTES = 4 << 30  # codes larger than this are not mapped where rows are scattered


@dataclass(frozen=True)
class Database:
    """An open database; `Database.open` makes one.

    Attributes:
        manifest: manifest.json; docs/formats.md has its keys.
        config: the configuration of the run.
        ids: (N,) uint64, sorted, memory-mapped.
        codes: (N, D) float16, memory-mapped, or packed into fewer bytes and decoded when rows are taken; row i belongs to
            ids[i].
    """

    folder: Path
    manifest: dict[str, Any]
    config: Config
    ids: Ids
    codes: Float16 | PackedCodes
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
        try:
            check_files(folder, manifest)
            rows, dim = int(manifest["cells"]["total"]), int(manifest["dim"])
            guess = Imputation.load(folder / IMPUTATION, dim) if IMPUTATION in manifest["files"] else None
            calibration = Calibration.from_json(manifest["calibration"], guess)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / MANIFEST} is damaged ({error}); copy or build the database again") from None
        ids = mapped(folder / IDS, (rows,), np.uint64)
        codes: Float16 | PackedCodes
        if PACKED in manifest["files"]:
            codebook = _codebook(folder / CODEBOOK)
            codes = PackedCodes(mapped(folder / PACKED, (rows, codebook.pieces), np.uint8), codebook)
        else:
            codes = mapped(folder / CODES, (rows, dim), np.float16)
        return cls(
            folder=folder,
            manifest=manifest,
            config=configuration.load_saved(folder / CONFIG),
            ids=ids,
            codes=codes,
            calibration=calibration,
        )

    @cached_property
    def code_set(self) -> CodeSet:
        """The codes as the search takes them."""
        facts = self.manifest["codes"]
        has_coarse = COARSE in self.manifest["files"]
        return CodeSet(
            ids=self.ids,
            exact=self._code_rows(),
            coarse=mapped(self.folder / COARSE, self.codes.shape, np.int8) if has_coarse else None,
            scale=facts["int8_step"],
            coarse_error=facts["int8_error"],
            longest=facts["longest"],
        )

    def _code_rows(self) -> CodeTable:
        """The codes, large ones read where rows are scattered (which Windows cannot)."""
        if isinstance(self.codes, PackedCodes) or self.codes.nbytes < SCATTERED_BYTES or not hasattr(os, "preadv"):
            return self.codes
        return RowReader(self.folder / CODES, self.codes)

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
            starts = np.array(mapped(self.folder / STARTS, (settings.stage_entries + 1,), np.uint32))
            if starts[-1] != len(self.ids):
                raise InputError(
                    f"{self.folder / STARTS} ends with row {starts[-1]}, {IDS} holds {len(self.ids)}; build the database again"
                )
        turn, ask = np.array(mapped(self.folder / DIRECTIONS, (2, settings.components, self.code_set.dim), np.float32))
        return load_first_stage(
            self.folder / FIRST_STAGE, Directions(turn, ask), starts, settings.stage_entries, settings.levels
        )

    @cached_property
    def facts(self) -> Facts:
        """Facts of every cell; read at the first use."""
        try:
            cells, facts = Facts.load(self.folder / CELLS)
        except (pa.ArrowException, KeyError, OSError):
            raise InputError(f"{self.folder / CELLS} cannot be read; build the database again") from None
        if not np.array_equal(cells, self.ids):
            raise InputError(
                f"{self.folder / CELLS} holds other cells than {IDS} ({len(cells)} and {len(self.ids)}); build the "
                "database again"
            )
        return facts

    def terms(self) -> tuple[Float16 | None, Float16 | None]:
        """Return the aerial embeddings and the prototypes of every cell, (N, D) float16, memory-mapped.

        Rows of cells without the term are 0. None: no cell has the term, or the build did not keep the terms.
        """
        return self._term(AERIAL), self._term(PROTOTYPES)

    def tiles(self) -> Float16 | None:
        """Return the aerial embeddings as the encoder gave them, before smoothing; see `terms`."""
        return self._term(TILES) if TILES in self.manifest["files"] else self._term(AERIAL)

    def tile_digests(self) -> Ids | None:
        """Return a digest of each cell's tile, (N,) uint64, 0 where it has none; None if the build kept none."""
        return mapped(self.folder / DIGESTS, self.ids.shape, np.uint64) if DIGESTS in self.manifest["files"] else None

    @cached_property
    def queries(self) -> Float32:
        """Embeddings of the validation photos that settings of the search are checked with, (V, D)."""
        return np.array(mapped(self.folder / QUERIES, (None, self.code_set.dim), np.float32))

    def encoder(self) -> Encoder:
        """Return the ground encoder that the codes were made for, on the CPU; loaded at the first call.

        Raises:
            InputError: the encoder in the folder is not the one of this database.
        """
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
        if isinstance(self.codes, PackedCodes):
            return int(self.ids.nbytes + self.codes.numbers.nbytes)
        return int(self.ids.nbytes + self.codes.nbytes)

    @property
    def region_bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the cells in degrees; west > east across the antimeridian."""
        west, south, east, north = self.manifest["bounds"]
        return west, south, east, north

    def verify(self) -> None:
        """Compare the checksum of every file with the manifest, and the order of the ids; reads everything.

        Raises:
            InputError: names the first file that was changed.
        """
        for name, facts in self.manifest["files"].items():
            if sha256(self.folder / name) != facts["sha256"]:
                raise InputError(f"{self.folder / name} was changed after the database was built; build it again")
        if not (self.ids[1:] > self.ids[:-1]).all():
            raise InputError(f"{self.folder / IDS} is not in the order of its cells; build the database again")

    @cached_property
    def _encoder(self) -> Encoder:
        path = self.folder / ENCODER
        if sha256(path) != self.manifest["files"][ENCODER]["sha256"]:
            raise InputError(f"the encoder in {path} does not belong to this database; build it again from its run")
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise InputError(f"the encoder in {path} cannot be read ({error}); build the database again") from None
        model, kept = self.config.model, self.folder / BACKBONE
        return architecture.restored(model.ground, model.dim, weights, kept, self.folder / CONFIG)

    def _term(self, name: str) -> Float16 | None:
        return mapped(self.folder / name, self.codes.shape, np.float16) if name in self.manifest["files"] else None


def mapped(path: Path, shape: tuple[int | None, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Map a numpy file.

    Copy on write: nothing is ever written, but torch takes only arrays that could be.

    Args:
        shape: what the manifest promises; None: any number.

    Raises:
        InputError: it cannot be read, or holds something else than the manifest promises.
    """
    try:
        array = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        raise InputError(f"{path} is no numpy file that can be read; build the database again") from None
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        held, promised = (
            " x ".join("any" if size is None else str(size) for size in each) for each in (array.shape, shape)
        )
        raise InputError(
            f"{path} holds {held} {array.dtype} values, not the {promised} {np.dtype(dtype)} that its manifest promises; "
            "build the database again"
        )
    return array


def _codebook(path: Path) -> Codebook:
    try:
        arrays = load_arrays(path)
        return Codebook(arrays["centroids"], Directions(arrays["turn"], arrays["ask"]))
    except (SafetensorError, KeyError):
        raise InputError(f"{path} is no codebook that can be read; build the database again") from None
