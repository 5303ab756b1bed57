"""Random negatives: from the whole imagery where it ends near the photos, never from all over a country."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cellcode.aerial import AerialSource, Crop, open_source
from cellcode.config import Config
from cellcode.geography import Region, distance, s2
from cellcode.photos import PhotoTable
from cellcode.training.data.photos import TablePhotos
from cellcode.training.setup.factory import RANDOM_PER_CELL, RANDOM_REACH_M, store_cells


class Country(AerialSource):
    """Imagery of a country, of which nothing is read here."""

    identity = "country"
    bounds = (-5.0, 41.0, 10.0, 52.0)

    def footprint(self) -> Region:
        return Region.bbox(*self.bounds)

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        raise AssertionError


def test_random_tiles_of_a_countrys_imagery_are_near_the_photos(
    grid_photos: PhotoTable, small_config: Callable[..., Config]
) -> None:
    cells = store_cells(TablePhotos(grid_photos), Country(), small_config("training.random_tiles=4"))
    own = np.unique(s2.cell_ids(grid_photos.lat_deg, grid_photos.lon_deg, 18))
    assert len(cells) == (1 + RANDOM_PER_CELL) * len(own)
    lat, lon = s2.cell_centers(cells)
    away_m = distance.haversine_m(lat[:, None], lon[:, None], grid_photos.lat_deg, grid_photos.lon_deg).min(axis=1)
    assert 500 < away_m.max() < 1.5 * RANDOM_REACH_M


def test_random_tiles_of_a_raster_are_from_all_of_it(
    grid_photos: PhotoTable, grid_imagery: Path, small_config: Callable[..., Config]
) -> None:
    source = open_source(grid_imagery)
    cells = store_cells(TablePhotos(grid_photos), source, small_config("training.random_tiles=4"))
    lat, lon = s2.cell_centers(cells)
    west, south, east, north = source.bounds
    assert np.ptp(lat) > 0.8 * (north - south)
    assert np.ptp(lon) > 0.8 * (east - west)


@pytest.mark.parametrize("overrides", [[], ["training.random_tiles=4", "training.regime=frozen"]])
def test_no_imagery_is_read_for_random_tiles_that_are_not_drawn(
    overrides: list[str], grid_photos: PhotoTable, small_config: Callable[..., Config]
) -> None:
    cells = store_cells(TablePhotos(grid_photos), Country(), small_config(*overrides))
    np.testing.assert_array_equal(cells, np.unique(s2.cell_ids(grid_photos.lat_deg, grid_photos.lon_deg, 18)))
