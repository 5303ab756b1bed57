import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from cellcode.errors import CellcodeError, InputError, UsageError
from cellcode.geography import Region, s2
from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m
from cellcode.types import Bools, Float64, Ids

POLYGON = [[2.0, 48.0], [2.4, 47.9], [2.5, 48.3], [2.1, 48.4], [2.0, 48.0]]
HOLE = [[2.15, 48.1], [2.3, 48.1], [2.3, 48.25], [2.15, 48.1]]
ISLAND = [[3.0, 48.0], [3.2, 48.0], [3.2, 48.2], [3.0, 48.0]]


def _polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def _around_pole(lat: float, start: float, turn: int = 1) -> list[list[float]]:
    """A ring that closes after a full turn, with longitudes in -180..180."""
    lons = [((start + turn * step + 180) % 360) - 180 for step in range(0, 360, 30)]
    return [[lon, lat] for lon in [*lons, lons[0]]]


def _near(west: float, south: float, east: float, north: float, count: int, seed: int) -> tuple[Float64, Float64]:
    rng = np.random.default_rng(seed)
    lon = rng.uniform(west, east, count)
    return rng.uniform(south, north, count), np.where(lon > 180, lon - 360, lon)


def _in_ring(ring: list[list[float]], lat: Float64, lon: Float64) -> Bools:
    """Even-odd rule by hand: crossings of a ray to the east."""
    inside = np.zeros(lat.shape, bool)
    for (x1, y1), (x2, y2) in itertools.pairwise(ring):
        spans = (y1 > lat) != (y2 > lat)
        inside ^= spans & (lon < x1 + (lat - y1) * (x2 - x1) / ((y2 - y1) or 1))
    return inside


def _all_cells(level: int) -> Ids:
    return s2.descendants(np.array([(2 * face + 1) << 60 for face in range(6)], np.uint64), level).ravel()


def test_box_holds_exactly_its_points() -> None:
    lat, lon = _near(-10, 40, 30, 60, 4000, seed=1)
    got = Region.bbox(0.5, 45, 12, 50.25).contains(lat, lon)
    np.testing.assert_array_equal(got, (lat >= 45) & (lat <= 50.25) & (lon >= 0.5) & (lon <= 12))
    assert got.any()
    assert not got.all()


def test_boundary_of_a_box_belongs_to_it() -> None:
    lat, lon = np.array([45.0, 50.0, 47.0, 47.0, 45.0]), np.array([5.0, 5.0, 0.5, 12.0, 0.5])
    assert Region.bbox(0.5, 45, 12, 50).contains(lat, lon).all()


def test_box_across_the_antimeridian_holds_both_sides() -> None:
    region = Region.bbox(170, -20, -175, -10)
    lat, lon = _near(160, -25, 200, -5, 4000, seed=2)
    expected = (lat >= -20) & (lat <= -10) & ((lon >= 170) | (lon <= -175))
    np.testing.assert_array_equal(region.contains(lat, lon), expected)
    assert region.contains([-15, -15], [180, -180]).all()
    assert not region.contains([-15], [0]).any()
    assert region.bounds == (170, -20, -175, -10)


@pytest.mark.parametrize(("west", "east"), [(170.0, 180.0), (-180.0, -170.0), (170.0, -180.0), (180.0, -170.0)])
def test_seam_at_the_end_of_a_box_has_two_names(west: float, east: float) -> None:
    region = Region.bbox(west, 0, east, 10)
    assert region.contains([5, 5], [180, -180]).all()
    assert region.contains([5, 5], [175, -175]).sum() == 1


def test_box_around_the_whole_world_holds_everything() -> None:
    region = Region.bbox(-180, -90, 180, 90)
    assert region.contains([90, -90, 0, 0, 0], [13, -50, 180, -180, 0]).all()
    assert region.area_m2() == pytest.approx(4 * np.pi * EARTH_RADIUS_M**2, rel=1e-6)
    assert len(region.cells(3)) == 6 * 4**3


def test_box_that_reaches_a_pole_holds_the_pole_at_every_longitude() -> None:
    region = Region.bbox(10, 80, 20, 90)
    assert region.contains([90, 90], [-150, 15]).all()
    assert not region.contains([-90, 85], [15, 25]).any()


def test_polygon_with_a_hole_agrees_with_the_even_odd_rule() -> None:
    region = Region.geojson(_polygon(POLYGON, HOLE))
    lat, lon = _near(1.9, 47.8, 2.6, 48.5, 5000, seed=3)
    expected = _in_ring(POLYGON, lat, lon) & ~_in_ring(HOLE, lat, lon)
    np.testing.assert_array_equal(region.contains(lat, lon), expected)
    assert (_in_ring(POLYGON, lat, lon) & _in_ring(HOLE, lat, lon)).any()


@pytest.mark.parametrize("wrap", ["MultiPolygon", "GeometryCollection", "FeatureCollection"])
def test_several_polygons_are_one_area_however_they_are_wrapped(wrap: str) -> None:
    value: Any = {
        "MultiPolygon": {"type": "MultiPolygon", "coordinates": [[POLYGON, HOLE], [ISLAND]]},
        "GeometryCollection": {"type": "GeometryCollection", "geometries": [_polygon(POLYGON, HOLE), _polygon(ISLAND)]},
        "FeatureCollection": {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "properties": {}, "geometry": _polygon(POLYGON, HOLE)},
                {"type": "Feature", "properties": None, "geometry": _polygon(ISLAND)},
            ],
        },
    }[wrap]
    lat, lon = _near(1.9, 47.8, 3.3, 48.5, 5000, seed=4)
    expected = (_in_ring(POLYGON, lat, lon) & ~_in_ring(HOLE, lat, lon)) | _in_ring(ISLAND, lat, lon)
    np.testing.assert_array_equal(Region.geojson(value).contains(lat, lon), expected)


def test_overlapping_polygons_are_united() -> None:
    shifted = [[lon + 0.05, lat] for lon, lat in POLYGON]
    region = Region.geojson({"type": "MultiPolygon", "coordinates": [[POLYGON], [shifted]]})
    lat, lon = _near(1.9, 47.8, 2.7, 48.5, 3000, seed=5)
    np.testing.assert_array_equal(region.contains(lat, lon), _in_ring(POLYGON, lat, lon) | _in_ring(shifted, lat, lon))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("spelling", ["jump", "beyond east", "beyond west"])
def test_polygon_across_the_antimeridian_is_unrolled(spelling: str, reverse: bool) -> None:
    moved = [[lon + 177.75, lat] for lon, lat in POLYGON]  # 179.75 to 180.25
    hole = [[lon + 177.75, lat] for lon, lat in HOLE]
    shift = {"jump": 0, "beyond east": 0, "beyond west": -360}[spelling]
    rings = [[[lon + shift, lat] for lon, lat in ring] for ring in (moved, hole)]
    if spelling == "jump":
        rings = [[[lon - 360 if lon > 180 else lon, lat] for lon, lat in ring] for ring in rings]
    if reverse:
        rings = [ring[::-1] for ring in rings]
    region = Region.geojson(_polygon(*rings))
    lat, lon = _near(179.65, 47.8, 180.35, 48.5, 4000, seed=6)
    rolled = np.where(lon < 0, lon + 360, lon)
    np.testing.assert_array_equal(
        region.contains(lat, lon), _in_ring(moved, lat, rolled) & ~_in_ring(hole, lat, rolled)
    )
    np.testing.assert_allclose(region.bounds, (179.75, 47.9, -179.75, 48.4), atol=1e-9)


def test_hole_spelled_on_the_other_side_of_the_antimeridian_stays_in_its_polygon() -> None:
    outer = [[170.0, 0.0], [190.0, 0.0], [190.0, 10.0], [170.0, 10.0], [170.0, 0.0]]
    hole = [[-178.0, 2.0], [-175.0, 2.0], [-175.0, 5.0], [-178.0, 5.0], [-178.0, 2.0]]
    region = Region.geojson(_polygon(outer, hole))
    assert region.contains([3, 3, 3], [-176, -172, 176]).tolist() == [False, True, True]


@pytest.mark.parametrize("start", [0.0, 37.0, 150.0, -180.0])
@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("pole", [1, -1])
def test_ring_around_a_pole_is_the_cap_on_its_side(pole: int, turn: int, start: float) -> None:
    region = Region.geojson(_polygon(_around_pole(70.0 * pole, start, turn)))
    rng = np.random.default_rng(7)
    lat, lon = rng.uniform(-90, 90, 2000), rng.uniform(-180, 180, 2000)
    np.testing.assert_array_equal(region.contains(lat, lon), lat * pole >= 70)
    assert region.contains([90 * pole, 80 * pole, 80 * pole], [12, 180, -180]).all()
    expected = 2 * np.pi * EARTH_RADIUS_M**2 * (1 - np.sin(np.deg2rad(70)))
    assert region.area_m2() == pytest.approx(expected, rel=1e-6)


def test_island_beside_the_pole_can_be_cut_out_of_a_polar_region() -> None:
    hole = [[10.0, 75.0], [30.0, 75.0], [30.0, 80.0], [10.0, 80.0], [10.0, 75.0]]
    region = Region.geojson(_polygon(_around_pole(70.0, 0.0), hole))
    assert region.contains([77, 77, 85], [20, 40, 20]).tolist() == [False, True, True]


def test_ring_around_a_pole_can_be_the_hole_of_another() -> None:
    region = Region.geojson(_polygon(_around_pole(60.0, 0.0), _around_pole(80.0, 0.0)))
    assert region.contains([70, 85, 90, 50], [5, 5, 5, 5]).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("lat", "lon", "radius_m"),
    [
        (48.0, 2.0, 20_000.0),
        (0.0, 180.0, 3e5),
        (-33.0, -179.9, 5e5),
        (89.0, 40.0, 3e5),
        (-90.0, 0.0, 1e6),
        (10, 20, 12e6),
    ],
)
def test_cap_holds_what_is_within_its_radius(lat: float, lon: float, radius_m: float) -> None:
    region = Region.cap(lat, lon, radius_m)
    rng = np.random.default_rng(8)
    away, turn = np.sqrt(rng.uniform(0, 2, 3000)) * radius_m / EARTH_RADIUS_M, rng.uniform(0, 2 * np.pi, 3000)
    # Points by spherical trigonometry: `away` radians from the centre in direction `turn`.
    phi = np.deg2rad(lat)
    lats = np.arcsin(np.clip(np.sin(phi) * np.cos(away) + np.cos(phi) * np.sin(away) * np.cos(turn), -1, 1))
    lons = np.arctan2(np.sin(turn) * np.sin(away) * np.cos(phi), np.cos(away) - np.sin(phi) * np.sin(lats))
    lons = (np.rad2deg(lons) + lon + 180) % 360 - 180
    clear = np.abs(away * EARTH_RADIUS_M / radius_m - 1) > 1e-6
    within = (np.where(away > np.pi, 2 * np.pi - away, away) * EARTH_RADIUS_M <= radius_m)[clear]
    lats, lons = np.rad2deg(lats)[clear], lons[clear]
    np.testing.assert_array_equal(region.contains(lats, lons), within)
    boxed = Region(region.shape).contains(lats[within], lons[within])
    assert boxed.all(), "the shape of a cap must be a box around it"


def test_area_of_a_box_is_the_zone_between_its_parallels() -> None:
    for west, south, east, north in [(2.0, 48.0, 2.5, 48.3), (-60, -50, 30, 10), (170, 60, -170, 80)]:
        width = np.deg2rad((east - west) % 360)
        expected = EARTH_RADIUS_M**2 * width * (np.sin(np.deg2rad(north)) - np.sin(np.deg2rad(south)))
        assert Region.bbox(west, south, east, north).area_m2() == pytest.approx(expected, rel=1e-6)


def test_area_of_a_slanting_polygon_is_the_share_of_points_in_it() -> None:
    ring = [[0.0, 0.0], [40.0, 60.0], [-30.0, 50.0], [0.0, 0.0]]
    rng = np.random.default_rng(9)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(0, np.sin(np.deg2rad(60)), 200_000))), rng.uniform(-30, 40, 200_000)
    box = EARTH_RADIUS_M**2 * np.deg2rad(70) * np.sin(np.deg2rad(60))
    assert Region.geojson(_polygon(ring)).area_m2() == pytest.approx(box * _in_ring(ring, lat, lon).mean(), rel=0.01)


REGIONS = {
    "box": Region.bbox(2.0, 48.0, 2.5, 48.3),
    "holed": Region.geojson(_polygon(POLYGON, HOLE)),
    "islands": Region.geojson({"type": "MultiPolygon", "coordinates": [[POLYGON, HOLE], [ISLAND]]}),
    "seam": Region.bbox(179.7, -17.0, -179.8, -16.7),
    "face edge": Region.bbox(44.8, 10.0, 45.2, 10.4),
    "face corner": Region.bbox(44.7, 35.0, 45.3, 35.5),
    "cap": Region.cap(48.2, 2.2, 15_000),
    "polar cap": Region.cap(-89.9, 10.0, 20_000),
}


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("level", [9, 12, 13])
def test_cells_are_all_those_with_their_centre_inside(name: str, level: int) -> None:
    """Candidates are collected by sampling densely around the region, and judged by their centres alone."""
    region = REGIONS[name]
    if name == "polar cap":
        lat, lon = np.meshgrid(np.linspace(-90, -89.5, 80), np.linspace(-180, 180, 720))
    else:
        west, south, east, north = region.bounds
        margin, east = 0.3, east + 360 * (east < west)
        grid = 60 if level == 9 else 500
        lat, lon = np.meshgrid(
            np.linspace(south - margin, north + margin, grid), np.linspace(west - margin, east + margin, grid)
        )
    candidates = np.unique(s2.cell_ids(lat.ravel(), lon.ravel(), level))
    expected = candidates[region.contains(*s2.cell_centers(candidates))]
    if not len(expected):
        pytest.fail("a region of this test must have cells")
    got = region.cells(level)
    assert got.dtype == np.uint64
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "region",
    [
        Region.bbox(-100, -35, 120, 70),
        Region.bbox(100, -80, -100, 85),
        Region.bbox(-180, 60, 180, 90),
        Region.geojson(_polygon(_around_pole(-70.0, 33.0))),
        Region.geojson(_polygon([[-30.0, -20.0], [100.0, 10.0], [60.0, 80.0], [-30.0, -20.0]])),
        Region.cap(30, 179, 4_000_000),
        Region.cap(80, -50, 3_000_000),
        Region.cap(0, 0, 19_000_000),
    ],
    ids=["wide", "pacific", "arctic", "antarctic", "slanting", "cap", "cap over a pole", "nearly all"],
)
def test_cells_of_large_regions_are_those_of_the_whole_earth_with_their_centre_inside(region: Region) -> None:
    for level in (0, 1, 3, 6):
        everything = np.sort(_all_cells(level))
        expected = everything[region.contains(*s2.cell_centers(everything))]
        if len(expected):
            np.testing.assert_array_equal(region.cells(level), expected)
        else:
            with pytest.raises(InputError):
                region.cells(level)


@pytest.mark.parametrize("name", REGIONS)
def test_estimated_count_is_near_the_true_one(name: str) -> None:
    # The areas of cells differ by a factor of two over the sphere.
    assert 0.6 < REGIONS[name].count_estimate(13) / len(REGIONS[name].cells(13)) < 1.6


def test_region_smaller_than_a_cell_is_refused_in_a_sentence() -> None:
    lat, lon = (float(value[0]) for value in s2.cell_centers(s2.cell_ids(48.0, 2.0, 10)))
    beside = Region.bbox(lon + 0.001, lat + 0.001, lon + 0.002, lat + 0.002)
    with pytest.raises(InputError, match="no cell of level 10"):
        beside.cells(10)
    assert len(beside.cells(20)) > 0
    assert len(Region.bbox(lon - 1e-6, lat - 1e-6, lon + 1e-6, lat + 1e-6).cells(10)) == 1


def test_too_many_cells_are_refused_before_they_are_made() -> None:
    with pytest.raises(InputError, match="limit is 200,000,000"):
        Region.bbox(-180, -90, 180, 90).cells(20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither"),
        ("1,2,3", "neither"),
        ("1,2,3,4,5", "neither"),
        ("paris.geojson", "neither"),
        ("1,2,x,4", "four numbers"),
        ("1,,3,4", "four numbers"),
        ("1_0,2,30,40", "four numbers"),
        ("2,48,3,47", "south"),
        ("2,48,3,48", "south"),
        ("2,48,2,49", "no area"),
        ("-200,0,10,10", "west is -200"),
        ("0,0,181,10", "east is 181"),
        ("0,-91,10,10", "south is -91"),
        ("0,0,10,91", "north is 91"),
        ("nan,0,1,1", "four numbers"),
        ("0,0,1,inf", "four numbers"),
        ("180,0,-180,10", "no area"),
    ],
)
def test_malformed_region_of_the_command_line_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Region.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "args", [(91, 0, 10), (0, 181, 10), (0, 0, 0), (0, 0, -5), (0, 0, 3e7), (np.nan, 0, 5), (0, 0, np.nan)]
)
def test_cap_that_cannot_be_is_refused(args: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="no circle"):
        Region.cap(*args)


def _edited(position: Any) -> dict[str, Any]:
    return _polygon([*POLYGON[:2], position, *POLYGON[3:]])


MALFORMED = {
    "point": {"type": "Point", "coordinates": [1, 2]},
    "line": {"type": "LineString", "coordinates": POLYGON},
    "no type": {"coordinates": [POLYGON]},
    "no coordinates": {"type": "Polygon"},
    "coordinates null": {"type": "Polygon", "coordinates": None},
    "no polygon in a multipolygon": {"type": "MultiPolygon", "coordinates": []},
    "no features": {"type": "FeatureCollection", "features": []},
    "features missing": {"type": "FeatureCollection"},
    "feature without geometry": {"type": "Feature", "properties": {}},
    "geometry null": {"type": "Feature", "geometry": None},
    "point among polygons": {
        "type": "GeometryCollection",
        "geometries": [_polygon(POLYGON), {"type": "Point", "coordinates": [1, 2]}],
    },
    "three positions": _polygon([[0, 0], [1, 0], [0, 0]]),
    "empty ring": _polygon([]),
    "text in a ring": _edited(["a", "b"]),
    "short position": _edited([2.5]),
    "null position": _edited(None),
    "infinite": _edited([float("inf"), 48.0]),
    "latitude 91": _edited([2.5, 91.0]),
    "longitude 600": _edited([600.0, 48.0]),
    "bow tie": _polygon([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]),
    "no area": _polygon([[0, 0], [1, 1], [2, 2], [0, 0]]),
    "hole outside": _polygon(POLYGON, ISLAND),
    "a number": 5,
    "a list": [_polygon(POLYGON)],
}


@pytest.mark.parametrize(
    "value",
    [
        *(pytest.param(value, id=name) for name, value in MALFORMED.items()),
        pytest.param({"type": "Polygon", "coordinates": []}, id="polygon without rings"),
        pytest.param({"type": "MultiPolygon", "coordinates": [[]]}, id="part without rings"),
    ],
)
def test_malformed_geojson_is_refused_in_a_sentence_that_names_the_file(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError) as caught:
        Region.parse(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"not json"])
def test_file_that_is_no_json_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not valid JSON") as caught:
        Region.parse(path)
    assert str(path) in str(caught.value)


def test_swapped_latitude_and_longitude_get_a_hint() -> None:
    with pytest.raises(InputError, match="longitude is first"):
        Region.geojson(_polygon([[48.0, 102.0], [47.9, 102.4], [48.3, 102.5], [48.0, 102.0]]))


def test_region_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CellcodeError, match=r"nothing\.geojson"):
        Region.geojson(tmp_path / "nothing.geojson")


def test_a_region_is_taken_as_object_text_path_or_nothing(tmp_path: Path) -> None:
    box = Region.bbox(3, 52, 4, 53)
    path = tmp_path / "box.geojson"
    path.write_text(json.dumps(box.to_geojson()))
    assert Region.of(box) is box
    assert Region.of("3,52,4,53") == box
    assert Region.of(path).bounds == Region.of(str(path)).bounds == box.bounds
    assert Region.of(None) is None


def test_parsed_box_and_file_are_the_same_as_built_ones(tmp_path: Path) -> None:
    assert Region.parse(" 2.0, 48.0,2.5 ,48.3").shape.equals(Region.bbox(2, 48, 2.5, 48.3).shape)
    path = tmp_path / "area, with commas, in, name.geojson"
    path.write_text(json.dumps(_polygon(POLYGON)))
    for source in (path, str(path)):
        assert Region.geojson(source).shape.equals(shapely.Polygon(POLYGON))
    plain = path.rename(tmp_path / "area.geojson")
    assert Region.parse(str(plain)).shape.equals(shapely.Polygon(POLYGON))


@pytest.mark.parametrize("name", [name for name in REGIONS if "cap" not in name])
def test_geojson_of_a_region_reads_back_as_the_same_region(name: str) -> None:
    region = REGIONS[name]
    value = json.loads(json.dumps(region.to_geojson()))
    again = Region.geojson(value)
    assert again.shape.symmetric_difference(region.shape).area < 1e-12
    assert again.bounds == pytest.approx(region.bounds)


@pytest.mark.parametrize(
    "box", [(-100, -10, 100, 10), (-180, -90, 180, 90), (-180, 60, 180, 90)], ids=["wide", "world", "arctic"]
)
def test_geojson_of_a_wide_box_reads_back_as_the_same_region(box: tuple[float, float, float, float]) -> None:
    region = Region.bbox(*box)
    assert Region.geojson(region.to_geojson()).shape.symmetric_difference(region.shape).area < 1e-9


def test_geojson_of_a_cap_follows_its_circle() -> None:
    ring = np.array(Region.cap(48.2, 2.2, 15_000).to_geojson()["coordinates"][0])
    assert ring.shape == (73, 2)
    np.testing.assert_array_equal(ring[0], ring[-1])
    np.testing.assert_allclose(haversine_m(48.2, 2.2, ring[:, 1], ring[:, 0]), 15_000, rtol=0.006)


def test_description_shows_bounds_and_area() -> None:
    text = Region.bbox(2, 48, 2.5, 48.25).describe()
    assert "west 2.00000, south 48.00000, east 2.50000, north 48.25000" in text
    expected = EARTH_RADIUS_M**2 * np.deg2rad(0.5) * (np.sin(np.deg2rad(48.25)) - np.sin(np.deg2rad(48))) / 1e6
    assert f"({expected:.2f} km2)" in text


BORDERS = {
    **REGIONS,
    "arctic": Region.geojson(_polygon(_around_pole(70.0, 0.0))),
    "cap across the seam": Region.cap(-17.0, 179.9, 100_000),
    "cap over a pole": Region.cap(80.0, -50.0, 3_000_000),
    "cap of the north": Region.cap(5.0, 20.0, 9_900_000),
    "nearly all": Region.cap(10.0, 20.0, 19_000_000),
    "cells": Region.of_cells(s2.from_tokens(["47e5", "89c25", "7"])),
}


@pytest.mark.parametrize("name", BORDERS)
def test_complement_is_the_rest_of_the_earth(name: str) -> None:
    region = BORDERS[name]
    rest = region.complement()
    rng = np.random.default_rng(21)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 3000))), rng.uniform(-180, 180, 3000)
    west, south, east, north = region.bounds
    near = _near(west, south, east + 360 * (east < west), north, 2000, seed=22)
    lat, lon = np.append(lat, near[0]), np.append(lon, near[1])
    np.testing.assert_array_equal(rest.contains(lat, lon), ~region.contains(lat, lon))
    assert rest.area_m2() + region.area_m2() == pytest.approx(4 * np.pi * EARTH_RADIUS_M**2)
    assert rest.count_estimate(12) + region.count_estimate(12) == pytest.approx(6 * 4**12, abs=2)
    assert rest.bounds == (-180, -90, 180, 90)
    assert rest.describe() == f"all but {region.describe()}"
    assert ~rest == region
    assert (~rest).describe() == region.describe()
    assert rest != region
    assert rest.cap_of is None


@pytest.mark.parametrize("name", BORDERS)
def test_geojson_of_a_region_and_of_its_complement_hold_their_points(name: str) -> None:
    region = BORDERS[name]
    rng = np.random.default_rng(23)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 20_000))), rng.uniform(-180, 180, 20_000)
    west, south, east, north = region.bounds
    near = _near(west, south, east + 360 * (east < west), north, 2000, seed=24)
    lat, lon = np.append(lat, near[0]), np.append(lon, near[1])
    for drawn in (region, ~region):
        again = Region.geojson(json.loads(json.dumps(drawn.to_geojson())))
        # Circles and sides of cells are drawn with corners.
        assert (again.contains(lat, lon) != drawn.contains(lat, lon)).mean() < 0.003
        assert again.area_m2() == pytest.approx(drawn.area_m2(), rel=0.01)


def test_complement_of_a_small_region_has_too_many_cells() -> None:
    with pytest.raises(InputError, match="limit is 200,000,000"):
        (~Region.cap(52, 5, 1000)).cells(16)


def test_regions_are_equal_when_they_are_made_of_the_same_area() -> None:
    assert Region.bbox(2, 48, 3, 49) == Region(shapely.box(2, 48, 3, 49))
    assert Region.cap(52, 5, 1000) != Region.cap(52, 5, 1001)
    assert Region.cap(52, 5, 1000) != Region(Region.cap(52, 5, 1000).shape)
    assert len({Region.bbox(2, 48, 3, 49), Region.bbox(2, 48, 3, 49), ~Region.bbox(2, 48, 3, 49)}) == 2


def test_shape_that_only_touches_the_antimeridian_reads_back() -> None:
    ring = [[170.0, 0.0], [180.0, 0.0], [180.0, 10.0], [170.0, 10.0], [170.0, 0.0]]
    region = Region.geojson(_polygon(ring))
    assert region.bounds == (170, 0, 180, 10)
    assert Region.geojson(region.to_geojson()).shape.equals(region.shape)
