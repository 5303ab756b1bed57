"""From a run and imagery to a cell-code database: tiles encoded, fused with prototypes, calibrated, written."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.database import terms as streaming
from cellcode.database.calibration import Calibration, fit
from cellcode.database.cells import Candidates, bounds, choose
from cellcode.database.codes import fuse
from cellcode.database.database import (
    AERIAL,
    BACKBONE,
    CELLS,
    CODES,
    CONFIG,
    ENCODER,
    FORMAT,
    IDS,
    MANIFEST,
    PROTOTYPES,
    VERSION,
    Database,
    Facts,
)
from cellcode.database.npyfile import RowWriter
from cellcode.database.similarity import Terms
from cellcode.database.terms import Written, row_error
from cellcode.errors import InputError
from cellcode.files import atomic_folder, read_json, sha256, write_json
from cellcode.geography import Region, s2
from cellcode.progress import Meter
from cellcode.runs import CellFacts, Run, architecture

BLOCK = 65536
RADIUS_CELLS = 1.5  # the neighbourhood that counts as right when the calibration is fitted, in mean cell edges


def run(
    run: Run | Path | str,
    aerial: AerialSource | Path | str | None = None,
    region: Region | None = None,
    *,
    out: Path | str,
) -> Database:
    """Build a database.

    Args:
        run: a trained run or its folder; its `config.build` says how.
        aerial: imagery for the run's aerial encoder; None: prototypes only.
        region: cells with their centre inside; None: the imagery's footprint, or without imagery the cells with
            training photos. Cells with neither enough imagery nor a prototype are left out.
        out: the folder to write; a database that is there already is replaced.

    Returns:
        The database, open.

    Raises:
        InputError: run, imagery and region leave nothing to build, or `out` holds something else. Said before any work.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    out = Path(out)
    _refuse_to_overwrite(out)
    source = open_source(aerial) if aerial is not None else None
    candidates = choose(run, source, region)
    if source is None and run.aerial is not None:
        print("no aerial imagery given: the codes are made of prototypes alone", file=sys.stderr)
    with atomic_folder(out) as folder:
        _write(run, source, candidates, folder)
    made = Database.open(out)
    cells = made.manifest["cells"]
    print(
        f"{cells['total']} cells ({cells['both']} with both terms, {cells['aerial_only']} with imagery only, "
        f"{cells['prototype_only']} with a prototype only; {cells['left_out']} left out), {made.bytes / 1e6:.2f} MB of "
        f"codes; database {made.identity} in {out}",
        file=sys.stderr,
    )
    return made


def _refuse_to_overwrite(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = read_json(out / MANIFEST) if (out / MANIFEST).is_file() else None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{out} exists and is no cell-code database, so it is not overwritten; choose another --out")


def _write(run: Run, source: AerialSource | None, candidates: Candidates, folder: Path) -> None:
    """Write every file of the database; the manifest comes last."""
    build, levels = run.config.build, run.config.levels
    written = streaming.write(run, source, candidates, folder)
    if build.aerial_smoothing_cells and written.has_aerial.any():
        streaming.smooth_aerial(folder, written, build.aerial_smoothing_cells)
    terms = _open_terms(folder, written)
    ids = np.load(folder / IDS)
    calibration, report = fit(
        run.validation,
        ids,
        terms,
        radius_m=RADIUS_CELLS * s2.mean_edge_m(levels.cell),
        kappa=build.kappa,
        unvisited_weight=build.unvisited_weight,
        seed=run.config.training.seed,
    )
    code_error = _write_codes(terms, calibration, folder)
    _facts(run.facts, ids, written).save(folder / CELLS, ids)
    (folder / CONFIG).write_text(configuration.dump(run.config), encoding="utf-8")
    save_file({name: t.detach().cpu().contiguous() for name, t in run.ground.state_dict().items()}, folder / ENCODER)
    names = [IDS, CODES, CELLS, CONFIG, ENCODER]
    names += [f"{BACKBONE}/{name}" for name in architecture.keep(run.ground, folder / BACKBONE)]
    for name, term in ((AERIAL, terms.aerial), (PROTOTYPES, terms.prototypes)):
        if term is not None and build.keep_terms:
            names.append(name)
        else:
            (folder / name).unlink(missing_ok=True)
    if not build.keep_terms:
        (folder / "terms").rmdir()
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}
    largest_error = _score_error(written, calibration, code_error)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "identity": _identity(files, calibration),
        "cellcode_version": run.manifest.get("cellcode_version"),
        "run": {"identity": run.identity, "name": run.config.name},
        "levels": {"prototype": levels.prototype, "cell": levels.cell},
        "dim": run.config.model.dim,
        "cells": _counts(written),
        "codes": {"dtype": "float16", "largest_score_error": largest_error, "upsampling": build.upsampling},
        "calibration": calibration.to_json(),
        "calibration_report": report,
        **_sources(run, source),
        "bounds": list(bounds(ids)),
        "files": files,
    }
    print(f"codes in float16: a score differs by at most {largest_error:.1e} from float32", file=sys.stderr)
    write_json(folder / MANIFEST, manifest)


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


def _score_error(written: Written, calibration: Calibration, code_error: float) -> float:
    """Bound of the change of any score: rounding of both terms, and of their sum."""
    on_aerial = max(1.0, calibration.aerial_only) * written.aerial_error
    on_prototypes = max(calibration.kappa, calibration.prototype_only) * written.prototype_error
    return on_aerial + on_prototypes + code_error


def _facts(facts: CellFacts, ids: np.ndarray[Any, np.dtype[np.uint64]], written: Written) -> Facts:
    """Bring the run's facts into the order of the database's cells; cells without training photos have none."""
    rows = np.minimum(np.searchsorted(facts.ids, ids), max(len(facts.ids) - 1, 0))
    known = facts.ids[rows] == ids if len(facts.ids) else np.zeros(len(ids), bool)
    no_date = np.datetime64("NaT", "D")
    rows = rows[known]

    def spread(values: Any, missing: Any) -> Any:
        out = np.full(len(ids), missing, values.dtype)
        out[known] = values[rows]
        return out

    return Facts(
        photos=spread(facts.photos, 0),
        dates=spread(facts.dates, 0),
        first_date=spread(facts.first_date, no_date),
        last_date=spread(facts.last_date, no_date),
        has_prototype=written.has_prototype,
        has_aerial=written.has_aerial,
    )


def _counts(written: Written) -> dict[str, int]:
    both = int((written.has_aerial & written.has_prototype).sum())
    return {
        "total": len(written.has_aerial),
        "both": both,
        "aerial_only": int(written.has_aerial.sum()) - both,
        "prototype_only": int(written.has_prototype.sum()) - both,
        "left_out": written.dropped,
    }


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


def _identity(files: dict[str, dict[str, Any]], calibration: Calibration) -> str:
    """Digest of the files that define the answers, and of the calibration."""
    parts = [files[name]["sha256"] for name in (IDS, CODES, CONFIG, ENCODER)]
    return hashlib.sha256("".join([*parts, repr(calibration)]).encode()).hexdigest()[:16]
