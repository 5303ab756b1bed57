import itertools

import numpy as np
import pytest
import s2geometry

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.types import Float64, Ids

LEVELS = [0, 1, 2, 5, 12, 17, 23, 29, 30]


def _random_sphere(count: int, seed: int) -> tuple[Float64, Float64]:
    rng = np.random.default_rng(seed)
    return np.rad2deg(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)


def _special_points() -> tuple[Float64, Float64]:
    """Poles, the antimeridian, edges and corners of the cube's faces, and points a hair beside them."""
    corner_lat = float(np.rad2deg(np.arctan(np.sqrt(0.5))))
    points = [(90.0, 0.0), (-90.0, 0.0), (90.0, 123.0), (-90.0, -77.0), (0.0, 0.0)]
    points += [(lat, lon) for lat in (-60.0, 0.0, 33.3, 60.0) for lon in (-180.0, 180.0, -179.9999999, 179.9999999)]
    points += [(lat, lon) for lat in (-20.0, 0.0, 12.3, 35.0) for lon in (-135.0, -45.0, 45.0, 135.0)]
    points += [(sign * corner_lat, lon) for sign in (-1, 1) for lon in (-135.0, -45.0, 45.0, 135.0)]
    points += [(sign * 45.0, lon) for sign in (-1, 1) for lon in (-180.0, -90.0, 0.0, 90.0, 180.0)]
    lat, lon = (np.array(values) for values in zip(*points, strict=True))
    nudges = [(0.0, 0.0), *itertools.product((-1e-7, 1e-7), (-1e-7, 1e-7))]
    lats = np.concatenate([np.clip(lat + north, -90, 90) for north, _ in nudges])
    return lats, np.concatenate([np.clip(lon + east, -180, 180) for _, east in nudges])


def _all_points() -> tuple[Float64, Float64]:
    random, special = _random_sphere(400, seed=1), _special_points()
    return np.concatenate([random[0], special[0]]), np.concatenate([random[1], special[1]])


def _official(lat: Float64, lon: Float64, level: int) -> list[s2geometry.S2CellId]:
    points = zip(lat.tolist(), lon.tolist(), strict=True)
    return [s2geometry.S2CellId(s2geometry.S2LatLng.FromDegrees(*point)).parent(level) for point in points]


def _sample(level: int) -> list[s2geometry.S2CellId]:
    """Cells everywhere, at the rims and corners of all faces, and at the ends of their Hilbert curves."""
    cells = _official(*_all_points(), level)
    last = (1 << 30) - 1
    for face, i, j in itertools.product(range(6), (0, 1, last // 3, last - 1, last), (0, 1, last // 2, last - 1, last)):
        cells.append(s2geometry.S2CellId.FromFaceIJ(face, i, j).parent(level))
    return cells


def _ids(cells: list[s2geometry.S2CellId]) -> Ids:
    return np.array([cell.id() for cell in cells], np.uint64)


def _unit(lat_deg: Float64, lon_deg: Float64) -> Float64:
    lat, lon = np.deg2rad(lat_deg), np.deg2rad(lon_deg)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


@pytest.mark.parametrize("level", LEVELS)
def test_cell_of_random_points_is_the_official_one(level: int) -> None:
    lat, lon = _random_sphere(2000, seed=level)
    np.testing.assert_array_equal(s2.cell_ids(lat, lon, level), _ids(_official(lat, lon, level)))


@pytest.mark.parametrize("level", [0, 1, 10, 20])
def test_cell_of_points_at_poles_seams_and_face_edges_is_the_official_one(level: int) -> None:
    lat, lon = _special_points()
    np.testing.assert_array_equal(s2.cell_ids(lat, lon, level), _ids(_official(lat, lon, level)))


@pytest.mark.parametrize("level", [0, 3, 16, 30])
def test_cell_of_a_grid_of_whole_degrees_is_the_official_one(level: int) -> None:
    lat, lon = (a.ravel() for a in np.meshgrid(np.arange(-90.0, 91, 7.5), np.arange(-180.0, 181, 7.5)))
    lat, lon = np.concatenate([lat, -lat]), np.concatenate([lon, -lon])  # with both signs of zero
    np.testing.assert_array_equal(s2.cell_ids(lat, lon, level), _ids(_official(lat, lon, level)))


def test_cells_of_many_levels_at_once_have_the_official_centres() -> None:
    cells = [cell for level in (4, 0, 30, 17, 6, 12) for cell in _sample(level)[::7]]
    lat, lon = s2.cell_centers(_ids(cells))
    centres = [cell.ToLatLng() for cell in cells]
    official = np.array([(point.lat().degrees(), point.lng().degrees()) for point in centres])
    np.testing.assert_allclose(_unit(lat, lon), _unit(official[:, 0], official[:, 1]), rtol=0, atol=5e-16)


def test_more_points_than_one_chunk_are_all_placed() -> None:
    lat, lon = _random_sphere(40_000, seed=3)
    ids = s2.cell_ids(lat, lon, 14)
    probe = np.concatenate([np.arange(20), np.arange(16_374, 16_394), np.arange(39_980, 40_000)])
    np.testing.assert_array_equal(ids[probe], _ids(_official(lat[probe], lon[probe], 14)))
    centre_lat, centre_lon = s2.cell_centers(ids)
    np.testing.assert_array_equal(s2.cell_ids(centre_lat, centre_lon, 14), ids)


def test_scalars_and_broadcasting_give_one_cell_per_point() -> None:
    assert s2.cell_ids(48.85, 2.35, 12).tolist() == [_official(np.array([48.85]), np.array([2.35]), 12)[0].id()]
    lat = np.array([10.0, 20.0, 30.0])
    np.testing.assert_array_equal(s2.cell_ids(lat, 5.0, 12), _ids(_official(lat, np.full(3, 5.0), 12)))
    assert s2.cell_ids([], [], 12).shape == (0,)


@pytest.mark.parametrize("level", LEVELS)
def test_centre_is_the_official_one(level: int) -> None:
    cells = _sample(level)
    expected = np.array([[p.x(), p.y(), p.z()] for p in (cell.ToPoint() for cell in cells)])
    np.testing.assert_allclose(_unit(*s2.cell_centers(_ids(cells))), expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize("level", LEVELS)
def test_corners_are_the_official_ones_in_the_same_turn(level: int) -> None:
    cells = _sample(level)
    official = [s2geometry.S2Cell(cell) for cell in cells]
    expected = np.array([[[p.x(), p.y(), p.z()] for p in map(cell.GetVertex, range(4))] for cell in official])
    polygons = s2.cell_polygons(_ids(cells))
    assert polygons.shape == (len(cells), 4, 2)
    np.testing.assert_allclose(_unit(polygons[..., 0], polygons[..., 1]), expected, atol=1e-15, rtol=0)


def test_corners_turn_counter_clockwise_around_the_centre() -> None:
    ids = s2.cell_ids(*_random_sphere(200, seed=5), 8)
    corners, centre = _unit(*np.moveaxis(s2.cell_polygons(ids), -1, 0)), _unit(*s2.cell_centers(ids))
    turned = np.cross(corners, np.roll(corners, -1, axis=1))
    assert (np.einsum("nkd,nd->nk", turned, centre) > 0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_levels_and_validity_are_the_official_ones(level: int) -> None:
    ids = _ids(_sample(level))
    assert (s2.levels(ids) == level).all()
    assert s2.is_valid(ids).all()


def test_numbers_that_are_no_cells_are_known() -> None:
    rng = np.random.default_rng(7)
    ids = rng.integers(0, 2**64, 3000, np.uint64, endpoint=False) << rng.integers(0, 64, 3000, np.uint64)
    ids = np.concatenate([ids, np.array([0, 2**64 - 1, 1, 2, 3 << 61, 7 << 61, 1 << 60], np.uint64)])
    expected = [s2geometry.S2CellId(int(cell)).is_valid() for cell in ids]
    assert 0 < sum(expected) < len(expected)
    assert s2.is_valid(ids).tolist() == expected


@pytest.mark.parametrize("level", [0, 3, 11, 24])
def test_parents_are_the_official_ones(level: int) -> None:
    for finer in (level, level + 1, 30):
        cells = _sample(finer)
        expected = [cell.parent(level).id() for cell in cells]
        assert s2.parents(_ids(cells), level).tolist() == expected


@pytest.mark.parametrize("level", [0, 1, 9, 22, 29])
def test_children_are_the_official_ones_in_order(level: int) -> None:
    cells = _sample(level)
    assert s2.children(_ids(cells)).tolist() == [[cell.child(k).id() for k in range(4)] for cell in cells]


@pytest.mark.parametrize(("level", "deeper"), [(0, 0), (0, 3), (7, 2), (27, 3)])
def test_descendants_are_the_official_ones_in_order(level: int, deeper: int) -> None:
    cells = _sample(level)[::20]
    expected = []
    for cell in cells:
        step, end, below = cell.child_begin(level + deeper), cell.child_end(level + deeper), []
        while step.id() != end.id():
            below.append(step.id())
            step = step.next()
        expected.append(below)
    assert s2.descendants(_ids(cells), level + deeper).tolist() == expected


def test_descendants_of_nothing_are_nothing() -> None:
    assert s2.descendants(np.empty(0, np.uint64), 12).size == 0


@pytest.mark.parametrize("level", LEVELS)
def test_range_of_leaves_is_the_official_one(level: int) -> None:
    cells = _sample(level)
    assert s2.range_min(_ids(cells)).tolist() == [cell.range_min().id() for cell in cells]
    assert s2.range_max(_ids(cells)).tolist() == [cell.range_max().id() for cell in cells]


@pytest.mark.parametrize("level", LEVELS)
def test_edge_neighbours_are_the_official_ones_in_order(level: int) -> None:
    cells = _sample(level)
    expected = [[other.id() for other in cell.GetEdgeNeighbors()] for cell in cells]
    assert s2.edge_neighbors(_ids(cells)).tolist() == expected


@pytest.mark.parametrize("level", LEVELS[1:])
def test_all_neighbours_are_the_official_set(level: int) -> None:
    cells = _sample(level)
    got = [set(row) for row in s2.all_neighbors(_ids(cells)).tolist()]
    assert got == [{other.id() for other in cell.GetAllNeighbors(level)} for cell in cells]


def test_a_cell_beside_a_corner_of_the_cube_has_seven_neighbours() -> None:
    corner = s2geometry.S2CellId.FromFaceIJ(2, 0, 0).parent(9)
    inner = s2geometry.S2CellId.FromFaceIJ(2, 1 << 28, 1 << 28).parent(9)
    assert [len(set(row)) for row in s2.all_neighbors(_ids([corner, inner])).tolist()] == [7, 8]


@pytest.mark.parametrize("level", LEVELS)
def test_tokens_are_the_official_ones_and_read_back(level: int) -> None:
    cells = _sample(level)
    texts = s2.tokens(_ids(cells))
    assert texts == [cell.ToToken() for cell in cells]
    np.testing.assert_array_equal(s2.from_tokens(texts), _ids(cells))


@pytest.mark.parametrize(
    "text", [*("", "X", "zz", "47e5a", "0", "d", "47e5a70000000000f", "-47e5", "+4", "4 7", "4_7"), "0x4"]
)
def test_a_text_that_is_no_token_is_named(text: str) -> None:
    with pytest.raises(InputError, match="is not the token of an S2 cell") as caught:
        s2.from_tokens(["47e5a7", text])
    assert repr(text) in str(caught.value)


def test_mean_edge_is_the_root_of_the_mean_official_area() -> None:
    area = s2geometry.S2Cell.AverageArea(s2geometry.S2Cell(s2geometry.S2CellId.FromFaceIJ(0, 5, 5).parent(13)))
    assert s2.mean_edge_m(13) == pytest.approx(np.sqrt(area) * 6_371_008.8, rel=1e-9)
