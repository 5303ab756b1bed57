"""The survey of the benchmark region: what a table of the paper needs to be filled.

Training photos as in `survey`, dense in town and sparse to absent in the country, on all dates but the last. Test and
validation photos in small reserved blocks, some of them in withheld level-15 cells, and in cells that training never
visits, half of them on the last date; a held-out square where photos are taken for the test of cross area alone; and walks
of a few steps.
"""

from dataclasses import fields

import numpy as np

from cellcode.errors import UsageError
from cellcode.geography import Region, s2
from cellcode.simulation.noise import uniform
from cellcode.simulation.overhead import outline, to_degrees
from cellcode.simulation.scene import PHOTO_DAYS
from cellcode.simulation.survey import (
    DEVICES,
    LEVEL,
    Survey,
    cameras,
    candidates,
    draw,
    in_area,
    in_block,
    ordinary_days,
    popularity,
)
from cellcode.simulation.world import World
from cellcode.types import Bools, Float64, Ids, Int64

SHARES = {"test": 0.105, "validation": 0.045, "cross": 0.02, "walks": 0.03}  # of all photos; the rest is training
BLOCKS = {"test": (0.0, 0.06), "validation": (0.06, 0.085)}  # of small blocks
WITHHELD_AREAS = 0.05  # of level-15 cells: training takes no photos there
UNVISITED_TEST_SHARE = 0.7  # of cells that training never visits, the others are for validation
EVEN_SHARE = 0.25  # of test photos are spread evenly over cells, the others where people take photos
HELD_OUT = (0.50, 0.28, 0.70, 0.48)  # west, north, east, south as shares of the world's edge
HELD_OUT_MARGIN_M = 150.0  # of the cross test's photos from the square's border; less in a small world
LAST_DATE_SHARE = 0.5
STEPS, STEP_M, SNAP_M = 8, 30.0, 9.0
WALK_BLOCK_M = 30  # training takes no photos in blocks of this size that a walk crosses


def make_benchmark_survey(world: World, photos: int) -> Survey:
    """Choose positions, dates and cameras; deterministic in the world's seed.

    Raises:
        UsageError: the world is too small for so many photos.
    """
    rng = np.random.default_rng([world.seed, 30])
    x, y = candidates(world, max(60 * photos, 20_000), rng)
    lat, lon = to_degrees(world.size_m, x, y)
    distinct, cell, count = np.unique(s2.cell_ids(lat, lon, LEVEL), return_inverse=True, return_counts=True)
    popular = popularity(world, distinct, cell, x, y)
    square, cross = _held_out(world, x, y, 0), _held_out(world, x, y, min(HELD_OUT_MARGIN_M, 0.02 * world.size_m))
    unvisited = popular[cell] == 0
    kept_for = uniform(world.seed + 105, distinct & np.uint64(0xFFFFFFFF), distinct >> np.uint64(32))[cell]
    pools = {
        name: ~square
        & (in_block(world, x, y, *BLOCKS[name]) | (unvisited & ((kept_for < UNVISITED_TEST_SHARE) == (name == "test"))))
        for name in ("test", "validation")
    }
    steps, walk = _walks(world, x, y, ~square, round(photos * SHARES["walks"] / STEPS), rng)
    reserved = pools["test"] | pools["validation"] | square | _near_walks(world, x, y, steps)
    reserved |= in_area(world, distinct, 0, WITHHELD_AREAS)[cell]
    chosen = {"walks": steps}
    chosen["train"] = draw(np.where(reserved, 0, popular[cell] / count[cell]), _count(photos, "train"), world, rng)
    even = 1.0 / count[cell]
    for name, pool in (*pools.items(), ("cross", cross)):
        usual = np.where(pool, popular[cell] / count[cell], 0)
        spread = np.where(pool, even, 0)
        chance = (1 - EVEN_SHARE) * usual / max(usual.sum(), 1e-12) + EVEN_SHARE * spread / max(spread.sum(), 1e-12)
        chosen[name] = draw(chance, _count(photos, name), world, rng)
    parts = [
        _part(world, name, rows, x[rows], y[rows], lat[rows], lon[rows], distinct[cell[rows]], walk, rng)
        for name, rows in chosen.items()
    ]
    return _joined(parts)


def held_out(size_m: int) -> Region:
    """Return the square of a world where photos are taken for the test of cross area alone."""
    return outline(size_m, HELD_OUT)


def _count(photos: int, name: str) -> int:
    walked = round(photos * SHARES["walks"] / STEPS) * STEPS
    others = {part: round(photos * SHARES[part]) for part in ("test", "validation", "cross")}
    return others[name] if name in others else photos - walked - sum(others.values())


def _held_out(world: World, x: Float64, y: Float64, margin_m: float) -> Bools:
    west, north, east, south = (share * world.size_m for share in HELD_OUT)
    inside = (x > west + margin_m) & (x < east - margin_m) & (y > north + margin_m) & (y < south - margin_m)
    return np.asarray(inside)


def _walks(
    world: World, x: Float64, y: Float64, allowed: Bools, count: int, rng: np.random.Generator
) -> tuple[Int64, Int64]:
    """Draw walks of STEPS photos STEP_M apart along streets; rows of candidates and the walk of each."""
    # Candidates by squares of SNAP_M: the point looked for lies in one of nine squares.
    squares: dict[tuple[int, int], int] = {}
    usable = np.flatnonzero(allowed)
    for row, i, j in zip(
        usable.tolist(), (x[usable] // SNAP_M).astype(int), (y[usable] // SNAP_M).astype(int), strict=True
    ):
        squares.setdefault((int(i), int(j)), row)
    walks: list[list[int]] = []
    for start in rng.permutation(usable).tolist():
        if len(walks) == count:
            break
        steps = _walk(squares, x, y, start, rng)
        if len(steps) == STEPS:
            walks.append(steps)
    if len(walks) < count:
        raise UsageError(f"a world of {world.size_m / 1000:g} km has no room for {count} walks; take fewer photos")
    return np.array(walks, np.int64).ravel(), np.repeat(np.arange(count), STEPS)


def _walk(
    squares: dict[tuple[int, int], int], x: Float64, y: Float64, start: int, rng: np.random.Generator
) -> list[int]:
    """Go straight on where the street does, else turn as little as possible."""
    steps, heading = [start], float(rng.uniform(0, 2 * np.pi))
    while len(steps) < STEPS:
        for turn in (0.0, 0.3, -0.3, 0.6, -0.6, 1.2, -1.2, 1.6, -1.6):
            angle = heading + turn
            ahead_x, ahead_y = x[steps[-1]] + STEP_M * np.cos(angle), y[steps[-1]] + STEP_M * np.sin(angle)
            found = squares.get((int(ahead_x // SNAP_M), int(ahead_y // SNAP_M)))
            if found is not None and found not in steps:
                steps.append(found)
                heading = angle
                break
        else:
            return steps
    return steps


def _near_walks(world: World, x: Float64, y: Float64, steps: Int64) -> Bools:
    blocks = -(-world.size_m // WALK_BLOCK_M)
    crossed = np.zeros((blocks, blocks), bool)
    at = (y // WALK_BLOCK_M).astype(int), (x // WALK_BLOCK_M).astype(int)
    crossed[at[0][steps], at[1][steps]] = True
    return np.asarray(crossed[at])


def _part(
    world: World,
    name: str,
    rows: Int64,
    x: Float64,
    y: Float64,
    lat_deg: Float64,
    lon_deg: Float64,
    cells: Ids,
    walk: Int64,
    rng: np.random.Generator,
) -> Survey:
    """Give photos of one purpose their dates and cameras."""
    last, count = len(PHOTO_DAYS) - 1, len(rows)
    if name == "train":
        day = ordinary_days(world, cells, rng)
    elif name == "walks":
        day = rng.integers(0, last + 1, walk.max() + 1 if count else 0)[walk]
    else:
        day = np.where(rng.random(count) < LAST_DATE_SHARE, last, rng.integers(0, last, count))
    return Survey(
        views=cameras(world, x, y, rng),
        lat_deg=lat_deg,
        lon_deg=lon_deg,
        day=day,
        device=rng.integers(0, DEVICES, count),
        split=np.full(count, name if name in ("train", "validation") else "test"),
        walk=walk if name == "walks" else np.full(count, -1),
        land_use=world.land_use(x, y),
    )


def _joined(parts: list[Survey]) -> Survey:
    views = type(parts[0].views)(
        **{name: np.concatenate([getattr(part.views, name) for part in parts]) for name in vars(parts[0].views)}
    )
    rest = [field.name for field in fields(Survey) if field.name != "views"]
    return Survey(views=views, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in rest})
