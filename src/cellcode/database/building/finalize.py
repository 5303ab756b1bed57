"""The last steps of every database, built, cut, joined or compressed: search files, checksums, manifest."""

from __future__ import annotations

import hashlib
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cellcode.config import BuildConfig
from cellcode.database.building.plan import bounds
from cellcode.database.calibration.fit import Calibration
from cellcode.database.store.layout import (
    BACKBONE,
    COARSE,
    CONFIG,
    DEFINING,
    DIRECTIONS,
    ENCODER,
    FIRST_STAGE,
    FORMAT,
    IMPUTATION,
    MANIFEST,
    STARTS,
    VERSION,
)
from cellcode.database.store.npy_file import RowWriter
from cellcode.files import sampled_digest, sha256, write_json
from cellcode.geography import s2
from cellcode.index import first_stage, tune
from cellcode.index.codeset import CodeSet
from cellcode.index.first_stage import Builder, FirstStage
from cellcode.index.quantise import int8_step, to_int8
from cellcode.progress import Meter
from cellcode.types import Bools, Float16, Float32, Ids

BLOCK = 65536
SAMPLE = 65536  # codes that directions and centroids are found on
MIN_QUERIES = 200  # fewer cannot tell 99.5 %
MAX_CHECKED = 512  # queries that are answered by brute force


@dataclass(frozen=True)
class Coarse:
    """The int8 codes of a database: their step, the largest distance of one from its code, the longest code."""

    step: float
    error: float
    longest: float


def write_coarse(codes: Float16, folder: Path) -> Coarse:
    """Write the int8 codes, (N, D), with one step for all of them, as small as the largest value allows."""
    step = int8_step(max(float(np.abs(block).max()) for block in _blocks(codes)))
    error = longest = 0.0
    with RowWriter(folder / COARSE, codes.shape[1:], np.int8) as file, Meter("int8 codes", len(codes)) as meter:
        for block in _blocks(codes):
            narrow, worst = to_int8(block, step)
            error = max(error, worst)
            longest = max(longest, float(np.linalg.norm(block.astype(np.float32), axis=1).max()))
            file.append(narrow)
            meter.advance(len(block))
    # Rounded up, because both are bounds.
    return Coarse(step, error * (1 + 1e-6), longest * (1 + 1e-6))


def write_first_stage(
    codes: CodeSet, queries: Float32, rule: BuildConfig, folder: Path, level: int, seed: int
) -> tune.Settings | None:
    """Make the first stage that searches cheapest while it keeps what brute force finds, and write it.

    Several are tried, over cells and over the means of parents, the smallest first; `tune.check` says whether one does.
    Where none does, the database is small or has few validation photos, there is none, and searches are exact.
    """
    if rule.first_stage == "none" or len(codes) < max(rule.first_stage_min_cells, tune.LADDER[0]):
        return None
    if len(queries) < 2 * MIN_QUERIES:  # half of them check what the others made
        print(
            f"search: {len(queries)} validation photos cannot make and check a first stage (at least {2 * MIN_QUERIES}), "
            "so the database is searched exactly",
            file=sys.stderr,
        )
        return None
    tuning, checking = queries[::2], queries[1::2][:MAX_CHECKED]
    truth = tune.brute_force(codes, checking)
    best: tuple[float, FirstStage, tune.Settings] | None = None
    for over, dims, levels in _choices(codes.dim, rule):
        starts = first_stage.parent_starts(s2.parents(codes.ids, max(level - 1, 0))) if over == "parents" else None
        entries = len(codes) if starts is None else len(starts) - 1
        if best is not None and entries * dims * levels / 4 > best[0]:
            continue  # reading it alone costs more than the best so far
        stage = _fill(first_stage.train(_sample(codes, starts), tuning, dims, levels, seed), codes, starts)
        settings = tune.check(stage, checking, truth)
        price = tune.cost(settings, settings.entries_for(100), len(codes))
        print(f"search: {_describe(stage, settings)}", file=sys.stderr)
        if best is None or price < best[0]:
            best = (price, stage, settings)
    assert best is not None
    price, stage, settings = best
    if math.isinf(price):
        print(
            "search: no first stage keeps what brute force finds, so the database is searched exactly", file=sys.stderr
        )
        return None
    _save(stage, folder)
    return settings


def recheck_first_stage(
    stage: FirstStage | None, codes: CodeSet, queries: Float32, rule: BuildConfig, folder: Path, level: int
) -> tune.Settings | None:
    """Write a first stage of other cells with the same directions and centroids, and its settings, checked on these cells."""
    if stage is None or len(codes) < rule.first_stage_min_cells:
        return None
    starts = first_stage.parent_starts(s2.parents(codes.ids, max(level - 1, 0))) if stage.over == "parents" else None
    made, checking = _fill(stage.like(), codes, starts), queries[1::2][:MAX_CHECKED]
    settings = tune.check(made, checking, tune.brute_force(codes, checking))
    if settings.entries_for(1) is None:
        return None
    _save(made, folder)
    return settings


def copy_common(source: Path, folder: Path) -> None:
    """Copy the files of a database that do not depend on its cells."""
    for name in (CONFIG, ENCODER, IMPUTATION):
        if name != IMPUTATION or (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (source / BACKBONE).is_dir():
        shutil.copytree(source / BACKBONE, folder / BACKBONE)


def inherited(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest keeps of that of the database it was made from."""
    names = (
        "cellcode_version", "run", "aerial_encoder", "levels", "dim", "cells", "codes", "calibration_report", "imagery",
        "training_photos", "licences", "attributions",
    )  # fmt: skip
    return {name: manifest[name] for name in names}


def count_kinds(has_aerial: Bools, has_prototype: Bools, left_out: int) -> dict[str, int]:
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
    """Write the manifest, with what follows from the files: it comes last and makes the folder a database."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = {
        name: {
            "bytes": (folder / name).stat().st_size,
            "sample": sampled_digest(folder / name),
            "sha256": sha256(folder / name),
        }
        for name in names
    }
    parts = "".join(str(files[name]["sha256"]) for name in DEFINING if name in files)
    identity = hashlib.sha256((parts + repr(calibration)).encode()).hexdigest()[:16]
    head = {"format": FORMAT, "version": VERSION, "identity": identity}
    tail = {"calibration": calibration.to_json(), "bounds": list(bounds(ids)), "files": files}
    write_json(folder / MANIFEST, head | values | tail)


def _save(stage: FirstStage, folder: Path) -> None:
    stage.save(folder / FIRST_STAGE)
    np.save(folder / DIRECTIONS, np.stack(stage.directions))
    if stage.starts is not None:
        np.save(folder / STARTS, stage.starts.astype(np.uint32))


def _choices(dim: int, rule: BuildConfig) -> Iterator[tuple[first_stage.Over, int, int]]:
    """Yield what to try, smallest first: over what, components, levels."""
    shapes = [(dim // shrink, 2) for shrink in (8, 4, 2, 1)]
    kinds: tuple[first_stage.Over, ...] = ("parents", "cells")
    for over in kinds:
        for dims, levels in shapes:
            if rule.first_stage in ("auto", over) and dims >= 2 and dims % 2 == 0:
                yield over, dims, levels


def _sample(codes: CodeSet, starts: npt.NDArray[np.integer] | None) -> Float32:
    """Codes of evenly spaced entries."""
    count = len(codes) if starts is None else len(starts) - 1
    chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))
    if starts is None:
        return codes.exact[chosen].astype(np.float32)
    rows = first_stage.expand(starts, chosen)
    sizes = (starts[chosen + 1] - starts[chosen]).astype(np.int64)
    return first_stage.means(codes.exact[rows].astype(np.float32), np.concatenate([[0], np.cumsum(sizes)]))


def _fill(builder: Builder, codes: CodeSet, starts: npt.NDArray[np.integer] | None) -> FirstStage:
    """Add every entry, block by block; blocks end where entries do."""
    count = len(codes) if starts is None else len(starts) - 1
    with Meter("quantising codes", count) as meter:
        for first in range(0, count, BLOCK // (1 if starts is None else 4)):
            last = min(first + BLOCK // (1 if starts is None else 4), count)
            if starts is None:
                builder.add(_widened(codes.exact[first:last]))
            else:
                block = _widened(codes.exact[int(starts[first]) : int(starts[last])])
                builder.add(first_stage.means(block, starts[first : last + 1] - starts[first]))
            meter.advance(last - first)
    return builder.made(starts)


def _widened(codes: Float16) -> Float32:
    """Return codes as float32; torch does it several times faster than numpy."""
    return np.asarray(torch.from_numpy(np.array(codes)).float().numpy())


def _describe(stage: FirstStage, settings: tune.Settings) -> str:
    kept = ", ".join(
        f"{settings.kept[k]:.2%} of the {k} best with {count} scored again" for k, count in settings.entries.items()
    )
    return f"{stage.entry_bytes} bytes a {stage.over[:-1]}: {kept or 'does not keep the best'}"


def _blocks(codes: Float16) -> Iterator[Float16]:
    return (np.asarray(codes[first : first + BLOCK]) for first in range(0, len(codes), BLOCK))
