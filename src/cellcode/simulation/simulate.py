"""Write a rendered region: photos with EXIF, an aerial GeoTIFF, and the truth, as a user's own data would lie there."""

import csv
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder, atomic_path, locked_folder, write_json
from cellcode.geography import Region
from cellcode.progress import Meter
from cellcode.simulation import ground
from cellcode.simulation.jpeg import MAKER, Shot, write_photo
from cellcode.simulation.look import LOOKS
from cellcode.simulation.overhead import ATTRIBUTION, LICENCE, convergence_deg, outline, write_aerial
from cellcode.simulation.scene import AERIAL_DAY, PHOTO_DAYS, Scene, make_scene
from cellcode.simulation.survey import Survey, make_survey
from cellcode.simulation.world import World, make_world
from cellcode.types import Int64

logger = logging.getLogger(__name__)
BATCH = 16
SMALLEST_KM, LARGEST_KM = 0.5, 16.0
MANIFEST, TRUTH = "simulation.json", "truth.csv"
COLUMNS = (
    "file", "lat", "lon", "heading", "captured_at", "sequence", "device", "split", "fov", "licence", "attribution",
    "land_use",
)  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """What a simulation left: JPEGs, a GeoTIFF, a CSV of the photos as a source takes it, and the world's outline."""

    out: Path
    photos_dir: Path
    aerial_path: Path
    truth_path: Path
    region: Region


def simulate(
    out: Path | str,
    *,
    size_km: float = 4.0,
    photos: int = 12_000,
    seed: int = 0,
    workers: int | None = None,
    look: str = "north",
    coast: bool = False,
    survey: Callable[[World, int], Survey] = make_survey,
) -> Simulation:
    """Render a square world; the same for every number of workers.

    Args:
        size_km: edge of the world, 0.5 to 16; memory and time grow with the area.
        workers: threads; None: one per core.
        look: "north" or "south": facades, roofs, plants and cameras of a world.
        coast: the west of the world is sea.
        survey: chooses where and when so many photos of a world are taken. The default reserves some places for test photos,
            all taken on the last date.

    Raises:
        UsageError: a size, number or look that is out of range.
        InputError: `out` holds photos that are not of a simulation.
    """
    if not SMALLEST_KM <= size_km <= LARGEST_KM:
        raise UsageError(f"the size of a world must be between {SMALLEST_KM} and {LARGEST_KM} km, not {size_km:g}")
    if photos < 1:
        raise UsageError(f"the number of photos must be at least 1, not {photos}")
    if look not in LOOKS:
        raise UsageError(f"unknown look {look!r}; valid options: {', '.join(LOOKS)}")
    out = Path(out)
    if (out / "photos").exists() and not (out / MANIFEST).exists():
        raise InputError(f"{out / 'photos'} exists and is not of a simulation; choose another --out")
    size_m = round(size_km * 500) * 2  # even: shadows are cast on every second metre
    logger.info("building a world of %g x %g km", size_m / 1000, size_m / 1000)
    world = make_world(size_m, seed, look, coast)
    plan = survey(world, photos)
    shots = _shots(plan, size_m)
    facts = {"size_m": size_m, "photos": photos, "seed": seed, "look": look, "coast": coast}
    with locked_folder(out):
        (out / TRUTH).unlink(missing_ok=True)  # written last: without it the world is not finished
        write_json(
            out / MANIFEST, {**facts, "survey": "demo" if survey is make_survey else "custom", "licence": LICENCE}
        )
        write_aerial(make_scene(world, AERIAL_DAY), out / "aerial.tif")
        with atomic_folder(out / "photos") as folder, Meter("rendering photos", photos) as meter:
            for number, day in enumerate(PHOTO_DAYS):
                if len(rows := np.flatnonzero(plan.day == number)):
                    _take_photos(make_scene(world, day), plan, shots, rows, folder, workers, meter)
        _write_truth(plan, shots, out / TRUTH)
    logger.info("%d photos, %s and %s rendered (seed %d)", photos, out / "aerial.tif", out / TRUTH, seed)
    return Simulation(out, out / "photos", out / "aerial.tif", out / TRUTH, outline(size_m))


def _shots(survey: Survey, size_m: int) -> list[Shot]:
    """What each photo's EXIF says; photos of a day are taken within half an hour, so that its sun holds for all of them."""
    views = survey.views
    headings = (views.heading_deg + convergence_deg(size_m, views.x_m, views.y_m)) % 360
    places = np.stack([survey.lat_deg, survey.lon_deg, headings, views.fov_deg], axis=1).tolist()
    rows = enumerate(zip(places, survey.day.tolist(), survey.device.tolist(), strict=True))
    return [
        Shot(lat, lon, heading, fov, PHOTO_DAYS[day].time + timedelta(seconds=row % 1800), f"phone {device + 1}")
        for row, ((lat, lon, heading, fov), day, device) in rows
    ]


def _take_photos(
    scene: Scene, survey: Survey, shots: Sequence[Shot], rows: Int64, folder: Path, workers: int | None, meter: Meter
) -> None:
    def work(first: int) -> int:
        batch = rows[first : first + BATCH]
        pictures = ground.render(scene, survey.views.take(batch))
        for row, pixels in zip(batch.tolist(), pictures, strict=True):
            write_photo(folder / _name(row), pixels, shots[row], quality=75 + int(survey.views.seed[row]) % 18)
        return len(batch)

    with ThreadPoolExecutor(workers or os.cpu_count()) as threads:
        for done in threads.map(work, range(0, len(rows), BATCH)):
            meter.advance(done)


def _write_truth(survey: Survey, shots: Sequence[Shot], path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, (shot, walk) in enumerate(zip(shots, survey.walk.tolist(), strict=True)):
            sequence = f"{shot.captured_at.date()} {shot.device}" if walk < 0 else f"walk {walk}"
            writer.writerow([
                f"photos/{_name(row)}", f"{shot.lat_deg:.9f}", f"{shot.lon_deg:.9f}", f"{shot.heading_deg:.3f}",
                shot.captured_at.isoformat(), sequence, f"{MAKER} {shot.device}", str(survey.split[row]),
                f"{shot.fov_deg:.3f}", LICENCE, ATTRIBUTION, str(survey.land_use[row]),
            ])  # fmt: skip


def _name(row: int) -> str:
    return f"{row:06d}.jpg"
