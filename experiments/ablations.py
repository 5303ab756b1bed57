"""Ablations: what one change of the configuration does to recall, in the middle of the benchmark region.

The points of the scaling table are measured in the same way.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellcode.database import Database, build, grow
from cellcode.evaluation import slices
from cellcode.evaluation.metrics import Result, difference_95, interval_95
from cellcode.evaluation.systems import embed, evaluate_systems
from cellcode.files import read_json
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.photos.table.splits import by_position
from cellcode.search import Locator
from cellcode.types import Float64, Int64
from experiments import trainings, worlds
from experiments.stages import RESULT

RADII_M = 100.0, 200.0
RADIUS_M = 200.0
HITS = "hits.npz"
BUFFER_M = 20.0
SYSTEMS = ("hybrid", "prototypes", "aerial")


def measure(
    folder: Path, needs: dict[str, Path], *, training: str, overrides: list[str], settings: str
) -> dict[str, Any]:
    """Build a database of the region's middle and measure it; the work of a stage.

    Args:
        training: the stage of `needs` that trained.
        overrides: of the build.
        settings: digest of the other settings of the build, see `trainings.settings`.
    """
    world = needs["region"]
    region = trainings.middle(world)
    run = trainings.trained(needs[training])
    cells = build(run, world / worlds.AERIAL, region, out=folder / "cells", overrides=overrides)
    parts = worlds.parts(world)
    tested = {"same": worlds.cropped(parts.same_area, region), "cross": parts.cross_area}
    made = read_json(needs[training] / RESULT)
    return {
        **recalls(cells, tested, folder / HITS),
        "photos": made["values"]["photos"],
        "cpu_seconds": made["cpu_seconds"],
    }


def recalls(cells: Database, tested: dict[str, PhotoTable], keep: Path) -> dict[str, Any]:
    """Return recall by area and system, and keep every photo's hits for differences between databases.

    `recall`, `recall_at_10` and `interval_95` are within 200 m; `by_radius` has recall@1 within each of RADII_M, of all photos
    and of those in cells with and without training photos.
    """
    locator = Locator(cells)
    hits: dict[str, npt.NDArray[Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    rule = cells.config.evaluation.model_copy(update={"radii_m": RADII_M, "ranks": (1, 10)})
    for area, table in tested.items():
        queries, good, _, _ = embed(locator, table.files, f"reading photos, {area} area")
        table = table.select(good)
        nobody = table.select(np.zeros(len(table), bool))
        results = {result.name: result for result in evaluate_systems(locator, queries, table, nobody, rule)}
        place = places(table)
        with_photos = slices.density(cells, table) > 0
        groups = {"all": np.ones(len(table), bool), "with_photos": with_photos, "without_photos": ~with_photos}
        hits |= {f"{area} place": place}
        for name in (name for name in SYSTEMS if name in results):
            hits |= {f"{area} {name} {radius_m:g}": results[name].hits[1][radius_m] for radius_m in RADII_M}
        found[area] = {
            name: {
                "recall": float(first_hits(results[name]).mean()),
                "recall_at_10": float(results[name].hits[10][RADIUS_M].mean()),
                "interval_95": list(interval_95(first_hits(results[name]), place)),
                "by_radius": {
                    f"{radius_m:g}": {
                        group: float(results[name].hits[1][radius_m][mask].mean()) if mask.any() else None
                        for group, mask in groups.items()
                    }
                    for radius_m in RADII_M
                },
            }
            for name in SYSTEMS
            if name in results
        }
        found[area]["photos"] = len(table)
    np.savez(keep, **hits)  # type: ignore[arg-type]
    return {"recall": found, "cells": len(cells.ids), "bytes": cells.bytes}


def first_hits(result: Result) -> Float64:
    """Return whether the first answer is within 200 m, (N,)."""
    return result.hits[1][RADIUS_M]


def places(table: PhotoTable) -> Int64:
    """Number of the place of each photo, for intervals: its level-16 cell."""
    return s2.cell_ids(table.lat_deg, table.lon_deg, 16).view(np.int64)


def compared(
    changed: Path, base: Path, system: str = "hybrid", area: str = "same"
) -> tuple[float, tuple[float, float]]:
    """Return the difference of recall@1 within 200 m on the same photos, changed minus base, with its 95 % interval."""
    with np.load(changed / HITS) as a, np.load(base / HITS) as b:
        name = f"{area} {system} {RADIUS_M:g}"
        difference = float(a[name].mean() - b[name].mean())
        return difference, difference_95(a[name], b[name], b[f"{area} place"])


def growing(folder: Path, needs: dict[str, Path], *, share: float, settings: str) -> dict[str, Any]:
    """Grow a database by photos of the held-out square, and compare with training on them; the work of a stage.

    Args:
        share: of the square's photos that become known; the others are the test.
    """
    world = needs["region"]
    region = trainings.middle(world)
    known, tested = halves(worlds.parts(world).cross_area, share)
    same = worlds.cropped(worlds.parts(world).same_area, region)
    groups = {"square": tested, "around": same}
    before = build(trainings.trained(needs["train-base"]), world / worlds.AERIAL, region, out=folder / "before")
    started = time.monotonic()
    after = grow(before, worlds.with_split(known, "train"), out=folder / "grown")
    seconds = time.monotonic() - started
    retrained = build(
        trainings.trained(needs["train-retrained"]), world / worlds.AERIAL, region, out=folder / "retrained"
    )
    rows = {
        name: recalls(cells, groups, folder / f"{name}.npz")["recall"]
        for name, cells in (("before", before), ("grown", after), ("retrained", retrained))
    }
    gained = after.manifest["made_from"]["cells"]
    return {
        "recall": rows,
        "known_photos": len(known),
        "cells": gained,
        "seconds_per_cell": round(seconds / max(gained, 1), 3),
    }


def retrain(
    folder: Path, needs: dict[str, Path], *, overrides: list[str], digest: str, photos: int, share: float, seed: int = 0
) -> dict[str, Any]:
    """Train as the base ablation, with the known photos of the held-out square as well; the work of a stage."""
    world = needs["region"]
    parts = worlds.parts(world)
    learning = trainings.some(worlds.cropped(parts.learning, trainings.middle(world)), photos, seed)
    known, _ = halves(parts.cross_area, share)
    return trainings.fit(
        folder, worlds.joined(learning, worlds.with_split(known, "train")), world / worlds.AERIAL, overrides
    )


def halves(table: PhotoTable, share: float) -> tuple[PhotoTable, PhotoTable]:
    """Split photos by blocks of 60 m; those that would test within BUFFER_M of a known one are left out."""
    known = by_position(table.lat_deg, table.lon_deg, block_m=60.0, share=share, seed=0)
    lat, lon = table.lat_deg, table.lon_deg
    if not known.any():
        return table.select(known), table
    apart_m = distance.haversine_m(lat[:, None], lon[:, None], lat[known], lon[known]).min(axis=1)
    return table.select(known), table.select(~known & (apart_m > BUFFER_M))
