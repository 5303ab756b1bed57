import csv
import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import ExifTags, Image

from cellcode import simulate
from cellcode.aerial import open_source
from cellcode.errors import InputError, UsageError
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.simulation import Simulation


def _truth(town: Simulation) -> list[dict[str, str]]:
    with town.truth_path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".csv"))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def test_a_world_depends_on_its_seed_alone(tmp_path: Path) -> None:
    """Neither the number of workers nor an earlier run changes a byte of the photos; another seed changes them all."""
    one = simulate(tmp_path / "one", size_km=0.5, photos=40, seed=1, workers=1)
    two = simulate(tmp_path / "two", size_km=0.5, photos=40, seed=1, workers=3)
    other = simulate(tmp_path / "other", size_km=0.5, photos=40, seed=2, workers=2)
    assert _digest(one.out) == _digest(two.out)
    assert _digest(one.out) != _digest(other.out)
    with rasterio.open(one.aerial_path) as a, rasterio.open(two.aerial_path) as b:
        np.testing.assert_array_equal(a.read(), b.read())


def test_ingested_photos_agree_with_the_truth(town: Simulation, town_photos: PhotoTable) -> None:
    """The door reads the EXIF; the truth is written beside it: position to 1e-8 degrees, heading, time and lens."""
    truth = {Path(row["file"]).name: row for row in _truth(town)}
    assert len(truth) == len(town_photos) == 400
    rows = [truth[name] for name in town_photos.column("file")]
    np.testing.assert_allclose(town_photos.lat_deg, [float(row["lat"]) for row in rows], atol=1e-8)
    np.testing.assert_allclose(town_photos.lon_deg, [float(row["lon"]) for row in rows], atol=1e-8)
    np.testing.assert_allclose(town_photos.heading_deg, [float(row["heading"]) for row in rows], atol=0.006)
    np.testing.assert_allclose(town_photos.fov_deg, [float(row["fov"]) for row in rows], atol=3)
    assert [str(time)[:19] for time in town_photos.captured_at] == [row["captured_at"] for row in rows]


def test_photos_are_jpegs_with_a_true_north_heading(town: Simulation) -> None:
    with Image.open(sorted(town.photos_dir.iterdir())[0]) as image:
        assert image.format == "JPEG"
        gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        assert gps[ExifTags.GPS.GPSImgDirectionRef] == "T"


def test_headings_fields_of_view_and_dates_are_spread(town: Simulation) -> None:
    rows = _truth(town)
    heading = np.array([float(row["heading"]) for row in rows])
    fov = np.array([float(row["fov"]) for row in rows])
    quarters = np.bincount((heading // 90).astype(int), minlength=4) / len(rows)
    assert (np.abs(quarters - 0.25) < 0.09).all()
    assert fov.min() >= 60
    assert fov.max() <= 110
    assert fov.max() - fov.min() > 40
    assert len({row["captured_at"][:10] for row in rows}) >= 4


def test_the_last_date_was_photographed_where_no_other_one_was(town: Simulation) -> None:
    """The split by date is a split by position too: no photo of another date in the same reserved block or cell."""
    rows = _truth(town)
    last = np.array([row["split"] == "test" for row in rows])
    days = np.array([row["captured_at"][:10] for row in rows])
    assert set(days[last]) == {max(days)}
    assert max(days) not in set(days[~last])
    assert 0.02 < last.mean() < 0.5


def test_a_quarter_of_the_cells_has_no_photo() -> None:
    """Counted over the cells that hold any street at all, on a world large enough to count them."""
    from cellcode.simulation.survey import candidates, make_survey
    from cellcode.simulation.world import make_world

    world = make_world(2000, 5)
    survey = make_survey(world, 3000)
    from cellcode.simulation.overhead import to_degrees

    x, y = candidates(world, 100_000, np.random.default_rng(0))
    reachable = np.unique(s2.cell_ids(*to_degrees(world.size_m, x, y), 16))
    visited = np.unique(s2.cell_ids(survey.lat_deg, survey.lon_deg, 16))
    assert len(np.setdiff1d(reachable, visited)) / len(reachable) > 0.25


def test_the_aerial_image_shows_the_world_where_it_says(town: Simulation) -> None:
    """Every photo stands on open ground of the raster: the colour under it is no crown, roof or water of the palette."""
    from cellcode.simulation.overhead import SOUTH_M, WEST_M, render_strip
    from cellcode.simulation.scene import AERIAL_DAY, make_scene
    from cellcode.simulation.world import make_world

    world = make_world(1000, 3)
    scene = make_scene(world, AERIAL_DAY)
    with rasterio.open(town.aerial_path) as raster:
        assert raster.crs.to_epsg() == 32631
        assert raster.res == (1.0, 1.0)
        assert (raster.bounds.left, raster.bounds.bottom) == (WEST_M, SOUTH_M)
        assert raster.overviews(1) == [2, 4, 8, 16]
        written = raster.read().transpose(1, 2, 0).astype(int)
    drawn = render_strip(scene, slice(0, 1000)).astype(int)
    assert np.abs(written - drawn).mean() < 9  # JPEG of a grainy image
    source = open_source(town.aerial_path)
    assert source.licence == "CC0-1.0"
    assert source.date == "2023-07-18"


def test_five_in_a_hundred_buildings_change_between_dates() -> None:
    from cellcode.simulation.scene import DAYS, _buildings

    versions = [_buildings(0, day)[0] for day in range(len(DAYS))]
    for before, after in pairwise(versions):
        assert (before != after).mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(("size_km", "photos"), [(0.1, 10), (100.0, 10), (1.0, 0)])
def test_impossible_worlds_are_refused(tmp_path: Path, size_km: float, photos: int) -> None:
    with pytest.raises(UsageError, match="must be"):
        simulate(tmp_path, size_km=size_km, photos=photos)


def test_photos_of_somebody_else_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="not of a simulation"):
        simulate(tmp_path, size_km=0.5, photos=5)
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"precious"


def test_a_survey_of_ones_own_decides_where_photos_are_taken(tmp_path: Path) -> None:
    """`survey` is a function; the manifest tells worlds of the default survey from others."""
    from cellcode.simulation.survey import Survey, make_survey
    from cellcode.simulation.world import World

    def all_test(world: World, photos: int) -> Survey:
        plan = make_survey(world, photos)
        return replace(plan, split=np.full(photos, "test"))

    own = simulate(tmp_path / "own", size_km=0.5, photos=8, seed=1, survey=all_test)
    assert {row["split"] for row in _truth(own)} == {"test"}
    assert json.loads((own.out / "simulation.json").read_text())["survey"] == "custom"
    usual = simulate(tmp_path / "usual", size_km=0.5, photos=8, seed=1)
    assert json.loads((usual.out / "simulation.json").read_text())["survey"] == "demo"
