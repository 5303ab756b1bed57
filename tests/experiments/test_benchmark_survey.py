"""The benchmark's survey keeps its promises: what is held out is held out."""

import csv
from pathlib import Path

import numpy as np
import pytest
from experiments.benchmark_survey import Survey, held_out, make_benchmark_survey

from cellcode import ingest, simulate
from cellcode.errors import UsageError
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.simulation import Simulation
from cellcode.simulation.scene import PHOTO_DAYS
from cellcode.simulation.world import World, make_world


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(2400, 11, coast=True)


@pytest.fixture(scope="module")
def survey(world: World) -> Survey:
    return make_benchmark_survey(world, 4000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(
        tmp_path_factory.mktemp("bench"),
        size_km=1.6,
        photos=240,
        seed=11,
        look="south",
        coast=True,
        survey=make_benchmark_survey,
    )


@pytest.fixture(scope="module")
def table(made: Simulation) -> PhotoTable:
    return ingest(made.truth_path, out=made.out / "table")


def test_photos_are_shared_out_as_the_module_says(survey: Survey) -> None:
    names, counts = np.unique(survey.split, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"test": 620, "train": 3200, "validation": 180}
    assert (survey.walk >= 0).sum() == 120


def test_training_never_sees_the_last_date_nor_the_held_out_square(survey: Survey, world: World) -> None:
    training = survey.split == "train"
    assert survey.day[training].max() == len(PHOTO_DAYS) - 2
    x, y = survey.views.x_m / world.size_m, survey.views.y_m / world.size_m
    inside = (x > 0.5) & (x < 0.7) & (y > 0.28) & (y < 0.48)
    assert not inside[training].any()
    assert inside[survey.split == "test"].sum() >= 80
    # Half of the test photos are of the date that training never saw, the others of dates it did.
    assert 0.4 < (survey.day[(survey.split == "test") & (survey.walk < 0)] == len(PHOTO_DAYS) - 1).mean() < 0.6


def test_test_and_validation_photos_stand_in_blocks_of_their_own(survey: Survey) -> None:
    """No block of 60 m holds training photos and others, walks apart, which keep 30 m blocks free of training photos."""
    single = survey.walk < 0
    block = (survey.views.x_m // 60).astype(int) * 1000 + (survey.views.y_m // 60).astype(int)
    cells = s2.cell_ids(survey.lat_deg, survey.lon_deg, 16)
    for one, other in (("train", "test"), ("train", "validation")):
        shared = np.intersect1d(block[single & (survey.split == one)], block[single & (survey.split == other)])
        # Cells that training never visits are given to the others as a whole; a block may straddle their border.
        rows = single & np.isin(block, shared)
        together = np.intersect1d(cells[rows & (survey.split == one)], cells[rows & (survey.split == other)])
        assert len(together) == 0
    walked = np.flatnonzero(survey.walk >= 0)
    block30 = (survey.views.x_m // 30).astype(int) * 1000 + (survey.views.y_m // 30).astype(int)
    assert not np.isin(block30[survey.split == "train"], block30[walked]).any()


def test_some_test_photos_are_of_cells_without_training_photos(survey: Survey) -> None:
    parents = s2.cell_ids(survey.lat_deg, survey.lon_deg, 15)
    known = np.unique(parents[survey.split == "train"])
    for split in ("test", "validation"):
        assert 0.03 < (~np.isin(parents[survey.split == split], known)).mean() < 0.5


def test_walks_go_on_in_steps_of_thirty_metres_on_one_day(survey: Survey) -> None:
    for walk in range(survey.walk.max() + 1):
        rows = np.flatnonzero(survey.walk == walk)
        assert len(rows) == 8
        assert len(np.unique(survey.day[rows])) == 1
        step_m = np.hypot(np.diff(survey.views.x_m[rows]), np.diff(survey.views.y_m[rows]))
        assert step_m.min() > 15
        assert step_m.max() < 45


def test_land_use_tells_the_coast_and_the_rest(survey: Survey, world: World) -> None:
    assert {"coast", "town", "suburb"} <= set(survey.land_use.tolist())
    assert survey.views.x_m[survey.land_use == "coast"].max() < 0.45 * world.size_m


def test_a_table_of_it_keeps_split_walk_and_land_use(made: Simulation, table: PhotoTable) -> None:
    with made.truth_path.open(newline="", encoding="utf-8") as file:
        truth = list(csv.DictReader(file))
    assert table.column("land_use") == [row["land_use"] for row in truth]
    assert set(table.split.tolist()) == {"train", "validation", "test"}
    steps = [name for name in table.column("sequence") if name.startswith("walk ")]
    assert len(steps) == 8
    inside = held_out(1600).contains(table.lat_deg, table.lon_deg)
    assert inside.any()
    assert set(table.split[inside].tolist()) == {"test"}


def test_a_country_of_another_look_has_other_cameras_and_colours(made: Simulation, tmp_path: Path) -> None:
    north = simulate(tmp_path / "north", size_km=1.6, photos=240, seed=11, coast=True, survey=make_benchmark_survey)
    other = ingest(north.truth_path, out=tmp_path / "table")
    mine = PhotoTable.load(made.out / "table")
    assert mine.fov_deg.max() <= 75 < other.fov_deg.max()
    assert (made.out / "aerial.tif").read_bytes() != north.aerial_path.read_bytes()
    apart_m = distance.haversine_m(mine.lat_deg[:1], mine.lon_deg[:1], other.lat_deg[:1], other.lon_deg[:1])
    assert apart_m[0] < 2000


def test_unknown_looks_and_crowded_worlds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="north, south"):
        simulate(tmp_path / "a", size_km=0.5, photos=10, look="west")
    with pytest.raises(UsageError, match="no room"):
        simulate(tmp_path / "b", size_km=0.5, photos=50_000, survey=make_benchmark_survey)
