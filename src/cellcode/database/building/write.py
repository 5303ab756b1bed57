"""The second part of a build: shards joined, calibrated, fused to codes, and written as a database."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from cellcode import config as configuration
from cellcode.aerial import AerialSource
from cellcode.database.building import concatenate, shards
from cellcode.database.building.concatenate import Written
from cellcode.database.building.finalize import count_kinds, write_coarse, write_first_stage, write_manifest
from cellcode.database.building.fusion import fuse
from cellcode.database.building.shards import row_error
from cellcode.database.calibration import radii
from cellcode.database.calibration.fit import Calibration, fit
from cellcode.database.calibration.similarity import Terms
from cellcode.database.store.layout import (
    AERIAL,
    BACKBONE,
    COARSE,
    CODES,
    CONFIG,
    DIGESTS,
    ENCODER,
    IDS,
    IMPUTATION,
    PROTOTYPES,
    QUERIES,
    TILES,
)
from cellcode.database.store.npy_file import RowWriter
from cellcode.geography import s2
from cellcode.index.codeset import CodeSet
from cellcode.progress import Meter
from cellcode.runs import Run
from cellcode.types import Float32

BLOCK = 65536
RADIUS_CELLS = 1.5  # the neighbourhood that counts as right when the calibration is fitted, in mean cell edges
MAX_QUERIES = 2048  # validation photos that are kept to check the search with


def write(
    run: Run,
    source: AerialSource | None,
    folders: list[Path],
    counts: dict[str, float],
    strangers: Float32 | None,
    folder: Path,
) -> None:
    """Write every file of the database; the manifest comes last."""
    build, levels, model = run.config.build, run.config.levels, run.config.model
    written = concatenate.join(folders, run.facts, model.dim, folder)
    if build.aerial_smoothing_cells and written.has_aerial.any():
        concatenate.smooth_aerial(folder, written.has_aerial, build.aerial_smoothing_cells)
    terms, ids = _open_terms(folder, written), np.load(folder / IDS, mmap_mode="r")
    calibration, report = fit(
        run.validation,
        ids,
        terms,
        radius_m=RADIUS_CELLS * s2.mean_edge_m(levels.cell),
        kappa=build.kappa,
        unvisited_weight=build.unvisited_weight,
        impute=build.impute,
        seed=run.config.training.seed,
    )
    if calibration.imputation is not None:
        calibration.imputation.save(folder / IMPUTATION)
    errors = calibration.score_error(counts["aerial_error"], counts["prototype_error"])
    errors += _write_codes(terms, calibration, folder)
    codes = np.load(folder / CODES, mmap_mode="c")
    coarse = write_coarse(codes, folder)
    queries = _some(run.validation.queries, run.config.training.seed)
    np.save(folder / QUERIES, queries)
    code_set = CodeSet(
        np.asarray(ids), codes, np.load(folder / COARSE, mmap_mode="c"), coarse.step, coarse.error, coarse.longest
    )
    calibration = radii.fit(
        calibration, code_set, run.validation, strangers, level=levels.cell, seed=run.config.training.seed
    )
    settings = write_first_stage(code_set, queries, build, folder, levels.cell, run.config.training.seed)
    (folder / CONFIG).write_text(configuration.dump(run.config), encoding="utf-8")
    save_file({name: t.detach().cpu().contiguous() for name, t in run.ground.state_dict().items()}, folder / ENCODER)
    run.ground.backbone.keep(folder / BACKBONE)
    _drop_unneeded_terms(terms, build.keep_terms, folder)
    print(
        f"a score differs by at most {errors:.1e} from float32 with float16 codes, by {coarse.error:.1e} more with int8 codes",
        file=sys.stderr,
    )
    write_manifest(
        folder,
        np.asarray(ids),
        calibration,
        {
            "cellcode_version": run.manifest.get("cellcode_version"),
            "run": {"identity": run.identity, "name": run.config.name},
            "aerial_encoder": shards.encoder_digest(run),
            "levels": {"prototype": levels.prototype, "cell": levels.cell},
            "dim": model.dim,
            "cells": count_kinds(written.has_aerial, written.has_prototype, int(counts["left_out"])),
            "codes": {
                "dtype": "float16",
                "upsampling": build.upsampling,
                "largest_score_error": errors,
                "aerial_error": counts["aerial_error"],
                "int8_step": coarse.step,
                "int8_error": coarse.error,
                "longest": coarse.longest,
            },
            "search": settings.to_json() if settings is not None else None,
            "calibration_report": report,
            **_sources(run, source),
        },
    )


def _some(queries: Float32, seed: int) -> Float32:
    """At most MAX_QUERIES of them, in random order."""
    return queries[np.random.default_rng([seed, 6]).permutation(len(queries))[:MAX_QUERIES]]


def _open_terms(folder: Path, written: Written) -> Terms:
    return Terms(
        aerial=np.load(folder / AERIAL, mmap_mode="r") if written.has_aerial.any() else None,
        prototypes=np.load(folder / PROTOTYPES, mmap_mode="r") if written.has_prototype.any() else None,
        has_aerial=written.has_aerial,
        has_prototype=written.has_prototype,
    )


def _write_codes(terms: Terms, calibration: Calibration, folder: Path) -> float:
    """Write the codes block by block; return the largest distance of a float16 code from float32."""
    term = terms.aerial if terms.aerial is not None else terms.prototypes
    assert term is not None  # a database has at least one cell
    error, count = 0.0, len(term)
    with RowWriter(folder / CODES, term.shape[1:], np.float16) as file, Meter("fusing codes", count) as meter:
        for first in range(0, count, BLOCK):
            rows = slice(first, min(first + BLOCK, count))
            codes = fuse(
                terms.aerial[rows] if terms.aerial is not None else None,
                terms.prototypes[rows] if terms.prototypes is not None else None,
                terms.has_aerial[rows],
                terms.has_prototype[rows],
                calibration,
            )
            narrow = codes.astype(np.float16)
            error = max(error, row_error(codes, narrow))
            file.append(narrow)
            meter.advance(len(codes))
    return error


def _drop_unneeded_terms(terms: Terms, keep: bool, folder: Path) -> None:
    if not keep or terms.aerial is None:
        for name in (AERIAL, TILES, DIGESTS):
            (folder / name).unlink(missing_ok=True)
    if not keep or terms.prototypes is None:
        (folder / PROTOTYPES).unlink(missing_ok=True)
    if not keep:
        (folder / "terms").rmdir()


def _sources(run: Run, source: AerialSource | None) -> dict[str, Any]:
    """Say what the codes were made from, and under which terms it may be used."""
    licences, attributions = {*run.manifest["licences"]}, {*run.manifest["attributions"]}
    imagery = None
    if source is not None:
        imagery = {"identity": source.identity, "date": source.date}
        licences.add(source.licence)
        attributions.add(source.attribution)
    return {
        "imagery": imagery,
        "training_photos": run.manifest["training_photos"],
        "licences": sorted(text for text in licences if text),
        "attributions": sorted(text for text in attributions if text),
    }
