"""The second part of a build: shards concatenated, calibrated, fused to codes, and written as a database."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from cellcode.aerial import AerialSource
from cellcode.database.building import shards
from cellcode.database.building.concatenate import concatenate, smooth_aerial
from cellcode.database.building.writer import Writer, count_kinds
from cellcode.database.calibration import radii
from cellcode.database.calibration.fit import fit
from cellcode.database.calibration.similarity import Terms
from cellcode.database.store import layout
from cellcode.geography import s2
from cellcode.runs import Run
from cellcode.types import Float32

logger = logging.getLogger(__name__)
RADIUS_CELLS = 1.5  # the neighbourhood that counts as right when the calibration is fitted, in mean cell edges
MAX_QUERIES = 2048  # validation photos that are kept to check the search with


def write(
    run: Run,
    source: AerialSource | None,
    folders: list[Path],
    counts: dict[str, float],
    out_of_region: Float32 | None,
    folder: Path,
) -> None:
    """Write every file of the database; the manifest comes last.

    Args:
        folders, counts: of the encoded shards.
        out_of_region: (E, D) embeddings of photos from outside the region; None: there are none.
        folder: exists and is empty.
    """
    build, levels, seed = run.config.build, run.config.levels, run.config.training.seed
    writer = Writer(folder, run.config)
    has_aerial, has_prototype = concatenate(folders, run.facts, run.config.model.dim, folder)
    if build.aerial_smoothing_cells and has_aerial.any():
        smooth_aerial(folder, has_aerial, build.aerial_smoothing_cells)
    terms = writer.terms(has_aerial, has_prototype)
    calibration, report = fit(
        run.validation,
        writer.ids,
        terms,
        radius_m=RADIUS_CELLS * s2.mean_edge_m(levels.cell),
        kappa=build.kappa,
        unvisited_weight=build.unvisited_weight,
        impute=build.impute,
        seed=seed,
    )
    if calibration.imputation is not None:
        calibration.imputation.save(folder / layout.IMPUTATION)
    error = calibration.score_error(counts["aerial_error"], counts["prototype_error"])
    error += writer.fuse(terms, calibration)
    codes = writer.codes()
    calibration = radii.fit(calibration, codes, run.validation, out_of_region, level=levels.cell, seed=seed)
    chosen = np.random.default_rng([seed, 6]).permutation(len(run.validation.queries))[:MAX_QUERIES]
    search = writer.first_stage(codes, run.validation.queries[chosen], levels.cell, new=True)
    writer.encoder(run.ground)
    _drop_unneeded_terms(terms, build.keep_terms, folder)
    rounding = f"{error:.1e} from float32 with float16 codes, by {codes.coarse_error:.1e} more with int8 codes"
    logger.info("a score differs by at most %s", rounding)
    writer.finish(
        count_kinds(has_aerial, has_prototype, int(counts["left_out"])),
        calibration,
        search,
        {
            "codes": {
                "dtype": "float16",
                "upsampling": build.upsampling,
                "largest_score_error": error,
                "aerial_error": counts["aerial_error"],
            },
            "calibration_report": report,
            **_origin(run, source),
        },
    )


def _drop_unneeded_terms(terms: Terms, keep: bool, folder: Path) -> None:
    if not keep or terms.aerial is None:
        for name in (layout.AERIAL, layout.TILES, layout.DIGESTS):
            (folder / name).unlink(missing_ok=True)
    if not keep or terms.prototypes is None:
        (folder / layout.PROTOTYPES).unlink(missing_ok=True)
    if not keep:
        (folder / "terms").rmdir()


def _origin(run: Run, source: AerialSource | None) -> dict[str, Any]:
    """Return the manifest's keys about what the codes were made from, and under which terms it may be used."""
    licences, attributions = {*run.manifest["licences"]}, {*run.manifest["attributions"]}
    imagery = None
    if source is not None:
        imagery = {"identity": source.identity, "date": source.date}
        licences.add(source.licence)
        attributions.add(source.attribution)
    levels = run.config.levels
    return {
        "cellcode_version": run.manifest.get("cellcode_version"),
        "run": {"identity": run.identity, "name": run.config.name},
        "aerial_encoder": shards.encoder_digest(run),
        "levels": {"prototype": levels.prototype, "cell": levels.cell},
        "dim": run.config.model.dim,
        "imagery": imagery,
        "training_photos": run.manifest["training_photos"],
        "licences": sorted(text for text in licences if text),
        "attributions": sorted(text for text in attributions if text),
    }
