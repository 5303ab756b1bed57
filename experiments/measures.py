"""Measurements of trained systems on the benchmark's test photos, each the work of a stage."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cellcode.aerial import open_source
from cellcode.config import EvaluationConfig
from cellcode.database import Calibration, Database, build
from cellcode.database.building.fusion import fuse
from cellcode.evaluation import confidence, evaluate, metrics, ranked, summary
from cellcode.evaluation.confidence import Stated
from cellcode.evaluation.systems import embed
from cellcode.geography import Region, distance, s2
from cellcode.index.codeset import CodeSet
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels
from cellcode.runs import CellFacts, Validation
from cellcode.search import CodeSearcher, Locator
from cellcode.types import Float64
from experiments import ablations, hierarchical, together, trainings, worlds

CELLS = "cells"


def database(
    folder: Path, needs: dict[str, Path], *, training: str, settings: str, overrides: list[str]
) -> dict[str, Any]:
    """Build the database of the whole region, its confidence calibrated with out-of-region photos."""
    run = trainings.trained(needs[training])
    # Out-of-region photos may look like those of the region, or like another country.
    out_of_region = worlds.joined(
        *(PhotoTable.load(needs[name] / worlds.TABLE) for name in ("elsewhere", "elsewhere-south"))
    )
    started = time.monotonic()
    aerial = needs["region"] / worlds.AERIAL
    imagery = aerial if run.aerial is not None else None
    # Without imagery: the cells that the others search, not only those with photos.
    region = None if imagery else Region.bbox(*open_source(aerial).bounds)
    cells = build(run, imagery, region, out=folder / CELLS, out_of_region=out_of_region, overrides=overrides)
    return {
        "cells": cells.manifest["cells"],
        "bytes": cells.bytes,
        "calibration": cells.manifest["calibration"],
        "seconds": round(time.monotonic() - started, 1),
        "identity": cells.identity,
    }


def same_area(folder: Path, needs: dict[str, Path], *, built: str) -> dict[str, Any]:
    """Every table and figure of the single test photos outside the held-out square."""
    parts = worlds.parts(needs["region"])
    report = evaluate(
        needs[built] / CELLS,
        worlds.joined(parts.training, parts.same_area),
        out=folder,
        aerial=needs["region"] / worlds.AERIAL,
        out_of_region=PhotoTable.load(needs["elsewhere-test"] / worlds.TABLE),
    )
    return {**report.values, "prototype_similarity": prototype_similarity(opened(needs[built]))}


def prototype_similarity(cells: Database) -> dict[str, float]:
    """Mean cosine of prototypes of cells that touch, and of those more than 2 km apart; one prototype a level-15 cell."""
    _, prototypes = cells.terms()
    assert prototypes is not None
    rows = np.flatnonzero(cells.facts.has_prototype)
    parents, first = np.unique(s2.parents(cells.ids[rows], worlds.PROTOTYPE_LEVEL), return_index=True)
    vectors = np.asarray(prototypes[rows[first]], np.float32)
    cosine = vectors @ vectors.T / np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    lat, lon = s2.cell_centers(parents)
    apart_m = distance.haversine_m(lat[:, None], lon[:, None], lat, lon)
    near = (apart_m > 0) & (apart_m < 1.6 * s2.mean_edge_m(worlds.PROTOTYPE_LEVEL))
    far = apart_m > 2000
    return {
        "touching": round(float(cosine[near].mean()), 3) if near.any() else 0.0,
        "far": round(float(cosine[far].mean()), 3) if far.any() else 0.0,
        "far_deviation": round(float(cosine[far].std()), 3) if far.any() else 0.0,
    }


def cross_area(folder: Path, needs: dict[str, Path], *, built: str) -> dict[str, Any]:
    """Recall on the photos of the held-out square; the whole region is searched."""
    parts = worlds.parts(needs["region"])
    return evaluate(
        needs[built] / CELLS, worlds.joined(parts.training, parts.cross_area), out=folder, draw=False
    ).values


def both_areas(folder: Path, needs: dict[str, Path], *, built: str) -> dict[str, Any]:
    """Recall of a system trained in another way, same area and cross area, without image retrieval; `seeds` reads the files."""
    parts, cells = worlds.parts(needs["region"]), opened(needs[built])
    tested = {"same": parts.same_area, "cross": parts.cross_area}
    return {area: evaluate(cells, table, out=folder / area, draw=False).values for area, table in tested.items()}


def other_country(folder: Path, needs: dict[str, Path], *, training: str, settings: str) -> dict[str, Any]:
    """Recall in a world of another look, by the aerial term alone: no photo of it was trained on."""
    run = trainings.trained(needs[training])
    # Both worlds lie at the same place of the globe: the prototypes and validation photos of the first say nothing here.
    none = np.empty(0)
    stripped = replace(
        run,
        prototypes=None,
        facts=CellFacts.of_photos(none, none, none.astype("datetime64[ms]"), run.config.levels.cell),
        validation=Validation(none, none, np.empty((0, run.config.model.dim), np.float32)),
    )
    world = needs["south"]
    cells = build(stripped, world / worlds.AERIAL, out=folder / CELLS)
    table = PhotoTable.load(world / worlds.TABLE)
    report = evaluate(cells, worlds.with_split(table, "test"))
    return report.values


def classified(folder: Path, needs: dict[str, Path], *, settings: str) -> dict[str, Any]:
    """Recall of the hierarchical classification, same area and cross area."""
    classes = hierarchical.Hierarchy.load(needs["train-hierarchy"] / trainings.CLASSES)
    parts, found = worlds.parts(needs["region"]), {}
    rule = trainings.benchmark_config([]).evaluation
    for area, table in (("same", parts.same_area), ("cross", parts.cross_area)):
        pixels, failures = load_pixels(table.files, classes.config.photo, description=f"reading photos, {area} area")
        table = table.select(np.setdiff1d(np.arange(len(table)), list(failures)))
        lat, lon = classes.rank(np.delete(pixels, list(failures), axis=0), max(rule.ranks))
        found[area] = _answered("hierarchical", table, lat, lon, rule, classes.bytes)
    return found


def plain_sum(folder: Path, needs: dict[str, Path], *, built: str) -> dict[str, Any]:
    """Recall of z_aerial + kappa z_prototype with one kappa for every cell, as the paper has it, same area and cross area."""
    cells, parts = opened(needs[built]), worlds.parts(needs["region"])
    (aerial, prototypes), kappa = cells.terms(), cells.calibration.kappa
    one = Calibration(kappa=kappa, prototype_only=kappa)
    codes = fuse(aerial, prototypes, cells.facts.has_aerial, cells.facts.has_prototype, one)
    searcher = CodeSearcher(CodeSet(np.asarray(cells.ids), codes.astype(np.float16)), cells.level)
    locator, rule, found = Locator(cells), cells.config.evaluation, {}
    for area, table in (("same", parts.same_area), ("cross", parts.cross_area)):
        queries, good, _, _ = embed(locator, table.files, f"reading photos, {area} area")
        ids = searcher.search(queries, min(max(rule.ranks), searcher.count())).cell_ids
        lat, lon = (each.reshape(ids.shape) for each in s2.cell_centers(ids.ravel()))
        found[area] = _answered("paper", table.select(good), lat, lon, rule, cells.bytes)
    return {**found, "kappa": kappa}


def _answered(
    name: str, table: PhotoTable, lat: Float64, lon: Float64, rule: EvaluationConfig, size: int
) -> dict[str, Any]:
    """Return the row of a system whose answers, (N, K) degrees, are given."""
    apart_m = distance.haversine_m(table.lat_deg[:, None], table.lon_deg[:, None], lat, lon)
    result = ranked(name, apart_m, rule.ranks, rule.radii_m, size)
    row = summary(result, np.ones(len(table), bool), ablations.places(table))
    return row | {"database_bytes": size, "ms_per_query": None}


def strangers(folder: Path, needs: dict[str, Path], *, built: str) -> dict[str, Any]:
    """How well photos of the region are told from those of two other worlds, one of its look and one of another."""
    locator = Locator(opened(needs[built]))

    def inside(table: PhotoTable, name: str) -> Stated:
        queries, _, _, _ = embed(locator, table.files, f"reading photos, {name}")
        return confidence.ask(locator, queries, ablations.RADIUS_M)

    own, found = inside(worlds.parts(needs["region"]).same_area, "region"), {}
    for name, world in (("same look", "elsewhere-test"), ("other look", "south")):
        theirs = inside(PhotoTable.load(needs[world] / worlds.TABLE), name)
        found[name] = {
            "photos": len(theirs.inside),
            "auroc": round(metrics.auroc(own.inside, theirs.inside), 4),
            "refused": round(float((~theirs.in_region).mean()), 4),
        }
    return {"worlds": found, "refused_own": round(float((~own.in_region).mean()), 4), "by": own.inside_kind}


def several(folder: Path, needs: dict[str, Path], *, built: str) -> dict[str, Any]:
    """Recall against the number of photos of a place, and of steps of a walk whose motion is known."""
    cells, parts = opened(needs[built]), worlds.parts(needs["region"])
    locator, found = Locator(cells), {}
    for kind, table in (("place", parts.same_area), ("walk", parts.walks)):
        queries, good, _, _ = embed(locator, table.files, f"reading photos, {kind}s")
        table = table.select(good)
        lat, lon = table.lat_deg, table.lon_deg
        groups, order = together.places(lat, lon), np.arange(len(table))
        if kind == "walk":
            groups, order = together.paths(table.column("sequence"), table.captured_at)
        found[kind] = together.recall_by_count(
            locator, queries[order], lat[order], lon[order], groups[order], along=kind == "walk"
        )
    return found


def opened(folder: Path) -> Database:
    """Open the database that a stage built."""
    return Database.open(folder / CELLS)
