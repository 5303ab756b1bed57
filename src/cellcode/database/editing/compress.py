"""A database in fewer bytes: product-quantised codes of a few bytes in place of float16."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cellcode.database.building.finalize import MAX_CHECKED, copy_common, inherited, write_first_stage, write_manifest
from cellcode.database.store.database import Database
from cellcode.database.store.layout import CELLS, CODEBOOK, IDS, PACKED, QUERIES, refuse_to_overwrite
from cellcode.database.store.npy_file import RowWriter
from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder
from cellcode.index import quantise, tune
from cellcode.index.codeset import CodeSet
from cellcode.index.quantise import PackedCodes
from cellcode.progress import Meter
from cellcode.types import Float32

BLOCK = 65536
SAMPLE = 65536


def run(database: Database | Path | str, code_bytes: int, *, out: Path | str) -> Database:
    """Write a database whose codes take `code_bytes` each; it has no int8 codes and no terms.

    How often its best cell is the one of the float16 codes, on validation photos, is stored in the manifest as
    `codes.agreement_at_1`.

    Raises:
        UsageError: the width of the codes is not divisible by `code_bytes`.
        InputError: the database is compressed already.
    """
    whole, out = database if isinstance(database, Database) else Database.open(database), Path(out)
    refuse_to_overwrite(out, [whole.folder])
    dim = whole.code_set.dim
    if isinstance(whole.codes, PackedCodes):
        raise InputError(f"{whole.folder} is compressed already; compress the database that it was made from")
    if code_bytes < 1 or dim % code_bytes:
        fitting = [str(size) for size in range(1, dim + 1) if dim % size == 0]
        raise UsageError(f"codes of width {dim} take {', '.join(fitting)} bytes, not {code_bytes}")
    queries, seed = whole.queries, whole.config.training.seed
    chosen = np.unique(np.linspace(0, len(whole.ids) - 1, min(SAMPLE, len(whole.ids))).astype(np.int64))
    codebook = quantise.train(whole.codes[chosen].astype(np.float32), code_bytes, queries[::2], seed)
    with atomic_folder(out) as folder:
        longest = 0.0
        with RowWriter(folder / PACKED, (code_bytes,), np.uint8) as file, Meter("packing", len(whole.ids)) as meter:
            for first in range(0, len(whole.ids), BLOCK):
                numbers = codebook.encode(whole.codes[first : first + BLOCK])
                longest = max(longest, float(np.linalg.norm(codebook.decode(numbers).astype(np.float32), axis=1).max()))
                file.append(numbers)
                meter.advance(len(numbers))
        arrays = {
            "centroids": codebook.centroids,
            "turn": codebook.directions.for_codes,
            "ask": codebook.directions.for_queries,
        }
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / CODEBOOK)
        copy_common(whole.folder, folder)
        for name in (IDS, CELLS, QUERIES):
            shutil.copyfile(whole.folder / name, folder / name)
        packed = PackedCodes(np.load(folder / PACKED, mmap_mode="c"), codebook)
        codes = CodeSet(whole.ids, packed, longest=longest * (1 + 1e-6))
        agreement = _agreement(whole.code_set, codes, queries[1::2])
        settings = write_first_stage(codes, queries, whole.config.build, folder, whole.level, seed)
        values = inherited(whole.manifest) | {
            "codes": {
                "dtype": f"pq{code_bytes}x8",
                "upsampling": whole.manifest["codes"].get("upsampling"),
                "largest_score_error": None,
                "aerial_error": whole.manifest["codes"]["aerial_error"],
                "int8_step": 1.0,
                "int8_error": 0.0,
                "longest": codes.longest,
                "agreement_at_1": agreement,
            },
            "search": settings.to_json() if settings is not None else None,
            "made_from": {"how": "compress", "databases": [whole.identity]},
        }
        write_manifest(folder, whole.ids, whole.calibration, values)
    made = Database.open(out)
    shown = (
        f", the best cell is that of the float16 codes for {agreement:.1%} of the validation photos"
        if agreement
        else ""
    )
    print(f"{code_bytes} bytes a code{shown}; database {made.identity} in {out}", file=sys.stderr)
    return made


def _agreement(whole: CodeSet, packed: CodeSet, queries: Float32) -> float | None:
    """Share of photos whose best cell stays the best; None without photos."""
    if not len(queries):
        return None
    queries = queries[:MAX_CHECKED]
    before, after = tune.brute_force(whole, queries, 1), tune.brute_force(packed, queries, 1)
    return float((before.rows[:, 0] == after.rows[:, 0]).mean())
