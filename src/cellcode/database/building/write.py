"""The second part of a build: shards concatenated, calibrated, fused to codes, and written as a database."""

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cellcode.aerial import AerialSource
from cellcode.database.building import shards
from cellcode.database.building.writer import Writer, count_kinds
from cellcode.database.calibration import radii
from cellcode.database.calibration.fit import fit
from cellcode.database.calibration.similarity import Terms
from cellcode.database.store import layout
from cellcode.database.store.rows import SCHEMA, Facts, RowWriter
from cellcode.geography import distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.progress import Meter
from cellcode.runs import CellFacts, Run
from cellcode.types import Bools, Float32

logger = logging.getLogger(__name__)
RADIUS_CELLS = 1.5  # the neighbourhood that counts as right when the calibration is fitted, in mean cell edges
MAX_QUERIES = 2048  # validation photos that are kept to check the search with
SMOOTH_BLOCK = 4096


def write(
    run: Run,
    source: AerialSource | None,
    folders: list[Path],
    counts: dict[str, float],
    out_of_region: Float32 | None,
    folder: Path,
) -> None:
    """Write every file of the database into an empty folder from encoded shards; the manifest comes last.

    `out_of_region` are the embeddings of photos from outside the region, (E, D), if there are any.
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
    errors = {"largest_score_error": error, "aerial_error": counts["aerial_error"]}
    writer.finish(
        count_kinds(has_aerial, has_prototype, int(counts["left_out"])),
        calibration,
        search,
        {
            "codes": {"dtype": "float16", "upsampling": build.upsampling, **errors},
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
    if source is not None:
        licences.add(source.licence)
        attributions.add(source.attribution)
    levels = run.config.levels
    return {
        "cellcode_version": run.manifest.get("cellcode_version"),
        "run": {"identity": run.identity, "name": run.config.name},
        "aerial_encoder": shards.encoder_digest(run),
        "levels": {"prototype": levels.prototype, "cell": levels.cell},
        "dim": run.config.model.dim,
        "imagery": {"identity": source.identity, "date": source.date} if source is not None else None,
        "training_photos": run.manifest["training_photos"],
        "licences": sorted(text for text in licences if text),
        "attributions": sorted(text for text in attributions if text),
    }


def concatenate(folders: list[Path], known: CellFacts, dim: int, folder: Path) -> tuple[Bools, Bools]:
    """Write ids, terms, digests of tiles and cells.parquet from shards in the order of their cells.

    Memory does not depend on the number of cells, apart from two bytes for each: which cells have an aerial embedding, and
    which a prototype, two (N,), are returned.
    """
    (folder / "terms").mkdir(exist_ok=True)
    has_aerial, has_prototype = [], []
    with ExitStack() as stack, Meter("concatenating shards", len(folders)) as meter:
        files = {
            field: stack.enter_context(RowWriter(folder / name, row, dtype))
            for field, name, row, dtype in (
                ("ids", layout.IDS, (), np.uint64),
                ("aerial", layout.AERIAL, (dim,), np.float16),
                ("prototypes", layout.PROTOTYPES, (dim,), np.float16),
                ("digests", layout.DIGESTS, (), np.uint64),
            )
        }
        table = stack.enter_context(pq.ParquetWriter(folder / layout.CELLS, SCHEMA))
        for path in folders:
            shard = shards.read_shard(path)
            for field, file in files.items():
                file.append(getattr(shard, field))
            facts = Facts.of_cells(shard.ids, known, shard.has_prototype, shard.has_aerial, shard.imagery_date)
            if len(shard.ids):
                table.write_table(facts.table(shard.ids))
            has_aerial.append(np.asarray(shard.has_aerial))
            has_prototype.append(np.asarray(shard.has_prototype))
            meter.advance()
    return np.concatenate(has_aerial), np.concatenate(has_prototype)


def smooth_aerial(folder: Path, has_aerial: Bools, sigma_cells: float) -> None:
    """Average the aerial embeddings of each cell and its eight neighbours (ours): a photo sees farther than one tile.

    Weights fall with the distance of the centres as a Gaussian of `sigma_cells` mean edges; the mean is brought back to
    unit length. Cells without imagery keep zeros. The encoder's own output is kept beside it, for a later build to reuse;
    memory does not depend on the number of cells.
    """
    os.replace(folder / layout.AERIAL, folder / layout.TILES)
    ids, before = np.load(folder / layout.IDS, mmap_mode="r"), np.load(folder / layout.TILES, mmap_mode="r")
    sigma_m = sigma_cells * s2.mean_edge_m(int(s2.levels(ids[:1])[0]))
    with RowWriter(folder / layout.AERIAL, before.shape[1:], np.float16) as file, Meter("smoothing", len(ids)) as meter:
        for first in range(0, len(ids), SMOOTH_BLOCK):
            own = np.asarray(ids[first : first + SMOOTH_BLOCK])
            around = np.concatenate([own[:, None], s2.all_neighbors(own)], axis=1)  # B x 9
            rows = rows_of_ids(ids, around)
            lat, lon = (values.reshape(around.shape) for values in s2.cell_centers(around))
            apart_m = distance.haversine_m(lat[:, :1], lon[:, :1], lat, lon)
            weight = np.exp(-((apart_m / sigma_m) ** 2) / 2) * (rows >= 0) * has_aerial[rows]
            total = np.einsum("bn,bnd->bd", weight.astype(np.float32), before[rows].astype(np.float32))
            total *= has_aerial[first : first + SMOOTH_BLOCK, None]
            file.append(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))
            meter.advance(len(own))
