"""Write a rendered region: photos with EXIF, an aerial GeoTIFF, and the truth. The same doors as anybody's own data."""

from __future__ import annotations

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from experiments.benchmark_survey import held_out_corners, make_benchmark_survey

from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder, atomic_path, write_json
from cellcode.geography import Region
from cellcode.progress import Meter
from cellcode.simulation import ground
from cellcode.simulation.jpeg import MAKER, write_photo
from cellcode.simulation.look import LOOKS
from cellcode.simulation.overhead import ATTRIBUTION, LICENCE, write_aerial
from cellcode.simulation.place import convergence_deg, to_degrees
from cellcode.simulation.scene import AERIAL_DAY, PHOTO_DAYS, Day, Scene, make_scene
from cellcode.simulation.survey import Survey, make_survey
from cellcode.simulation.world import make_world
from cellcode.types import Float64

BATCH = 16
SMALLEST_KM, LARGEST_KM = 0.5, 16.0
MANIFEST = "simulation.json"
COLUMNS = (
    "file", "lat", "lon", "heading", "captured_at", "sequence", "device", "split", "fov", "licence", "attribution",
    "land_use",
)  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """What a simulation left.

    Attributes:
        photos_dir: folder of JPEGs.
        aerial_path: GeoTIFF.
        truth_path: CSV of the photos with position, heading and split, in the schema of a CSV source.
        region: the world's outline.
        held_out: the square of a benchmark survey where no training photo is taken; None for others.
    """

    out: Path
    photos_dir: Path
    aerial_path: Path
    truth_path: Path
    region: Region
    held_out: Region | None


def simulate(
    out: Path | str,
    *,
    size_km: float = 4.0,
    photos: int = 12_000,
    seed: int = 0,
    workers: int | None = None,
    look: str = "north",
    coast: bool = False,
    survey: Literal["demo", "benchmark"] = "demo",
) -> Simulation:
    """Render a square world; the same for every number of workers.

    Args:
        size_km: edge of the world, 0.5 to 16; a kilometre more takes memory and time in proportion to the area.
        photos: how many are taken.
        seed: of everything.
        workers: threads; None: one a core.
        look: "north" or "south": facades, roofs, plants and cameras of a world.
        coast: the west of the world is sea.
        survey: "demo" tests reserved places on the last date; "benchmark" also takes validation photos, photos of a held-out
            square and walks; see simulation/benchmark_survey.py.

    Raises:
        UsageError: a size or number that cannot be.
        InputError: `out` holds photos that are not of a simulation.
    """
    if not SMALLEST_KM <= size_km <= LARGEST_KM:
        raise UsageError(f"the size of a world must be between {SMALLEST_KM} and {LARGEST_KM} km, not {size_km:g}")
    if photos < 1:
        raise UsageError(f"the number of photos must be at least 1, not {photos}")
    if look not in LOOKS:
        raise UsageError(f"the look of a world is one of {', '.join(LOOKS)}, not {look!r}")
    out = Path(out)
    if (out / "photos").exists() and not (out / MANIFEST).exists():
        raise InputError(f"{out / 'photos'} exists and is not of a simulation; choose another --out")
    size_m = round(size_km * 500) * 2  # even: shadows are cast on every second metre
    print(f"building a world of {size_m / 1000:g} x {size_m / 1000:g} km", file=sys.stderr)
    world = make_world(size_m, seed, look, coast)
    plan = make_survey(world, photos) if survey == "demo" else make_benchmark_survey(world, photos)
    out.mkdir(parents=True, exist_ok=True)
    facts = {"size_m": size_m, "photos": photos, "seed": seed, "look": look, "coast": coast, "survey": survey}
    write_json(out / MANIFEST, {**facts, "licence": LICENCE})
    write_aerial(make_scene(world, AERIAL_DAY), out / "aerial.tif")
    with atomic_folder(out / "photos") as folder, Meter("rendering photos", photos) as meter:
        for day in range(len(PHOTO_DAYS)):
            rows = np.flatnonzero(plan.day == day)
            if len(rows):
                _take_photos(make_scene(world, PHOTO_DAYS[day]), plan, rows, folder, workers, meter)
    _write_truth(plan, size_m, out / "truth.csv")
    region = _polygon(size_m, np.array([0.0, size_m, size_m, 0]), np.array([size_m, size_m, 0.0, 0]))
    held_out = _polygon(size_m, *held_out_corners(size_m)) if survey == "benchmark" else None
    print(f"{photos} photos, {out / 'aerial.tif'} and {out / 'truth.csv'} rendered (seed {seed})", file=sys.stderr)
    return Simulation(out, out / "photos", out / "aerial.tif", out / "truth.csv", region, held_out)


def _polygon(size_m: int, x_m: Float64, y_m: Float64) -> Region:
    lat, lon = to_degrees(size_m, x_m, y_m)
    ring = [[float(b), float(a)] for a, b in zip(lat, lon, strict=True)]
    return Region.geojson({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})


def _take_photos(
    scene: Scene, survey: Survey, rows: np.ndarray, folder: Path, workers: int | None, meter: Meter
) -> None:
    """Render and write the photos of one day."""
    turned = convergence_deg(scene.world.size_m, survey.views.x_m[rows], survey.views.y_m[rows])

    def work(first: int) -> int:
        batch = rows[first : first + BATCH]
        pictures = ground.render(scene, survey.views.take(batch))
        for row, pixels, turn in zip(batch.tolist(), pictures, turned[first : first + BATCH].tolist(), strict=True):
            write_photo(
                folder / _name(row),
                pixels,
                lat_deg=float(survey.lat_deg[row]),
                lon_deg=float(survey.lon_deg[row]),
                heading_deg=(float(survey.views.heading_deg[row]) + turn) % 360,
                fov_deg=float(survey.views.fov_deg[row]),
                captured_at=_captured_at(scene.day, row),
                device=_device(int(survey.device[row])),
                quality=75 + int(survey.views.seed[row]) % 18,
            )
        return len(batch)

    with ThreadPoolExecutor(workers or os.cpu_count()) as threads:
        for done in threads.map(work, range(0, len(rows), BATCH)):
            meter.advance(done)


def _write_truth(survey: Survey, size_m: int, path: Path) -> None:
    heading = (survey.views.heading_deg + convergence_deg(size_m, survey.views.x_m, survey.views.y_m)) % 360
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, day in enumerate(survey.day.tolist()):
            time = _captured_at(PHOTO_DAYS[day], row)
            device = _device(int(survey.device[row]))
            walk = int(survey.walk[row])
            writer.writerow(
                [
                    f"photos/{_name(row)}",
                    f"{survey.lat_deg[row]:.9f}",
                    f"{survey.lon_deg[row]:.9f}",
                    f"{heading[row]:.3f}",
                    time.isoformat(),
                    f"{time.date()} {device}" if walk < 0 else f"walk {walk}",
                    f"{MAKER} {device}",
                    str(survey.split[row]),
                    f"{survey.views.fov_deg[row]:.3f}",
                    LICENCE,
                    ATTRIBUTION,
                    str(survey.land_use[row]),
                ]
            )


def _captured_at(day: Day, row: int) -> datetime:
    """Photos of a day are taken within half an hour, so that its sun holds for all of them."""
    return day.time + timedelta(seconds=row % 1800)


def _name(row: int) -> str:
    return f"{row:06d}.jpg"


def _device(number: int) -> str:
    return f"phone {number + 1}"
