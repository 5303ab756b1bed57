"""Cells of regions: against `contains` of all centres around them, and against the official library."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import s2geometry
import shapely

from cellcode.errors import InputError
from cellcode.geography import Region, s2
from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m
from cellcode.geography.regions import covering
from cellcode.geography.regions.polygon import EdgeSieve, PolygonArea
from cellcode.geography.s2 import ranges
from cellcode.types import Bools, Float64, Ids

Ring = list[list[float]]
PLACES = {
    "country": (52.0, 5.0),
    "equator": (0.01, -70.0),
    "edge of faces": (10.0, 45.0),
    "corner of faces": (float(np.rad2deg(np.arctan(np.sqrt(0.5)))), 45.0),
    "antimeridian": (-17.0, 180.0),
    "corner on the antimeridian's face": (-35.2, -135.1),
    "near the pole": (89.5, 20.0),
}


def _around(lat: float, lon: float, reach: float, count: int) -> tuple[Float64, Float64]:
    """A square grid of points, (count^2,), whose half side is `reach` radians, anywhere on the Earth."""
    phi, theta = np.deg2rad([lat, lon])
    middle = np.array([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)])
    east = np.array([-np.sin(theta), np.cos(theta), 0])
    x, y = (a.ravel()[:, None] for a in np.meshgrid(*2 * [np.tan(np.linspace(-reach, reach, count))]))
    point = middle + x * east + y * np.cross(middle, east)
    return np.rad2deg(np.arctan2(point[:, 2], np.hypot(point[:, 0], point[:, 1]))), np.rad2deg(
        np.arctan2(point[:, 1], point[:, 0])
    )


def _edge(level: int) -> float:
    """A typical edge of a cell in degrees."""
    return float(np.rad2deg(np.sqrt(4 * np.pi / 6)) / 2**level)


def _wiggly(lat: float, lon: float, radius: float, count: int, seed: int) -> Ring:
    """A star-shaped ring of about `radius` degrees."""
    rng = np.random.default_rng(seed)
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    away = radius * (0.85 + 0.1 * np.sin(5 * turn) + rng.uniform(-0.05, 0.05, count))
    stretch = 1 / np.cos(np.deg2rad(lat))
    ring = np.stack([lon + away * np.cos(turn) * stretch, lat + away * np.sin(turn)], axis=1).tolist()
    return [*ring, ring[0]]


def _polygon(*rings: Ring) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def _box(lat: float, lon: float, radius: float) -> Region:
    half = 0.7 * radius / np.cos(np.deg2rad(lat))
    west, east = ((x + 180) % 360 - 180 for x in (lon - half, lon + half))
    return Region.bbox(west, lat - 0.7 * radius, east, lat + 0.6 * radius)


def _holed(lat: float, lon: float, radius: float) -> Region:
    return Region.geojson(
        _polygon(_wiggly(lat, lon, radius, 60, seed=1), _wiggly(lat + 0.05 * radius, lon, 0.5 * radius, 20, seed=2))
    )


def _islands(lat: float, lon: float, radius: float) -> Region:
    stretch = 1 / np.cos(np.deg2rad(lat))
    parts = [
        [_wiggly(lat + north * radius, lon + east * radius * stretch, 0.35 * radius, 30, seed=3)]
        for north, east in itertools.product((-0.5, 0.45), (-0.5, 0.5))
    ]
    return Region.geojson({"type": "MultiPolygon", "coordinates": parts})


def _cap(lat: float, lon: float, radius: float) -> Region:
    return Region.cap(lat, lon, float(np.deg2rad(radius)) * EARTH_RADIUS_M)


def _cells(lat: float, lon: float, radius: float) -> Region:
    level = int(np.clip(np.log2(_edge(0) / radius), 0, 28))
    points = _around(lat, lon, float(np.deg2rad(0.5 * radius)), 6)
    mixed = [s2.cell_ids(*(axis[k :: len(points[0]) // 3] for axis in points), level + 1 + k) for k in range(2)]
    return Region.of_cells(np.unique(np.concatenate(mixed)))


SHAPES: dict[str, Callable[[float, float, float], Region]] = {
    "box": _box,
    "holed": _holed,
    "islands": _islands,
    "cap": _cap,
    "cells": _cells,
}


def _check_ranges(got: Ids, level: int) -> None:
    bit = np.uint64(1 << 2 * (30 - level))
    assert got.dtype == np.uint64
    assert got.ndim == 2
    assert (s2.levels(got.ravel()) == level).all()
    assert s2.is_valid(got.ravel()).all()
    assert (got[:, 0] <= got[:, 1]).all()
    assert (got[1:, 0] > got[:-1, 1] + np.uint64(2) * bit).all(), "sorted, disjoint and merged"


def _in(ids: Ids, wanted: Ids) -> Bools:
    row = np.searchsorted(wanted[:, 0], ids, side="right") - 1
    return (row >= 0) & (ids <= wanted[row, 1])


def _check(region: Region, candidates: Ids, level: int) -> None:
    """The candidates hold all cells of the region, and some beside it."""
    inside = region.contains(*s2.cell_centers(candidates))
    assert inside.any()
    got = region.ranges(level)
    _check_ranges(got, level)
    np.testing.assert_array_equal(ranges.expand(got, level), candidates[inside])
    np.testing.assert_array_equal(region.cells(level), candidates[inside])
    assert region.complement().complement() == region
    rest = region.complement()
    if ranges.count(got, level) == 6 * 4**level:
        with pytest.raises(InputError, match="no cell of level"):
            rest.ranges(level)
        return
    _check_ranges(rest.ranges(level), level)
    np.testing.assert_array_equal(_in(candidates, rest.ranges(level)), ~inside)
    np.testing.assert_array_equal(rest.contains(*s2.cell_centers(candidates)), ~inside)
    assert ranges.count(got, level) + ranges.count(rest.ranges(level), level) == 6 * 4**level


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ranges_hold_exactly_the_cells_with_their_centre_inside(shape: str, place: str) -> None:
    for level, across in [(8, 12), (12, 20), (16, 30), (20, 20), (26, 10)]:
        radius = 0.5 * across * _edge(level)
        if abs(PLACES[place][0]) + 3 * radius > 90:
            continue
        region = SHAPES[shape](*PLACES[place], radius)
        # Points closer than the smallest cell is wide, around the region with a margin.
        points = _around(*PLACES[place], float(np.deg2rad(3 * radius)), 10 * across)
        _check(region, np.unique(s2.cell_ids(*points, level)), level)


def _pole_ring(pole: int, radius: float, wave: float = 0.0) -> Ring:
    lons = np.arange(-180.0, 181, 15)
    lats = pole * (90 - radius * (1 + wave * np.sin(np.deg2rad(3 * lons))))
    return np.stack([lons, lats], axis=1).tolist()


@pytest.mark.parametrize("pole", [1, -1])
@pytest.mark.parametrize("level", [8, 13, 20])
def test_ranges_over_a_pole_hold_exactly_the_cells_with_their_centre_inside(level: int, pole: int) -> None:
    radius = 15 * _edge(level)
    box = sorted([pole * 90.0, pole * (90 - radius)])
    hole = np.array([[10, -0.7], [60, -0.7], [60, -0.2], [10, -0.2], [10, -0.7]]) * [1, pole * radius] + [0, pole * 90]
    regions = [
        Region.bbox(10, box[0], 100, box[1]),
        Region.bbox(100, box[0], -100, box[1]),
        Region.bbox(-180, box[0], 180, box[1]),
        Region.geojson(_polygon(_pole_ring(pole, radius, 0.3))),
        Region.geojson(_polygon(_pole_ring(pole, radius), hole.tolist())),
        _cap(pole * 90.0, 0.0, radius),
        _cap(pole * (90 - 0.5 * radius), 77.0, radius),
        Region.of_cells(s2.cell_ids([pole * 90.0] * 4, [45.0, 135.0, -45.0, -135.0], level - 4)),
    ]
    candidates = np.unique(s2.cell_ids(*_around(pole * 90.0, 0.0, float(np.deg2rad(1.7 * radius)), 180), level))
    for region in regions:
        _check(region, candidates, level)


def test_ranges_of_huge_regions_hold_exactly_the_cells_with_their_centre_inside() -> None:
    slanting = [[-30.0, -20.0], [100.0, 10.0], [60.0, 80.0], [-30.0, -20.0]]
    regions = [
        Region.bbox(-100, -35, 120, 70),
        Region.bbox(100, -80, -100, 85),
        Region.geojson(_polygon(slanting)),
        Region.geojson(_polygon(_pole_ring(1, 80.0), _pole_ring(1, 20.0))),
        Region.cap(30, 179, 4_000_000),
        Region.cap(80, -50, 3_000_000),
        Region.cap(0, 0, 19_000_000),
        Region.cap(-35, 45, 9_000_000),
        Region.of_cells(s2.from_tokens(["1", "3", "47e4", "47e5a7", "9", "b4"])),
    ]
    for region, level in itertools.product(regions, (1, 4, 7)):
        everything = ranges.expand(ranges.complement(ranges.empty(), level), level)
        _check(region, everything, level)


def test_the_whole_earth_is_one_range_and_its_complement_is_refused() -> None:
    half = np.pi * EARTH_RADIUS_M
    faces = Region.of_cells(np.array([(2 * face + 1) << 60 for face in range(6)], np.uint64))
    for region, level in itertools.product(
        (Region.bbox(-180, -90, 180, 90), Region.cap(1, 2, half), faces), (0, 9, 30)
    ):
        assert region.ranges(level).tolist() == [[1 << 2 * (30 - level), (6 << 61) - (1 << 2 * (30 - level))]]
        with pytest.raises(InputError, match=f"no cell of level {level}"):
            region.complement().ranges(level)


def test_ranges_of_random_caps_hold_exactly_the_cells_with_their_centre_inside() -> None:
    rng = np.random.default_rng(11)
    corner = np.rad2deg(np.arctan(np.sqrt(0.5)))
    for number in range(150):
        level, across = int(rng.integers(3, 25)), rng.uniform(3, 30)
        if number % 3:
            lat, lon = float(np.rad2deg(np.arcsin(rng.uniform(-1, 1)))), float(rng.uniform(-180, 180))
        else:  # a few cells from a corner of the cube
            away = rng.normal(0, 10, 2) * _edge(level)
            lat, lon = corner * rng.choice([-1, 1]) + away[0], rng.choice([-135, -45, 45, 135]) + away[1]
        radius = 0.5 * across * _edge(level)
        if radius > 25 or not (abs(lat) <= 90 and abs(lon) <= 180):
            continue
        region = _cap(float(lat), float(lon), radius)
        points = _around(float(lat), float(lon), float(np.deg2rad(1.5 * radius)), 4 * int(across + 6))
        candidates = np.unique(s2.cell_ids(*points, level))
        inside = region.contains(*s2.cell_centers(candidates))
        np.testing.assert_array_equal(region.cells(level), candidates[inside])


def test_centres_a_hair_from_the_circle_are_on_the_same_side_for_all() -> None:
    """Radii that are the distance of a centre, and one step of rounding beside it."""
    candidates = np.unique(s2.cell_ids(*_around(48.0, 2.0, 2e-3, 120), 14))
    lat, lon = s2.cell_centers(candidates)
    distances = haversine_m(48.0, 2.0, lat, lon)
    for distance in distances[distances < 9000][::20]:
        for radius in (np.nextafter(distance, 0), distance, np.nextafter(distance, np.inf)):
            region = Region.cap(48.0, 2.0, float(radius))
            np.testing.assert_array_equal(region.cells(14), candidates[region.contains(lat, lon)])


def test_cost_follows_the_boundary_not_the_area() -> None:
    asked = 0

    class Counting:
        def __init__(self, area: Any) -> None:
            self._sieve = area

        def sort(self, cells: covering.Cells) -> Any:
            nonlocal asked
            asked += len(cells.ids)
            return self._sieve.sort(cells)

        def holds(self, cells: covering.Cells) -> Any:
            nonlocal asked
            asked += len(cells.ids)
            return self._sieve.holds(cells)

    region = Region.geojson(_polygon(_wiggly(52.0, 5.0, 1.6, 400, seed=5)))
    found = ranges.count(covering.cover(Counting(EdgeSieve(PolygonArea(region.shape))), 16), 16)
    assert found > 2_000_000
    assert asked < found / 20


def test_a_region_smaller_than_a_cell_has_no_ranges() -> None:
    lat, lon = (float(value[0]) for value in s2.cell_centers(s2.cell_ids(48.0, 2.0, 10)))
    for region in (
        Region.bbox(lon + 0.001, lat + 0.001, lon + 0.002, lat + 0.002),
        Region.cap(lat + 0.01, lon, 100),
        Region.of_cells(s2.cell_ids(lat + 0.01, lon, 16)),
    ):
        for ask in (region.ranges, region.cells):
            with pytest.raises(InputError, match="no cell of level 10"):
                ask(10)
        assert len(region.cells(20)) > 0


def test_a_boundary_of_too_many_cells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covering, "MAX_BOUNDARY", 4000)
    region = _box(52.0, 5.0, 1.0)
    assert len(region.ranges(10)) > 0
    with pytest.raises(InputError, match="boundary of the region"):
        region.ranges(18)


def test_shapes_in_collections_and_empty_ones_are_handled() -> None:
    box, far = shapely.box(2, 48, 2.5, 48.3), shapely.box(3, 48, 3.1, 48.1)
    nested = shapely.GeometryCollection([shapely.GeometryCollection([box]), far, shapely.Point(10, 10)])
    flat = Region(shapely.union_all([box, far]))
    np.testing.assert_array_equal(Region(nested).ranges(14), flat.ranges(14))
    with pytest.raises(InputError, match="no cell of level 14"):
        Region(shapely.Polygon()).ranges(14)


# The official library as oracle: its edges are geodesics, so every edge is given to it in many short pieces.


def _official_loop(ring: Ring, step_deg: float) -> s2geometry.S2Loop:
    points = []
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        pieces = max(32, int(np.hypot(x1 - x0, y1 - y0) / step_deg))
        for k in range(pieces):
            lat, lon = y0 + (y1 - y0) * k / pieces, x0 + (x1 - x0) * k / pieces
            points.append(s2geometry.S2LatLng.FromDegrees(lat, lon).Normalized().ToPoint())
    loop = s2geometry.S2Loop()
    loop.Init(points)
    assert loop.IsValid()
    loop.Normalize()
    return loop


def _official_ranges(polygon: s2geometry.S2Polygon, level: int) -> Ids:
    found: list[tuple[int, int]] = []
    waiting = [s2geometry.S2CellId.FromFacePosLevel(face, 0, 0) for face in range(6)]
    while waiting:
        cell = waiting.pop()
        if cell.level() == level:
            if polygon.Contains(cell.ToPoint()):
                found.append((cell.id(), cell.id()))
            continue
        square = s2geometry.S2Cell(cell)
        if not polygon.MayIntersect(square):
            continue
        if polygon.Contains(square):
            bit = 1 << 2 * (30 - level)
            found.append((cell.range_min().id() - 1 + bit, cell.range_max().id() + 1 - bit))
            continue
        waiting.extend(cell.child(k) for k in range(4))
    return ranges.join(np.array(found, np.uint64).reshape(-1, 2), level)


COUNTRY = _polygon(_wiggly(52.0, 5.0, 1.6, 1000, seed=7))
HOLED = _polygon(_wiggly(48.0, 2.0, 0.3, 80, seed=8), _wiggly(48.0, 2.0, 0.1, 30, seed=9))
ISLANDS = {"type": "MultiPolygon", "coordinates": [HOLED["coordinates"], [_wiggly(48.5, 3.0, 0.2, 50, seed=10)]]}
SEAM = _polygon(_wiggly(-17.0, 180.0, 0.5, 100, seed=11))
POLE = _polygon(_pole_ring(-1, 12.0, 0.3))


@pytest.mark.parametrize(
    ("value", "level", "step_deg"),
    [
        pytest.param(COUNTRY, 16, 1.0, id="country of 1000 vertices"),
        pytest.param(HOLED, 17, 0.001, id="hole"),
        pytest.param(ISLANDS, 16, 0.001, id="islands"),
        pytest.param(SEAM, 16, 0.001, id="antimeridian"),
        pytest.param(POLE, 12, 0.005, id="pole"),
    ],
)
def test_ranges_of_polygons_are_the_official_ones(value: dict[str, Any], level: int, step_deg: float) -> None:
    polygons = value["coordinates"] if value["type"] == "MultiPolygon" else [value["coordinates"]]
    official = s2geometry.S2Polygon()
    official.InitNested([_official_loop(ring, step_deg) for rings in polygons for ring in rings])
    got = Region.geojson(value).ranges(level)
    np.testing.assert_array_equal(got, _official_ranges(official, level))
