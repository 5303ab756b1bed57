import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cellcode.geography import distance, s2
from cellcode.model.prototypes.whole import Prototypes
from cellcode.types import Float64, Ids

LEVEL = 16  # cells of about 150 m
PARIS = (48.85, 2.35)
CUBE_CORNER = (math.degrees(math.atan(1 / math.sqrt(2))), 45.0)


def _around(lat_deg: float, lon_deg: float, reach_m: float = 600.0) -> Ids:
    """All cells within a square around a point."""
    steps = np.arange(-reach_m, reach_m + 1, 40.0)
    east_m, north_m = (a.ravel() for a in np.meshgrid(steps, steps))
    return np.unique(s2.cell_ids(*distance.offset(lat_deg, lon_deg, east_m, north_m), LEVEL))


def _prototypes(ids: Ids, radius_cells: float = 1.2, dim: int = 64) -> Prototypes:
    torch.manual_seed(0)
    return Prototypes(ids, dim, radius_cells)


def _positions(lat_deg: float, lon_deg: float, count: int = 40, reach_m: float = 250.0) -> tuple[Float64, Float64]:
    move = np.random.default_rng(0).uniform(-reach_m, reach_m, (2, count))
    return distance.offset(lat_deg, lon_deg, move[0], move[1])


def _by_cell(prototypes: Prototypes, rows: Tensor, weights: Tensor) -> list[dict[int, float]]:
    """Weights of each position by cell id, those of 0 left out; adds up what is given twice."""
    found = []
    for some_rows, some_weights in zip(rows.tolist(), weights.tolist(), strict=True):
        cells: dict[int, float] = {}
        for row, weight in zip(some_rows, some_weights, strict=True):
            if weight:
                cells[int(prototypes.ids[row])] = cells.get(int(prototypes.ids[row]), 0) + weight
        found.append(cells)
    return found


def _kernel(ids: Ids, lat_deg: float, lon_deg: float, radius_cells: float) -> dict[int, float]:
    """The definition over the whole table. It needs no neighbourhood: below 1.2 cells none but neighbours are so near."""
    assert radius_cells <= 1.2
    own = s2.cell_ids(lat_deg, lon_deg, LEVEL)
    (own_lat,), (own_lon,) = s2.cell_centers(own)
    beside = zip(*s2.cell_centers(s2.edge_neighbors(own)), strict=True)
    widths_m = [float(distance.haversine_m(own_lat, own_lon, *centre)) for centre in beside]
    radius_m = radius_cells * sum(widths_m) / 4
    weights = {}
    for cell, lat, lon in zip(ids.tolist(), *s2.cell_centers(ids), strict=True):
        apart_m = float(distance.haversine_m(lat_deg, lon_deg, lat, lon))
        if apart_m < radius_m:
            weights[cell] = (1 - (apart_m / radius_m) ** 2) ** 2
    total = sum(weights.values())
    return {cell: weight / total for cell, weight in weights.items()}


def test_lookup_finds_every_cell_and_no_other() -> None:
    ids = _around(*PARIS)
    known = ids[::2]
    rows = _prototypes(known).lookup(ids)
    assert (rows[::2] == np.arange(len(known))).all()
    assert (rows[1::2] == -1).all()


def test_lookup_keeps_the_shape_of_what_it_is_asked() -> None:
    ids = _around(*PARIS)[:12]
    rows = _prototypes(ids).lookup(ids.reshape(3, 4))
    np.testing.assert_array_equal(rows, np.arange(12).reshape(3, 4))


@pytest.mark.parametrize("cell", [1, 2**64 - 1])
def test_lookup_of_ids_below_and_above_all_others(cell: int) -> None:
    assert _prototypes(_around(*PARIS)).lookup(np.array([cell], np.uint64)).tolist() == [-1]


def test_an_empty_table_knows_no_cell() -> None:
    prototypes = _prototypes(np.empty(0, np.uint64))
    assert prototypes.lookup(_around(*PARIS)[:3]).tolist() == [-1, -1, -1]
    assert prototypes.all().shape == (0, 64)


def test_the_level_is_that_of_the_cells() -> None:
    assert _prototypes(_around(*PARIS)).level == LEVEL


@pytest.mark.parametrize("place", [PARIS, (10.0, 180.0), (30.0, 45.0), CUBE_CORNER, (-80.0, 10.0)])
@pytest.mark.parametrize("radius_cells", [0.8, 1.0, 1.2])
def test_weights_are_the_kernel_of_the_definition(place: tuple[float, float], radius_cells: float) -> None:
    prototypes = _prototypes(_around(*place), radius_cells)
    lat, lon = _positions(*place)
    rows, weights = prototypes.neighbours(lat, lon)
    assert rows.shape == weights.shape == (len(lat), 9)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(lat)), atol=1e-5, rtol=0)
    for found, position in zip(_by_cell(prototypes, rows, weights), zip(lat, lon, strict=True), strict=True):
        expected = _kernel(prototypes.ids, *position, radius_cells)
        assert set(found) >= {cell for cell, weight in expected.items() if weight > 1e-6}
        for cell in found:
            assert found[cell] == pytest.approx(expected.get(cell, 0), abs=2e-6)


def test_the_cell_in_the_middle_of_which_one_stands_weighs_most() -> None:
    ids = _around(*PARIS)
    prototypes = _prototypes(ids)
    rows, weights = prototypes.neighbours(*s2.cell_centers(ids[30:40]))
    heaviest = rows.gather(1, weights.argmax(1, keepdim=True))[:, 0]
    np.testing.assert_array_equal(heaviest.numpy(), np.arange(30, 40))
    assert (weights.max(1).values > 0.6).all()


def test_a_radius_of_zero_takes_the_own_cell_alone() -> None:
    prototypes = _prototypes(_around(*PARIS), 0)
    lat, lon = _positions(*PARIS)
    rows, weights = prototypes.neighbours(lat, lon)
    own = s2.cell_ids(lat, lon, LEVEL)
    assert _by_cell(prototypes, rows, weights) == [{cell: 1.0} for cell in own.tolist()]
    taken = prototypes.interpolate(rows, weights)
    torch.testing.assert_close(taken, prototypes.all()[torch.from_numpy(prototypes.lookup(own))])


def test_missing_neighbours_leave_their_share_to_the_others() -> None:
    every = _around(*PARIS)
    some = every[np.random.default_rng(0).random(len(every)) < 0.6]
    prototypes = _prototypes(some, 1.2)
    lat, lon = _positions(*PARIS)
    found = _by_cell(prototypes, *prototypes.neighbours(lat, lon))
    for cells, position in zip(found, zip(lat, lon, strict=True), strict=True):
        assert cells == pytest.approx(_kernel(some, *position, 1.2), abs=2e-6)
        assert sum(cells.values()) == pytest.approx(1)


@pytest.mark.parametrize("radius_cells", [0, 1.2])
def test_far_from_every_prototype_all_weights_are_zero(radius_cells: float) -> None:
    prototypes = _prototypes(_around(*PARIS), radius_cells)
    rows, weights = prototypes.neighbours(np.array([0.0, 48.0]), np.array([0.0, -120.0]))
    assert (weights == 0).all()
    made = prototypes.interpolate(rows, weights)
    assert (made == 0).all()
    made.sum().backward()
    assert prototypes.weight.grad is not None
    assert (prototypes.weight.grad == 0).all()


def test_the_interpolated_prototype_is_the_weighted_mean_at_unit_length() -> None:
    prototypes = _prototypes(_around(*PARIS))
    with torch.no_grad():
        prototypes.weight *= torch.rand(len(prototypes.ids), 1) * 5 + 0.1  # lengths do not count
    rows, weights = prototypes.neighbours(*_positions(*PARIS))
    made = prototypes.interpolate(rows, weights).detach()
    for vector, some_rows, some_weights in zip(made, rows, weights, strict=True):
        total = torch.zeros(64)
        for row, weight in zip(some_rows.tolist(), some_weights.tolist(), strict=True):
            one = prototypes.weight[row].detach()
            total += weight * one / one.norm()
        torch.testing.assert_close(vector, total / total.norm())


def test_all_prototypes_have_unit_length() -> None:
    prototypes = _prototypes(_around(*PARIS))
    with torch.no_grad():
        prototypes.weight *= 3
    torch.testing.assert_close(prototypes.all().norm(dim=1), torch.ones(len(prototypes.ids)))


def test_gradients_reach_only_the_prototypes_that_were_used() -> None:
    prototypes = _prototypes(_around(*PARIS))
    rows, weights = prototypes.neighbours(*_positions(*PARIS, count=2, reach_m=50))
    used = np.unique(rows[weights > 0].numpy())
    assert 0 < len(used) < len(prototypes.ids) // 2
    direction = torch.randn(64, generator=torch.Generator().manual_seed(1))
    (prototypes.interpolate(rows, weights) @ direction).sum().backward()
    assert prototypes.weight.grad is not None
    np.testing.assert_array_equal(np.flatnonzero(prototypes.weight.grad.norm(dim=1).numpy()), used)


def _walk(place: tuple[float, float], bearing_deg: float, length_m: float, step_m: float) -> tuple[Float64, Float64]:
    along_m = np.arange(-length_m / 2, length_m / 2, step_m)
    bearing = math.radians(bearing_deg)
    return distance.offset(*place, along_m * math.sin(bearing), along_m * math.cos(bearing))


def _largest_change(prototypes: Prototypes, lat_deg: Float64, lon_deg: Float64) -> float:
    made = prototypes.interpolate(*prototypes.neighbours(lat_deg, lon_deg)).detach()
    assert (made[0] - made[-1]).norm() > 1  # the walk led to another place
    return float((made[1:] - made[:-1]).norm(dim=1).max())


# The last figure is what one step of 5 cm may change. Near an edge of the cube the lattice bends, so the kernel's radius
# changes by some per cent from one cell to the next; a jump between two prototypes would be 1.4.
@pytest.mark.parametrize(
    ("place", "bearing_deg", "faces", "limit"),
    [
        (PARIS, 90.0, {2}, 2e-3),
        (PARIS, 20.0, {2}, 2e-3),
        ((10.0, 180.0), 90.0, {3}, 2e-3),
        ((10.0, 180.0), 60.0, {3}, 2e-3),
        ((0.0, 45.0), 80.0, {0, 1}, 2e-3),
        ((30.0, 45.0), 80.0, {0, 1}, 0.04),
        ((45.0, 0.0), 10.0, {0, 2}, 2e-3),
        (CUBE_CORNER, 70.0, {0, 1, 2}, 0.08),
    ],
)
def test_walking_changes_the_interpolated_prototype_smoothly(
    place: tuple[float, float], bearing_deg: float, faces: set[int], limit: float
) -> None:
    prototypes = _prototypes(_around(*place))
    lat, lon = _walk(place, bearing_deg, 500.0, 0.05)
    crossed = s2.cell_ids(lat, lon, LEVEL)
    assert len(np.unique(crossed)) >= 4
    assert set((crossed >> np.uint64(61)).tolist()) <= faces
    assert len(set((crossed >> np.uint64(61)).tolist())) >= min(2, len(faces))
    assert _largest_change(prototypes, lat, lon) < limit
    alone = _prototypes(prototypes.ids, 0)
    assert _largest_change(alone, lat, lon) > 1  # without the kernel every border is a jump


def test_nothing_jumps_at_the_border_of_a_face_itself() -> None:
    """The two cells beside it mirror each other, so the kernel has the same radius on both sides."""
    north_m = np.linspace(-300, 300, 200)
    west = distance.offset(30.0, 45.0, np.full(200, -1e-3), north_m)
    east = distance.offset(30.0, 45.0, np.full(200, 1e-3), north_m)
    faces = [s2.cell_ids(*side, LEVEL) >> np.uint64(61) for side in (west, east)]
    assert (faces[0] == 0).all()
    assert (faces[1] == 1).all()
    prototypes = _prototypes(_around(30.0, 45.0))
    made = [prototypes.interpolate(*prototypes.neighbours(*side)).detach() for side in (west, east)]
    assert (made[0] - made[1]).norm(dim=1).max() < 1e-3


def test_the_sums_of_a_gradient_have_one_order() -> None:
    """As atomic additions of several threads they had another each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        prototypes = _prototypes(_around(*PARIS), dim=128)
        lat_deg, lon_deg = _positions(*PARIS, count=400)
        direction = torch.randn(400, 128)
        found = set()
        for _ in range(12):
            prototypes.zero_grad()
            near = prototypes.around(lat_deg, lon_deg, 0)
            (near.interpolate() * direction).sum().backward()
            assert prototypes.weight.grad is not None
            found.add(prototypes.weight.grad.numpy().tobytes())
        assert len(found) == 1
    finally:
        torch.set_num_threads(threads)
