"""From a run and imagery to a cell-code database: tiles encoded, fused with prototypes, calibrated, written.

The build is a stream over shards, S2 cells of up to 4 ** `build.shard_depth` cells. Finished shards wait in a folder beside the
database until all of them are there; an interrupted build, started again, takes them over and ends with the same bytes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import save_file

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.aerial.missing import told
from cellcode.database import confidence, join, parts, remotely
from cellcode.database.calibration import Calibration, fit
from cellcode.database.codes import fuse
from cellcode.database.database import Database
from cellcode.database.elsewhere import embed_elsewhere
from cellcode.database.finish import count_kinds, write_coarse, write_first_stage, write_manifest
from cellcode.database.join import Written
from cellcode.database.layout import (
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
    refuse_to_overwrite,
)
from cellcode.database.npyfile import RowWriter
from cellcode.database.parts import COUNTS, Reuse, row_error
from cellcode.database.plan import Plan, choose
from cellcode.database.similarity import Terms
from cellcode.errors import InputError, UsageError
from cellcode.files import locked, read_json, replace_folder, write_json
from cellcode.geography import Region, s2
from cellcode.index.codeset import CodeSet
from cellcode.photos import PhotoTable
from cellcode.progress import Meter
from cellcode.runs import Run, architecture
from cellcode.tasks import over_ranges

Float32 = npt.NDArray[np.float32]
Shards = Iterable[tuple[npt.NDArray[np.uint64], Path]]  # cells, and the folder that they are encoded into
Encoded = tuple[
    Path, str | None
]  # a shard's folder; what of the imagery it lacks for now, in which case it is not there
Encoder = Callable[[Shards], Iterator[Encoded]]
BLOCK = 65536
RADIUS_CELLS = 1.5  # the neighbourhood that counts as right when the calibration is fitted, in mean cell edges
PLAN, LOCK, FINISHED = "plan.json", "lock", "database"  # in the folder of an unfinished build
MAX_QUERIES = 2048  # validation photos that are kept to check the search with


def run(
    run: Run | Path | str,
    aerial: AerialSource | Path | str | None = None,
    region: Region | None = None,
    *,
    out: Path | str,
    reuse: Database | Path | str | None = None,
    elsewhere: PhotoTable | Path | str | None = None,
    overrides: Iterable[str] = (),
    cluster: str | None = None,
) -> Database:
    """Build a database.

    Args:
        run: a trained run or its folder; its `config.build` says how.
        aerial: imagery for the run's aerial encoder; None: prototypes only.
        region: cells with their centre inside; None: the imagery's footprint, or without imagery the cells with
            training photos. Cells with neither enough imagery nor a prototype are left out.
        out: the folder to write; a database that is there already is replaced.
        reuse: an earlier database; tiles whose pixels have not changed since are not encoded again. It may be the one
            at `out`.
        elsewhere: photos (of any split) that were not taken in the region, or the folder of their table; with them
            answers tell how probable it is that a photo was taken in the region.
        overrides: `build.key=value`, in place of the run's `config.build`.
        cluster: Ray cluster that encodes the shards (see `tasks.over_ranges`); run, imagery and `out` have the same paths
            on all its nodes. Rounding may differ from one machine's.

    Returns:
        The database, open.

    Raises:
        InputError: run, imagery and region leave nothing to build, `out` holds something else, or too few photos from
            elsewhere can be read. Said before any work.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    run = replace(run, config=configuration.overridden(run.config, overrides, "build"))
    out = Path(out).resolve()
    refuse_to_overwrite(out)
    source = open_source(aerial) if aerial is not None else None
    earlier = _reusable(run, reuse)
    plan = choose(run, source, region)
    if source is None and run.aerial is not None:
        print("no aerial imagery given: the codes are made of prototypes alone", file=sys.stderr)
    strangers = embed_elsewhere(run, elsewhere, plan) if elsewhere is not None else None
    working = out.with_name(f".{out.name}.building")
    working.mkdir(parents=True, exist_ok=True)
    encoder: Encoder = partial(_one_by_one, run, source, earlier)
    if cluster is not None:
        encoder = partial(_on_cluster, _ingredients(run, aerial, earlier), cluster)
    with locked(working / LOCK):
        folders, counts = _encode(run, source, plan, working, earlier, encoder)
        masked = parts.masked(folders)
        shutil.rmtree(working / FINISHED, ignore_errors=True)  # of a build that was killed while it wrote
        (working / FINISHED).mkdir()
        _write(run, source, folders, counts, strangers, working / FINISHED)
        replace_folder(working / FINISHED, out)
        shutil.rmtree(working)
    made = Database.open(out)
    cells = made.manifest["cells"]
    if masked:
        print(f"masked in the imagery: {told(masked)}", file=sys.stderr)
    print(
        f"{cells['total']} cells ({cells['both']} with both terms, {cells['aerial_only']} with imagery only, "
        f"{cells['prototype_only']} with a prototype only; {cells['left_out']} left out); {counts['encoded']:.0f} tiles "
        f"encoded, {counts['reused']:.0f} taken over; {made.bytes / 1e6:.2f} MB of codes; database {made.identity} in {out}",
        file=sys.stderr,
    )
    return made


def _reusable(run: Run, reuse: Database | Path | str | None) -> Reuse | None:
    """Open the earlier database, if its tiles were embedded by the same encoder."""
    if reuse is None:
        return None
    earlier = reuse if isinstance(reuse, Database) else Database.open(reuse)
    if earlier.manifest["aerial_encoder"] != parts.encoder_digest(run) or earlier.level != run.config.levels.cell:
        print(f"{earlier.folder} is of another aerial encoder or level: nothing is taken over", file=sys.stderr)
        return None
    return Reuse(earlier)


def _one_by_one(run: Run, source: AerialSource | None, reuse: Reuse | None, shards: Shards) -> Iterator[Encoded]:
    for ids, folder in shards:
        yield folder, parts.write_whole(run, source, ids, folder, reuse)


def _on_cluster(ingredients: remotely.Ingredients, address: str, shards: Shards) -> Iterator[Encoded]:
    calls = ((ingredients, ids, str(folder)) for ids, folder in shards)
    for (_, _, folder), lacks in over_ranges(remotely.encode, calls, address):
        yield Path(folder), lacks


def _ingredients(run: Run, aerial: AerialSource | Path | str | None, reuse: Reuse | None) -> remotely.Ingredients:
    if not isinstance(aerial, Path | str | None):
        raise UsageError("a build on a cluster opens the imagery on every node: give its path, not an open source")
    return remotely.Ingredients(
        str(run.folder.resolve()),
        configuration.dump(run.config),
        _anywhere(aerial) if aerial is not None else None,
        str(reuse.database.folder.resolve()) if reuse is not None else None,
    )


def _anywhere(aerial: Path | str) -> str:
    """Return a path that a worker in another folder can open; an address stays as it is."""
    return str(Path(aerial).resolve()) if Path(aerial).exists() else str(aerial)


def _encode(
    run: Run, source: AerialSource | None, plan: Plan, working: Path, reuse: Reuse | None, encoder: Encoder
) -> tuple[list[Path], dict[str, float]]:
    """Write the shards that are not there yet; return all of them in order, and their counts."""
    identity = {
        "run": run.identity,
        "aerial_encoder": parts.encoder_digest(run),
        "imagery": source.identity if source is not None else None,
        "plan": plan.digest,
        "build": run.config.build.model_dump(mode="json"),
        "reuse": reuse.database.identity if reuse is not None else None,
    }
    if (working / PLAN).is_file() and read_json(working / PLAN) != identity:
        print(f"{working} is of another build, it starts anew", file=sys.stderr)
        for folder in working.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
    write_json(working / PLAN, identity)
    folders = [working / token for token in s2.tokens(plan.shards)]
    done = [folder for folder in folders if folder.is_dir()]
    if done:
        print(f"continuing: {len(done)} of {len(folders)} shards are there", file=sys.stderr)
    left = [(shard, folder) for shard, folder in zip(plan.shards, folders, strict=True) if folder not in set(done)]
    total: dict[str, float] = {"encoded": 0, "reused": 0, "cells": 0}
    unfinished, lacking = 0, ""
    errors = {
        "aerial_error": reuse.database.manifest["codes"]["aerial_error"] if reuse else 0.0,
        "prototype_error": 0.0,
    }
    with Meter("encoding cells", plan.total) as meter:
        finished = ((folder, None) for folder in done)
        for folder, lacks in chain(finished, encoder((plan.cells(shard), folder) for shard, folder in left)):
            if lacks is not None:
                unfinished, lacking = unfinished + 1, lacks
                continue
            counted = read_json(folder / COUNTS)
            total = {name: total[name] + counted[name] for name in total}
            errors = {name: max(errors[name], counted[name]) for name in errors}
            meter.note(folder.name)
            meter.advance(int(counted["cells"] + counted["left_out"]))
    if unfinished:
        raise InputError(
            f"{lacking}; without them {unfinished} of {len(folders)} shards are not finished: build "
            f"again to fetch them, the others are kept in {working}"
        )
    if not total["cells"]:
        shutil.rmtree(working)
        share = run.config.build.min_imagery_share
        raise InputError(f"no tile of the region has at least {share:.0%} imagery; lower build.min_imagery_share")
    return folders, total | errors | {"left_out": plan.asked - total["cells"]}


def _write(
    run: Run,
    source: AerialSource | None,
    folders: list[Path],
    counts: dict[str, float],
    strangers: Float32 | None,
    folder: Path,
) -> None:
    """Write every file of the database; the manifest comes last."""
    build, levels, model = run.config.build, run.config.levels, run.config.model
    written = join.join(folders, run.facts, model.dim, folder)
    if build.aerial_smoothing_cells and written.has_aerial.any():
        join.smooth_aerial(folder, written.has_aerial, build.aerial_smoothing_cells)
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
    calibration = confidence.fit(
        calibration, code_set, run.validation, strangers, level=levels.cell, seed=run.config.training.seed
    )
    settings = write_first_stage(code_set, queries, build, folder, levels.cell, run.config.training.seed)
    (folder / CONFIG).write_text(configuration.dump(run.config), encoding="utf-8")
    save_file({name: t.detach().cpu().contiguous() for name, t in run.ground.state_dict().items()}, folder / ENCODER)
    architecture.keep(run.ground, folder / BACKBONE)
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
            "aerial_encoder": parts.encoder_digest(run),
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
