"""The one way to write the folder of a database: built, grown, clipped, merged or compressed."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from safetensors.torch import save_file

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.database.building import first_stage
from cellcode.database.building.fusion import fuse, row_error
from cellcode.database.building.plan import bounds
from cellcode.database.calibration.fit import Calibration
from cellcode.database.calibration.similarity import Terms
from cellcode.database.store import layout
from cellcode.database.store.database import Database, open_codes
from cellcode.database.store.rows import Facts, RowWriter
from cellcode.index.codeset import CodeSet
from cellcode.index.first_stage import FirstStage
from cellcode.index.quantise import int8_step, to_int8
from cellcode.index.tune import Settings
from cellcode.integrity import describe
from cellcode.model.encoder import Encoder
from cellcode.progress import Meter
from cellcode.types import Bools, Float16, Float32, Ids, Int64

BLOCK = 65536
INHERITED = (
    "cellcode_version", "run", "aerial_encoder", "levels", "dim", "cells", "codes", "calibration_report", "imagery",
    "training_photos", "licences", "attributions",
)  # fmt: skip


class Writer:
    """Writes the files of a database into an empty folder, in this order: rows of cells, codes, search files, manifest."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config
        self._rounding: dict[str, Any] = {}  # of the int8 codes, for the manifest

    def copy_rows(self, name: str, sources: Sequence[npt.NDArray[Any]], spans: Int64) -> None:
        """Write a file with one row per cell from rows of several arrays; `spans` as `interleave` returns them."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with RowWriter(self.folder / name, sources[0].shape[1:], sources[0].dtype) as file:
            for number, start, stop in spans.tolist():
                for first in range(start, stop, BLOCK):
                    file.append(sources[number][first : min(first + BLOCK, stop)])

    def copy_facts(self, sources: Sequence[Facts], spans: Int64) -> Facts:
        """Write cells.parquet for the ids that are there from rows of several; return the facts of all cells."""
        facts = Facts.joined([sources[number].select(slice(start, stop)) for number, start, stop in spans.tolist()])
        pq.write_table(facts.table(self.ids), self.folder / layout.CELLS, row_group_size=BLOCK)
        return facts

    def copy(self, source: Path, *names: str) -> None:
        """Copy files of another database that do not depend on the choice of cells, and those of these names."""
        optional = [name for name in (layout.IMPUTATION,) if (source / name).is_file()]
        for name in (layout.CONFIG, layout.ENCODER, *optional, *names):
            shutil.copyfile(source / name, self.folder / name)
        if (source / layout.BACKBONE).is_dir():
            shutil.copytree(source / layout.BACKBONE, self.folder / layout.BACKBONE)

    def encoder(self, ground: Encoder) -> None:
        """Write the configuration and the ground encoder of a run."""
        (self.folder / layout.CONFIG).write_text(configuration.dump(self.config), encoding="utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in ground.state_dict().items()}
        save_file(tensors, self.folder / layout.ENCODER)
        ground.backbone.keep(self.folder / layout.BACKBONE)

    @property
    def ids(self) -> Ids:
        """(N,) uint64, of the rows that were written; memory-mapped."""
        return np.asarray(np.load(self.folder / layout.IDS, mmap_mode="r"))

    def terms(self, has_aerial: Bools, has_prototype: Bools) -> Terms:
        """Return the terms that were written, memory-mapped."""
        aerial, prototypes = (
            np.load(self.folder / name, mmap_mode="r") if has.any() and (self.folder / name).is_file() else None
            for name, has in ((layout.AERIAL, has_aerial), (layout.PROTOTYPES, has_prototype))
        )
        return Terms(aerial, prototypes, has_aerial, has_prototype)

    def fuse(self, terms: Terms, calibration: Calibration) -> float:
        """Write codes from terms, block by block; return the largest distance of a float16 code from its float32 original."""
        count, error = len(terms.has_aerial), 0.0
        row = (self.config.model.dim,)
        with RowWriter(self.folder / layout.CODES, row, np.float16) as file, Meter("fusing codes", count) as meter:
            for first in range(0, count, BLOCK):
                codes = fuse(*terms.rows(slice(first, first + BLOCK)), calibration)
                narrow = codes.astype(np.float16)
                error = max(error, row_error(codes, narrow))
                file.append(narrow)
                meter.advance(len(codes))
        return error

    def codes(self, known: dict[str, Any] | None = None) -> CodeSet:
        """Open the codes that were written, for searches; int8 codes are written, and bounds measured, unless these are known.

        Bounds are `int8_step`, `int8_error` and `longest`.
        """
        packed = (self.folder / layout.PACKED).is_file()
        codes = open_codes(self.folder, len(self.ids), self.config.model.dim, packed)
        if known is None:
            assert isinstance(codes, np.ndarray)  # packed codes have bounds of their own
            known = write_coarse(codes, self.folder)
        self._rounding = {name: known[name] for name in ("int8_step", "int8_error", "longest")}
        coarse = self.folder / layout.COARSE
        narrow = np.load(coarse, mmap_mode="c") if coarse.is_file() else None
        return CodeSet(self.ids, codes, narrow, *self._rounding.values())

    def first_stage(
        self, codes: CodeSet, queries: Float32, level: int, of: FirstStage | None = None, *, new: bool = False
    ) -> Settings | None:
        """Write the validation photos, and a first stage of the search where there is a good one; return its settings.

        A new one is trained for these codes, or has the directions and centroids of another, if there is one.
        """
        np.save(self.folder / layout.QUERIES, queries)
        rule = self.config.build
        if new:
            return first_stage.make(codes, queries, rule, self.folder, level, self.config.training.seed)
        return first_stage.refill(of, codes, queries, rule, self.folder, level)

    def finish(
        self, cells: dict[str, int], calibration: Calibration, search: Settings | None, values: dict[str, Any]
    ) -> None:
        """Write the manifest, which makes the folder a database; for `cells` see `count_kinds`, `values` are further keys."""
        found = search.to_json() if search is not None else None
        measured = {"cells": cells, "codes": values["codes"] | self._rounding, "search": found}
        write_manifest(self.folder, self.ids, calibration, values | measured)


def interleave(ids: Sequence[Ids], rows: Sequence[Int64 | slice] | None = None) -> Int64:
    """Return (chosen) rows of several sorted arrays in the order of their ids, of which no two arrays share any.

    They are spans, (S, 3): number of the array, first, past the last row.
    """
    taken = [np.arange(len(each)) for each in ids]
    if rows is not None:
        taken = [each[chosen] for each, chosen in zip(taken, rows, strict=True)]
    order = np.argsort(np.concatenate([each[own] for each, own in zip(ids, taken, strict=True)]), kind="stable")
    owner = np.repeat(np.arange(len(ids)), [len(each) for each in taken])[order]
    row = np.concatenate(taken)[order]
    starts = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | (np.diff(row, prepend=-2) != 1))
    lengths = np.diff(np.append(starts, len(owner)))
    return np.stack([owner[starts], row[starts], row[starts] + lengths], axis=1)


def write_coarse(codes: Float16, folder: Path) -> dict[str, float]:
    """Write the int8 codes, (N, D), with one step for all of them, as small as the largest value allows.

    Returns `int8_step`; the largest distance of an int8 code from its code, and the length of the longest code, rounded up.
    """
    blocks = range(0, len(codes), BLOCK)
    step = int8_step(max(float(np.abs(codes[first : first + BLOCK]).max()) for first in blocks))
    error = longest = 0.0
    with RowWriter(folder / layout.COARSE, codes.shape[1:], np.int8) as file, Meter("int8 codes", len(codes)) as meter:
        for first in blocks:
            block = np.asarray(codes[first : first + BLOCK])
            narrow, worst = to_int8(block, step)
            error = max(error, worst)
            longest = max(longest, float(np.linalg.norm(block.astype(np.float32), axis=1).max()))
            file.append(narrow)
            meter.advance(len(block))
    return {"int8_step": step, "int8_error": error * (1 + 1e-6), "longest": longest * (1 + 1e-6)}


def inherited(database: Database) -> dict[str, Any]:
    """Return what the manifest of a database keeps of the one it was made from."""
    return {name: database.manifest[name] for name in INHERITED}


def count_kinds(has_aerial: Bools, has_prototype: Bools, left_out: int = 0) -> dict[str, int]:
    """Return the manifest's counts of cells by the terms they have."""
    both = int((has_aerial & has_prototype).sum())
    return {
        "total": len(has_aerial),
        "both": both,
        "aerial_only": int(has_aerial.sum()) - both,
        "prototype_only": int(has_prototype.sum()) - both,
        "left_out": left_out,
    }


def write_manifest(folder: Path, ids: Ids, calibration: Calibration, values: dict[str, Any]) -> None:
    """Write the manifest: the given keys, the calibration, and checksums of the files."""
    files = describe(folder, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
    parts = "".join(str(files[name]["sha256"]) for name in layout.DEFINING if name in files)
    # `repr` of the calibration is part of the format: other names of its fields would be other identities.
    identity = hashlib.sha256((parts + repr(calibration)).encode()).hexdigest()[:16]
    tail = {"calibration": calibration.to_json(), "bounds": list(bounds(ids)), "files": files}
    layout.KIND.write(folder / layout.MANIFEST, {"identity": identity} | values | tail)
