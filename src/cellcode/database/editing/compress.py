"""A database in fewer bytes: product-quantised codes of a few bytes in place of float16."""

import logging
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cellcode.database.building.first_stage import MAX_CHECKED
from cellcode.database.building.writer import Writer, inherited
from cellcode.database.store import layout
from cellcode.database.store.database import Database
from cellcode.database.store.rows import RowWriter
from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder
from cellcode.index import quantise, tune
from cellcode.index.codeset import CodeSet
from cellcode.index.quantise import Codebook, PackedCodes
from cellcode.progress import Meter
from cellcode.types import Float32

logger = logging.getLogger(__name__)
BLOCK, SAMPLE = 65536, 65536


def compress(database: Database | Path | str, code_bytes: int, *, out: Path | str) -> Database:
    """Write a database whose codes take `code_bytes` each; it has no int8 codes and no terms.

    The share of validation photos whose best cell is that of the float16 codes is the manifest's `codes.agreement_at_1`.
    UsageError: the width of the codes is not divisible by `code_bytes`; InputError: the database is compressed already.
    """
    whole, out = Database.of(database), Path(out)
    layout.refuse_to_overwrite(out, [whole.folder])
    dim = whole.code_set.dim
    if isinstance(whole.codes, PackedCodes):
        raise InputError(f"{whole.folder} is compressed already; compress the database that it was made from")
    if code_bytes < 1 or dim % code_bytes:
        fitting = [str(size) for size in range(1, dim + 1) if dim % size == 0]
        raise UsageError(f"codes of width {dim} take {', '.join(fitting)} bytes, not {code_bytes}")
    whole.verify()
    queries, before = whole.queries, whole.manifest["codes"]
    chosen = np.unique(np.linspace(0, len(whole.ids) - 1, min(SAMPLE, len(whole.ids))).astype(np.int64))
    sample = whole.codes[chosen].astype(np.float32)
    codebook = quantise.train(sample, code_bytes, queries[::2], whole.config.training.seed)
    with atomic_folder(out) as folder:
        longest = _write_packed(whole, codebook, folder)
        writer = Writer(folder, whole.config)
        writer.copy(whole.folder, layout.IDS, layout.CELLS)
        codes = writer.codes({"int8_step": 1.0, "int8_error": 0.0, "longest": longest * (1 + 1e-6)})
        agreement = _agreement(whole.code_set, codes, queries[1::2])
        search = writer.first_stage(codes, queries, whole.level, new=True)
        values = inherited(whole) | {
            "codes": {
                "dtype": f"pq{code_bytes}x8",
                "upsampling": before.get("upsampling"),
                "largest_score_error": None,
                "aerial_error": before["aerial_error"],
                "agreement_at_1": agreement,
            },
            "made_from": {"how": "compress", "databases": [whole.identity]},
        }
        writer.finish(whole.manifest["cells"], whole.calibration, search, values)
    small = Database.open(out)
    shown = f", the best cell is that of the float16 codes for {agreement or 0:.1%} of the validation photos"
    shown = shown if agreement else ""
    logger.info("%d bytes per code%s; database %s in %s", code_bytes, shown, small.identity, out)
    return small


def _write_packed(whole: Database, codebook: Codebook, folder: Path) -> float:
    """Write the packed codes and their codebook; return the length of the longest code."""
    longest, count = 0.0, len(whole.ids)
    with RowWriter(folder / layout.PACKED, (codebook.pieces,), np.uint8) as file, Meter("packing", count) as meter:
        for first in range(0, count, BLOCK):
            numbers = codebook.encode(np.asarray(whole.codes[first : first + BLOCK]))
            longest = max(longest, float(np.linalg.norm(codebook.decode(numbers).astype(np.float32), axis=1).max()))
            file.append(numbers)
            meter.advance(len(numbers))
    directions = codebook.directions
    arrays = {"centroids": codebook.centroids, "turn": directions.for_codes, "ask": directions.for_queries}
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / layout.CODEBOOK)
    return longest


def _agreement(whole: CodeSet, packed: CodeSet, queries: Float32) -> float | None:
    """Share of photos whose best cell stays the best; None without photos."""
    if not len(queries):
        return None
    queries = queries[:MAX_CHECKED]
    before, after = tune.brute_force(whole, queries, 1), tune.brute_force(packed, queries, 1)
    return float((before.rows[:, 0] == after.rows[:, 0]).mean())
