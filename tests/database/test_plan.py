from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cellcode.database.building.plan import bounds, choose, has_prototype
from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges
from cellcode.runs import Run


@pytest.mark.parametrize(
    ("box", "level"),
    [
        ((3.0, 52.0, 3.3, 52.1), 16),
        ((179.9, -17.0, -179.8, -16.8), 14),
        ((-0.1, -0.1, 0.1, 0.1), 15),
        ((170.0, 60.0, -150.0, 70.0), 8),
    ],
)
@pytest.mark.parametrize("block", [100, 65536])
def test_bounds_hold_every_corner_and_no_more(box: tuple[float, ...], level: int, block: int) -> None:
    west, south, east, north = box
    ids = Region.bbox(west, south, east, north).cells(level)
    found = bounds(ids, block)
    corners = s2.cell_polygons(ids)
    # Degrees east of a meridian that no cell meets.
    turned = (corners[..., 1] - (west - 5)) % 360
    assert (found[0] - (west - 5)) % 360 == pytest.approx(turned.min())
    assert (found[2] - (west - 5)) % 360 == pytest.approx(turned.max())
    assert (found[1], found[3]) == pytest.approx((corners[..., 0].min(), corners[..., 0].max()))
    assert (found[0] > found[2]) == (west > east)


def test_bounds_of_one_cell_are_its_own() -> None:
    ids = s2.cell_ids(np.array([52.0]), np.array([3.0]), 16)
    corners = s2.cell_polygons(ids)[0]
    found = bounds(ids)
    assert found == pytest.approx((corners[:, 1].min(), corners[:, 0].min(), corners[:, 1].max(), corners[:, 0].max()))


def test_bounds_of_the_whole_earth() -> None:
    ids = ranges.expand(ranges.complement(ranges.empty(), 4), 4)
    assert len(ids) == 6 * 4**4
    west, south, east, north = bounds(ids)
    assert (west, east) == (-180, 180)
    assert south < -85
    assert north > 85


@pytest.mark.parametrize("depth", [1, 3, 12])
def test_the_shards_of_a_plan_hold_each_cell_once(wide_run: Run, depth: int) -> None:
    rule = wide_run.config.build.model_copy(update={"shard_depth": depth})
    run = replace(wide_run, config=wide_run.config.model_copy(update={"build": rule}))
    region = Region.cap(52.05, 3.1, 2500)
    plan = choose(run, None, region)
    parts = [plan.cells(shard) for shard in plan.shards]
    cells = region.cells(16)
    cells = cells[has_prototype(run, cells)]  # without imagery the others cannot have a code
    np.testing.assert_array_equal(np.concatenate(parts), cells)
    assert plan.total == len(cells)
    assert (s2.levels(plan.shards) == 16 - depth).all()
    for shard, part in zip(plan.shards, parts, strict=True):
        assert 0 < len(part) <= 4**depth
        assert (s2.parents(part, 16 - depth) == shard).all()


def test_a_plan_is_told_from_another_by_cells_and_shards(wide_run: Run) -> None:
    one, same, other = (choose(wide_run, None, Region.cap(52.05, 3.1, radius)) for radius in (900, 900, 1000))
    assert one.digest == same.digest != other.digest
