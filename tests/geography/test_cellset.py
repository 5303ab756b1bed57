import itertools
import json

import numpy as np
import pytest
import s2geometry

from cellcode.errors import InputError
from cellcode.geography import Region, s2
from cellcode.geography.distance import EARTH_RADIUS_M
from cellcode.geography.s2 import ranges
from cellcode.types import Ids


def _mixed(seed: int) -> Ids:
    """Cells of many levels, neighbours, repetitions, and cells inside others."""
    rng = np.random.default_rng(seed)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 30))), rng.uniform(-180, 180, 30)
    scattered = [s2.cell_ids(lat[k : k + 1], lon[k : k + 1], int(rng.integers(2, 25))) for k in range(30)]
    near = s2.cell_ids(52 + rng.normal(0, 0.02, 60), 5 + rng.normal(0, 0.02, 60), 13)
    inside = s2.cell_ids(*s2.cell_centers(near[:20]), 16)
    return rng.permutation(np.concatenate([*scattered, near, near[:5], inside, s2.children(near[0]).ravel()]))


def _union(ids: Ids) -> s2geometry.S2CellUnion:
    union = s2geometry.S2CellUnion()
    union.Init(ids.tolist())
    return union


@pytest.mark.parametrize("seed", range(3))
def test_cells_of_the_finest_given_level_are_those_of_the_official_union(seed: int) -> None:
    given = _mixed(seed)
    union, region = _union(given), Region.of_cells(given)
    level = int(s2.levels(given).max())
    got = region.ranges(level)
    official = [s2geometry.S2CellId(union.cell_id(k).id()) for k in range(union.num_cells())]
    spans = np.array(
        [[cell.child_begin(level).id(), cell.child_end(level).prev().id()] for cell in official], np.uint64
    )
    np.testing.assert_array_equal(got, ranges.join(spans, level))
    np.testing.assert_array_equal(region.ranges(30), ranges.join(ranges.spans(given, 30), 30))


@pytest.mark.parametrize("level", [0, 3, 8, 12, 14, 20])
def test_coarser_and_finer_cells_agree_with_contains_at_their_centres(level: int) -> None:
    given = _mixed(5)
    region = Region.of_cells(given)
    around = s2.parents(given[s2.levels(given) >= level], level)
    below = s2.cell_ids(*s2.cell_centers(given), level)
    candidates = np.unique(np.concatenate([around, below, s2.all_neighbors(np.unique(below)).ravel()]))
    expected = candidates[region.contains(*s2.cell_centers(candidates))]
    got = region.ranges(level) if len(expected) else ranges.empty()
    assert np.isin(expected, ranges.expand(got, level) if ranges.count(got, level) < 1e6 else expected).all()
    row = np.searchsorted(got[:, 0], candidates, side="right") - 1
    inside = (row >= 0) & (candidates <= got[row, 1]) if len(got) else np.zeros(len(candidates), bool)
    np.testing.assert_array_equal(candidates[inside], expected)


def test_a_coarser_cell_belongs_to_one_quarter_around_its_centre_at_most() -> None:
    parents = s2.cell_ids([52.0, -33.0, 10.0], [5.0, -70.0, 100.0], 9)
    for parent in parents:
        held = [
            parent in Region.of_cells(child).cells(9) if _has_cells(Region.of_cells(child), 9) else False
            for child in s2.children(parent).ravel()
        ]
        assert sum(held) == 1


def _has_cells(region: Region, level: int) -> bool:
    try:
        return len(region.ranges(level)) > 0
    except InputError:
        return False


def test_points_are_inside_when_their_cell_is_given() -> None:
    given = s2.from_tokens(["47e5", "47c7b", "89c25", "7", "50b"])
    region, union = Region.of_cells(given), _union(given)
    rng = np.random.default_rng(3)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 3000))), rng.uniform(-180, 180, 3000)
    lat, lon = np.append(lat, s2.cell_centers(given)[0]), np.append(lon, s2.cell_centers(given)[1])
    expected = [union.Contains(s2geometry.S2CellId(int(leaf))) for leaf in s2.cell_ids(lat, lon, 30)]
    np.testing.assert_array_equal(region.contains(lat, lon), expected)
    assert region.contains(lat[:6].reshape(2, 3), lon[:6].reshape(2, 3)).shape == (2, 3)


def test_area_is_the_official_one() -> None:
    for token in ("1", "3", "47e5", "47e5a7", "89c25a31", "47e5a70000c8b", "47e5a70000c8b711"):
        exact = s2geometry.S2Cell(s2geometry.S2CellId.FromToken(token)).ExactArea() * EARTH_RADIUS_M**2
        assert Region.of_cells(s2.from_tokens([token])).area_m2() == pytest.approx(exact, rel=2e-5)
    faces = np.array([(2 * face + 1) << 60 for face in range(6)], np.uint64)
    assert Region.of_cells(faces).area_m2() == pytest.approx(4 * np.pi * EARTH_RADIUS_M**2)
    twice = s2.from_tokens(["47e5", "47e5", "47e5a7"])
    assert Region.of_cells(twice).area_m2() == Region.of_cells(twice[:1]).area_m2()


@pytest.mark.parametrize(
    ("tokens", "bounds"),
    [
        (["1"], (-45, -45, 45, 45)),
        (["7"], (135, -45, -135, 45)),
        (["5"], (-180, 35.26439, 180, 90)),
        (["b"], (-180, -90, 180, -35.26439)),
        (["1", "7"], (-180 + 45, -45, 180 - 135, 45)),
    ],
)
def test_bounds_of_faces(tokens: list[str], bounds: tuple[float, float, float, float]) -> None:
    got = Region.of_cells(s2.from_tokens(tokens)).bounds
    if tokens == ["1", "7"]:  # two equal gaps: either one may be left out
        assert got in [pytest.approx((135, -45, 45, 45)), pytest.approx((-45, -45, -135, 45))]
    else:
        assert got == pytest.approx(bounds, abs=1e-5)


def test_bounds_are_the_official_ones_of_a_cell() -> None:
    for lat, lon, level in itertools.product((-89.99, -40.0, 12.0, 60.0, 89.9), (-179.99, -50.0, 179.99), (3, 9, 16)):
        cell = s2.cell_ids(lat, lon, level)
        rect = s2geometry.S2Cell(s2geometry.S2CellId(int(cell[0]))).GetRectBound()
        got = Region.of_cells(cell).bounds
        official = (rect.lo().lng(), rect.lo().lat(), rect.hi().lng(), rect.hi().lat())
        expected = [angle.degrees() for angle in official]
        # On the antimeridian the official rectangle may use the other name.
        difference = np.abs((np.array(got) - expected + 180) % 360 - 180)
        if abs(lat) < 85 or level > 9:
            assert difference.max() < 1e-8


@pytest.mark.parametrize(
    "tokens",
    [["47e5"], ["1"], ["5"], ["b"], ["7"], ["47e5", "47e7", "47e4b", "50b"], ["3", "47", "89c25"], ["44", "64"]],
)
def test_geojson_covers_the_same_points(tokens: list[str]) -> None:
    region = Region.of_cells(s2.from_tokens(tokens))
    again = Region.geojson(json.loads(json.dumps(region.to_geojson())))
    assert again.area_m2() == pytest.approx(region.area_m2(), rel=2e-3)
    rng = np.random.default_rng(6)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 20_000))), rng.uniform(-180, 180, 20_000)
    assert (again.contains(lat, lon) != region.contains(lat, lon)).mean() < 1e-3
    rest = Region.geojson(json.loads(json.dumps((~region).to_geojson())))
    assert (rest.contains(lat, lon) == region.contains(lat, lon)).mean() < 1e-3


def test_regions_of_the_same_cells_are_equal_however_they_are_given() -> None:
    parent = s2.from_tokens(["47e5a7"])
    assert Region.of_cells(parent) == Region.of_cells(s2.children(parent)[:, ::-1])
    assert hash(Region.of_cells(parent)) == hash(Region.of_cells(s2.children(parent)))
    assert Region.of_cells(parent) != Region.of_cells(s2.children(parent).ravel()[:3])


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([], "no cells"),
        ([5 << 60, 0, 7 << 61], "'X'"),
        ([(1 << 60), (1 << 60) + 2], "'1000000000000002'"),
        ([7 << 61], "'e'"),
        ([-1], "64-bit ids"),
        (["47e5"], "64-bit ids"),
    ],
)
def test_what_is_no_cell_is_named(ids: list[int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Region.of_cells(ids)
