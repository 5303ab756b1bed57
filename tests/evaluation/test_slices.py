from itertools import pairwise

import numpy as np
import pytest

from cellcode.database import Database
from cellcode.evaluation import slices
from cellcode.evaluation.metrics import Bootstrap, ranked
from cellcode.geography import s2
from cellcode.photos import PhotoTable

NAMES = ["spatial_density", "temporal_density", "land_use", "heading", "field_of_view", "days_from_training"]


@pytest.fixture(scope="module")
def made(town_cells: Database, town_photos: PhotoTable) -> dict[str, slices.Bins]:
    tested = town_photos.of_split("test")
    tested = tested.with_column("land_use", (["town", "farmland", None] * len(tested))[: len(tested)])
    cut, notes = slices.cut(town_cells, tested, town_photos.of_split("train"))
    assert notes == []
    return {each.name: each.bins for each in cut}


def test_every_photo_is_in_one_bin_of_each_slice(made: dict[str, slices.Bins]) -> None:
    assert list(made) == NAMES
    for name, bins in made.items():
        times = np.sum(list(bins.values()), axis=0)
        assert (times <= 1).all(), name
        assert (times == 1).all() or name == "land_use"
        assert all(mask.any() for mask in bins.values())


def test_densities_are_counts_of_training_photos_and_days_in_the_prototype_cell(
    made: dict[str, slices.Bins], town_cells: Database, town_photos: PhotoTable
) -> None:
    """Days from the facts of each cell by a loop: at most two in each are known, so 3 stands for more."""
    tested, level = town_photos.of_split("test"), town_cells.config.levels.prototype
    facts, parents = town_cells.facts, s2.parents(town_cells.ids, level)
    own = s2.cell_ids(tested.lat_deg, tested.lon_deg, level)
    for row, cell in enumerate(own):
        inside = np.flatnonzero(parents == cell)
        photos = int(facts.photos[inside].sum())
        (spatial,) = (bin for bin, mask in made["spatial_density"].items() if mask[row])
        numbers = [int(word) for word in spatial.split() if word.isdigit()]
        assert numbers[0] <= photos <= numbers[-1]
        days = {str(day) for day in [*facts.first_date[inside], *facts.last_date[inside]] if not np.isnat(day)}
        dates = max([len(days), *facts.dates[inside].tolist()])
        (temporal,) = (bin for bin, mask in made["temporal_density"].items() if mask[row])
        assert temporal.startswith(str(min(dates, 3)))


def test_views_and_days_are_binned_as_named(
    made: dict[str, slices.Bins], town_cells: Database, town_photos: PhotoTable
) -> None:
    tested, trained = town_photos.of_split("test"), town_photos.of_split("train")
    east = made["heading"]["east"]
    assert ((tested.heading_deg[east] >= 45) & (tested.heading_deg[east] < 135)).all()
    north = made["heading"]["north"]
    assert ((tested.heading_deg[north] >= 315) | (tested.heading_deg[north] < 45)).all()
    fields = [tested.fov_deg[mask] for mask in made["field_of_view"].values()]
    assert all(a.max() <= b.min() for a, b in pairwise(fields))
    assert max(map(len, fields)) <= len(tested) / 2
    level = town_cells.config.levels.prototype
    own, there = (s2.cell_ids(each.lat_deg, each.lon_deg, level) for each in (tested, trained))
    visited = set(s2.parents(town_cells.ids[town_cells.facts.photos > 0], level).tolist())
    for row in range(len(tested)):
        near = trained.captured_at[there == own[row]] if int(own[row]) in visited else trained.captured_at
        days = int(
            np.abs(near.astype("datetime64[D]") - tested.captured_at[row].astype("datetime64[D]")).min().astype(int)
        )
        expected = [days == 0, 0 < days <= 120, 120 < days <= 240, days > 240].index(True)
        bins = ["same day", "1 to 120 days", "121 to 240 days", "more than 240 days"]
        assert made["days_from_training"][bins[expected]][row]


def test_a_slice_that_the_table_cannot_tell_is_left_out_with_a_sentence(
    town_cells: Database, town_photos: PhotoTable
) -> None:
    bare = town_photos.of_split("test")
    for name in ("heading_deg", "fov_deg", "captured_at"):
        bare = bare.with_column(name, [None] * len(bare))
    cut, notes = slices.cut(town_cells, bare, town_photos.of_split("train"))
    assert [each.name for each in cut] == ["spatial_density", "temporal_density"]
    assert [note.split(":")[0] for note in notes] == [
        f"no slice by {name}" for name in ("land use", "heading", "field of view", "days from training")
    ]
    assert "no tested photo has a capture date" in notes[-1]


def test_without_training_photos_in_the_table_the_database_tells_dates(
    town_cells: Database, town_photos: PhotoTable
) -> None:
    tested = town_photos.of_split("test")
    cut, notes = slices.cut(town_cells, tested, tested.select(np.zeros(len(tested), bool)))
    assert [each.name for each in cut if each.name != "land_use"] == [name for name in NAMES if name != "land_use"]
    assert len(notes) == (1 if "land_use" not in [each.name for each in cut] else 0)


def test_recall_by_bin_is_the_mean_of_its_photos_hits() -> None:
    rng = np.random.default_rng(0)
    results = [ranked(name, rng.uniform(0, 400, (60, 5)), (1, 5), (100.0, 200.0), 0) for name in ("a", "b")]
    mask = rng.random(60) < 0.4
    made = slices.recalls([slices.Slice("any", {"some": mask})], results, 200.0, Bootstrap(np.arange(60)))
    for result in results:
        found = made["any"]["some"]["systems"][result.name]
        for k in (1, 5):
            assert found["recall"][str(k)] == pytest.approx(result.hits[k][200.0][mask].mean(), abs=1e-6)
            low, high = found["interval_95"][str(k)]
            assert low <= found["recall"][str(k)] <= high
    assert made["any"]["some"]["photos"] == mask.sum()
