"""The renderer against geometry that can be worked out by hand: one wall on an empty plain."""

from dataclasses import replace

import numpy as np
import pytest

from cellcode.simulation.ground import DISTANCES_M, HEIGHT_PX, WIDTH_PX, Views, _first_hits, _rays, render
from cellcode.simulation.look import Material
from cellcode.simulation.scene import PHOTO_DAYS, Scene, make_scene
from cellcode.simulation.world import make_world


def _plain_with_wall(wall_m: float) -> Scene:
    """Flat asphalt; a wall of 10 m that starts `wall_m` north of the camera at (256, 400)."""
    scene = make_scene(make_world(512, 0), PHOTO_DAYS[1])
    height = np.zeros((512, 512), np.float32)
    height[: 400 - int(wall_m)] = 10
    material = np.full((512, 512), Material.ASPHALT, np.uint8)
    material[height > 0] = Material.BUILDING
    return replace(scene, height_m=height, eaves_m=height, material=material)


def _view(heading_deg: float, fov_deg: float = 90.0) -> Views:
    one = np.ones(1)
    return Views(
        x_m=256 * one, y_m=400 * one, heading_deg=heading_deg * one, fov_deg=fov_deg * one, camera_m=2 * one,
        pitch_deg=0 * one, roll_deg=0 * one, exposure=one, white_balance=np.ones((1, 3)), noise=0 * one,
        seed=np.array([4]),
    )  # fmt: skip


@pytest.mark.parametrize("wall_m", [10, 20, 40, 100])
def test_a_wall_rises_to_the_row_that_perspective_gives(wall_m: float) -> None:
    views = _view(0)
    rays = _rays(views)
    index = _first_hits(_plain_with_wall(wall_m), views, rays)[0]
    focal = (WIDTH_PX / 2) / np.tan(np.radians(45))
    expected = HEIGHT_PX / 2 - focal * (10 - 2) / wall_m
    middle = index[:, WIDTH_PX // 2]
    top = int(np.argmax(middle < len(DISTANCES_M)))
    # A sample lies up to 3.5 % behind the wall's face, plus the metre of the raster.
    assert expected - 1 <= top <= expected + 1 + focal * 8 / wall_m * (0.035 + 1 / wall_m)


def test_the_wall_is_seen_only_when_looking_at_it() -> None:
    scene = _plain_with_wall(15)
    north, south = (_first_hits(scene, _view(h), _rays(_view(h)))[0] for h in (0.0, 180.0))
    above_horizon = slice(0, HEIGHT_PX // 2 - 2)
    assert (north[above_horizon] < len(DISTANCES_M)).mean() > 0.5
    assert (south[above_horizon] == len(DISTANCES_M)).all()


def test_heading_turns_clockwise_from_north() -> None:
    """Looking east, the wall in the north fills the left of the picture."""
    scene = _plain_with_wall(6)
    index = _first_hits(scene, _view(90.0), _rays(_view(90.0)))[0]
    solid = index[HEIGHT_PX // 2 - 4] < len(DISTANCES_M)
    assert solid[:8].all()
    assert not solid[WIDTH_PX // 2 :].any()


def test_a_narrow_field_of_view_magnifies() -> None:
    scene = _plain_with_wall(40)
    tops = []
    for fov in (60.0, 110.0):
        index = _first_hits(scene, _view(0, fov), _rays(_view(0, fov)))[0]
        tops.append(int(np.argmax(index[:, WIDTH_PX // 2] < len(DISTANCES_M))))
    assert tops[0] < tops[1]


def test_exposure_and_white_balance_scale_the_picture() -> None:
    scene = _plain_with_wall(30)
    plain = _view(0)
    dim = replace(plain, exposure=np.array([0.5]), white_balance=np.array([[1.0, 0.8, 1.0]]))
    bright, dark = render(scene, plain)[0].astype(float), render(scene, dim)[0].astype(float)
    unclipped = bright.max(axis=2) < 250
    assert np.median(dark[unclipped][:, 0] / np.maximum(bright[unclipped][:, 0], 1)) == pytest.approx(0.5, abs=0.02)
    assert np.median(dark[unclipped][:, 1] / np.maximum(bright[unclipped][:, 1], 1)) == pytest.approx(0.4, abs=0.02)


def test_up_to_three_occluders_stand_in_front_and_never_behind_a_near_wall() -> None:
    """With a wall two metres away nothing can stand before it; on a plain some photos show occluders."""
    near, far = _plain_with_wall(2), _plain_with_wall(300)
    changed_near = changed_far = 0
    for seed in range(12):
        with_seed = replace(_view(0), seed=np.array([seed]))
        first = replace(_view(0), seed=np.array([1000 + seed]))
        changed_near += int((render(near, with_seed) != render(near, first)).any())
        changed_far += int((render(far, with_seed) != render(far, first)).any())
    assert changed_near == 0
    assert changed_far > 6
