import numpy as np
import pytest

from cellcode.database.calibration import radii
from cellcode.geography import Region, distance, s2
from cellcode.search.searcher import mean_position

CELLS = Region.bbox(3.0, 52.0, 3.1, 52.05).cells(16)
LAT, LON = s2.cell_centers(CELLS)
NOWHERE = np.empty(0), np.empty(0)


def _posterior(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twenty cells, best first, with all of the mass."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(CELLS))[:20]
    return LAT[rows], LON[rows], np.sort(rng.dirichlet(np.ones(20)))[::-1]


def test_the_mean_position_is_between_the_cells() -> None:
    """Where the earth is flat enough it is the mean of coordinates; across the antimeridian it is not."""
    lat, lon, probability = _posterior()
    found = mean_position(lat, lon, probability)
    assert distance.haversine_m(*found, lat @ probability, lon @ probability) < 2
    lat_deg, lon_deg = mean_position(np.array([10.0, 10.0]), np.array([179.9, -179.9]), np.array([0.5, 0.5]))
    assert abs(abs(lon_deg) - 180) < 1e-6
    assert lat_deg == pytest.approx(10, abs=1e-4)


def test_a_circle_holds_its_share_of_the_mass() -> None:
    """Against the definition, summed over cells."""
    lat, lon, probability = _posterior()
    within = radii.held(lat, lon, probability, NOWHERE, 140.0)
    apart_m = distance.haversine_m(lat[0], lon[0], lat, lon)
    first, last = np.maximum(apart_m - 70, 0), apart_m + 70
    for share in (0.05, 0.3, 0.5, 0.9, 0.99):
        radius_m = radii.radius_m(share, *within)
        assert (probability * np.clip((radius_m - first) / (last - first), 0, 1)).sum() == pytest.approx(
            share, abs=1e-9
        )
    assert radii.radius_m(0.9, *within) > radii.radius_m(0.5, *within) > 0


def test_what_lies_beyond_the_best_cells_is_not_forgotten() -> None:
    """A tenth of the mass in the cells at hand: the circle of a half reaches as far as half of all cells do, about."""
    lat, lon, probability = _posterior()
    rest = radii.everywhere(CELLS)
    radius_m = radii.radius_m(0.5, *radii.held(lat, lon, 0.1 * probability, rest, 140.0))
    everywhere_m = distance.haversine_m(lat[0], lon[0], LAT, LON)
    assert 0.35 < (everywhere_m <= radius_m).mean() < 0.55
