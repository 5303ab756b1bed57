import numpy as np
import pytest
import rasterio.warp

from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m, local_m, offset, within_m, wrap_lon
from cellcode.types import Float64

DEGREE_M = np.deg2rad(EARTH_RADIUS_M)


def _unit(lat_deg: Float64, lon_deg: Float64) -> Float64:
    lat, lon = np.deg2rad(lat_deg), np.deg2rad(lon_deg)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _angle_m(lat1: Float64, lon1: Float64, lat2: Float64, lon2: Float64) -> Float64:
    """Arc between unit vectors: well conditioned for near and for opposite points."""
    a, b = _unit(lat1, lon1), _unit(lat2, lon2)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1))
    return np.asarray(EARTH_RADIUS_M * angle)


def _random_sphere(count: int, seed: int) -> tuple[Float64, Float64]:
    rng = np.random.default_rng(seed)
    return np.rad2deg(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)


def _geodesic_m(lat0: float, lon0: float, lat: Float64, lon: Float64) -> tuple[Float64, Float64]:
    """East and north by PROJ: length and azimuth of the geodesic on WGS84 (azimuthal equidistant projection)."""
    local = f"+proj=aeqd +lat_0={lat0!r} +lon_0={lon0!r} +ellps=WGS84 +units=m"
    east, north = rasterio.warp.transform("EPSG:4326", local, lon, lat)
    return np.array(east), np.array(north)


def test_distance_is_the_angle_between_unit_vectors() -> None:
    here, there = _random_sphere(5000, seed=1), _random_sphere(5000, seed=2)
    np.testing.assert_allclose(haversine_m(*here, *there), _angle_m(*here, *there), rtol=1e-7, atol=1e-3)


@pytest.mark.parametrize("reach_deg", [1e-7, 1e-5, 1e-3])
def test_short_distances_keep_their_precision(reach_deg: float) -> None:
    lat, lon = _random_sphere(2000, seed=3)
    rng = np.random.default_rng(4)
    other = np.clip(lat + rng.uniform(-1, 1, 2000) * reach_deg, -90, 90), lon + rng.uniform(-1, 1, 2000) * reach_deg
    np.testing.assert_allclose(haversine_m(lat, lon, *other), _angle_m(lat, lon, *other), rtol=1e-6, atol=2e-8)


@pytest.mark.parametrize(
    ("here", "there", "degrees"),
    [
        ((0.0, 0.0), (0.0, 1.0), 1),
        ((0.0, 179.5), (0.0, -179.5), 1),
        ((0.0, 180.0), (0.0, -180.0), 0),
        ((90.0, 12.0), (90.0, -170.0), 0),
        ((90.0, 0.0), (-90.0, 77.0), 180),
        ((60.0, 0.0), (60.0, 180.0), 60),
        ((30.0, 20.0), (-30.0, -160.0), 180),
        ((60.0, 10.0), (60.0, 10.0), 0),
    ],
)
def test_known_distances(here: tuple[float, float], there: tuple[float, float], degrees: float) -> None:
    assert haversine_m(*here, *there) == pytest.approx(degrees * DEGREE_M, abs=1e-6)


def test_distances_broadcast() -> None:
    lat, lon = _random_sphere(7, seed=5)
    table = haversine_m(lat[:, None], lon[:, None], lat, lon)
    assert table.shape == (7, 7)
    np.testing.assert_allclose(table, table.T)
    assert (np.diag(table) == 0).all()


@pytest.mark.parametrize("lat0", [-60.0, -33.0, 0.0, 12.0, 48.0, 60.0])
@pytest.mark.parametrize("lon0", [-180.0, -71.0, 2.35, 179.9995])
def test_offset_of_250_m_is_the_geodesic_within_a_centimetre(lat0: float, lon0: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 73)
    east, north = 250 * np.sin(turn), 250 * np.cos(turn)
    got_east, got_north = _geodesic_m(lat0, lon0, *offset(lat0, lon0, east, north))
    assert np.hypot(got_east - east, got_north - north).max() < 0.01


@pytest.mark.parametrize("lat0", [-45.0, 0.0, 45.0])
def test_offset_of_10_km_is_the_geodesic_within_ten_metres(lat0: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 73)
    east, north = 10_000 * np.sin(turn), 10_000 * np.cos(turn)
    got_east, got_north = _geodesic_m(lat0, 5.0, *offset(lat0, 5.0, east, north))
    assert np.hypot(got_east - east, got_north - north).max() < 10


def test_local_metres_undo_an_offset() -> None:
    rng = np.random.default_rng(6)
    lat, lon = rng.uniform(-80, 80, 1000), rng.uniform(-180, 180, 1000)
    east, north = rng.uniform(-5000, 5000, (2, 1000))
    got_east, got_north = local_m(lat, lon, *offset(lat, lon, east, north))
    np.testing.assert_allclose(got_east, east, atol=1e-6)
    np.testing.assert_allclose(got_north, north, atol=1e-6)


def test_offset_crosses_the_antimeridian_both_ways() -> None:
    lat, lon = offset(10.0, np.array([179.999, -179.999]), np.array([500.0, -500.0]), 0.0)
    np.testing.assert_array_equal(lat, 10.0)
    assert -180 <= lon[0] < -179.99
    assert 179.99 < lon[1] <= 180
    east, _ = local_m(10.0, np.array([179.999, -179.999]), lat, lon)
    np.testing.assert_allclose(east, [500, -500], atol=1e-6)


def test_wrapped_longitudes_are_the_same_meridian_within_the_range() -> None:
    lon = np.concatenate([np.linspace(-1080, 1080, 4321), [180.0, -180.0, 540.0, -540.0]])
    wrapped = wrap_lon(lon)
    assert np.abs(wrapped).max() <= 180
    np.testing.assert_allclose(np.exp(1j * np.deg2rad(wrapped)), np.exp(1j * np.deg2rad(lon)), atol=1e-12)


def test_longitudes_in_the_range_are_left_alone_to_the_bit() -> None:
    lon = np.concatenate(
        [np.random.default_rng(8).uniform(-180, 180, 1000), [-180.0, 180.0, np.nextafter(180, 0), 0.1]]
    )
    np.testing.assert_array_equal(wrap_lon(lon), lon)
    assert wrap_lon(181.0) == -179


def test_within_is_what_distances_say_but_for_a_hair_at_the_limit() -> None:
    rng = np.random.default_rng(3)
    lat, lon = rng.uniform(-89, 89, 60), rng.uniform(-180, 180, 60)
    apart_m = 10 ** rng.uniform(0, 4, (60, 40))  # around every point, a metre to ten kilometres away
    bearing = rng.uniform(0, 2 * np.pi, apart_m.shape)
    lat2, lon2 = offset(lat[:, None], lon[:, None], apart_m * np.sin(bearing), apart_m * np.cos(bearing))
    limits_m = (10.0, 80.0, 250.0, 420.0)
    found = within_m(lat, lon, lat2.ravel(), lon2.ravel(), *limits_m)
    true_m = haversine_m(lat[:, None], lon[:, None], lat2.ravel(), lon2.ravel())
    for limit_m, near in zip(limits_m, found, strict=True):
        assert near.shape == true_m.shape
        clear = np.abs(true_m - limit_m) > 0.0012 * 10 / limit_m
        np.testing.assert_array_equal(near[clear], (true_m < limit_m)[clear])
        assert 0 < near.sum() < near.size


def test_within_finds_the_limit_to_a_millimetre() -> None:
    for limit_m in (10.0, 80.0, 250.0):
        for off_m in (-0.0012, 0.0012):
            lat2 = 48.0 + np.rad2deg((limit_m + off_m) / EARTH_RADIUS_M)
            (near,) = within_m(np.array([48.0]), np.array([2.0]), np.array([lat2]), np.array([2.0]), limit_m)
            assert near.item() == (off_m < 0)
