"""Cuts of rendered panoramas: marks of known directions are looked for in them by the definition of a pinhole camera."""

import math

import numpy as np
import pytest
from PIL import Image

from cellcode.errors import UsageError
from cellcode.photos.reading.panorama import Area, PanoramaRule, cut, headings_shown
from cellcode.types import Float64, UInt8


def _direction(heading_deg: float, elevation_deg: float) -> Float64:
    """Unit vector (east, north, up)."""
    heading, elevation = math.radians(heading_deg), math.radians(elevation_deg)
    flat = math.cos(elevation)
    return np.array([flat * math.sin(heading), flat * math.cos(heading), math.sin(elevation)])


def _turned(vector: Float64, axis: Float64, degrees: float) -> Float64:
    """Rodrigues' formula: the right hand's thumb along the axis, the vector turns with its fingers."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return vector * cos + np.cross(axis, vector) * sin + axis * (axis @ vector) * (1 - cos)


def _camera(heading_deg: float, pitch_deg: float, roll_deg: float) -> tuple[Float64, Float64, Float64]:
    """Right, forward and up of a camera: lifted about its right, then turned clockwise about where it looks."""
    right, forward, up = _direction(heading_deg + 90, 0), _direction(heading_deg, 0), np.array([0.0, 0.0, 1.0])
    forward, up = _turned(forward, right, pitch_deg), _turned(up, right, pitch_deg)
    return _turned(right, forward, roll_deg), forward, _turned(up, forward, roll_deg)


def _render(marks: list[Float64], pose: tuple[float, float, float], width: int = 2048) -> UInt8:
    """A panorama with a round red, green and blue mark, each a degree wide."""
    longitude = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    latitude = (0.5 - (np.arange(width // 2) + 0.5) / (width // 2)) * math.pi
    pixels = np.zeros((width // 2, width, 3), np.float32)
    for channel, mark in enumerate(marks):
        right, forward, up = (float(mark @ axis) for axis in _camera(*pose))
        near = np.cos(latitude)[:, None] * (np.sin(longitude) * right + np.cos(longitude) * forward)
        near += np.sin(latitude)[:, None] * up
        rows, columns = np.nonzero(near > math.cos(math.radians(2)))
        angle_deg = np.degrees(np.arccos(np.clip(near[rows, columns], -1, 1)))
        pixels[rows, columns, channel] = 255 * np.exp(-((angle_deg / 0.5) ** 2))
    return np.rint(pixels).astype(np.uint8)


def _found(view: Image.Image, channel: int, heading_deg: float, rule: PanoramaRule) -> Float64 | None:
    """Direction of a mark in a view; None if it is not there, or is cut by the rim."""
    light = np.asarray(view)[..., channel].astype(np.float64)
    if light.max() < 100:
        return None
    rim = np.concatenate([light[:3].ravel(), light[-3:].ravel(), light[:, :3].ravel(), light[:, -3:].ravel()])
    if rim.max() > 2:
        return None
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]]
    across = (light * columns).sum() / light.sum() + 0.5 - rule.width_px / 2
    down = (light * rows).sum() / light.sum() + 0.5 - rule.height_px / 2
    right, forward, up = _camera(heading_deg, rule.pitch_deg, 0)
    focal_px = rule.width_px / 2 / math.tan(math.radians(rule.fov_deg) / 2)
    ray = focal_px * forward + across * right - down * up
    return ray / np.linalg.norm(ray)


MARKS = [(10.0, 5.0), (143.3, -12.0), (268.8, 20.0)]


@pytest.mark.parametrize(
    "pose", [(0, 0, 0), (123.4, 0, 0), (190.0, 0, 0), (200, 10, -7), (77, -25, 30), (301.5, 0, 170)]
)
@pytest.mark.parametrize(
    "rule",
    [
        PanoramaRule(),
        PanoramaRule(count=6, fov_deg=75, pitch_deg=10, width_px=400, height_px=400, first_heading_deg=20),
        PanoramaRule(count=5, fov_deg=100, pitch_deg=-5, first_heading_deg=-33.3, reference="north"),
    ],
    ids=["four", "six, lifted", "five, from north"],
)
def test_marks_are_seen_in_their_direction_to_a_tenth_of_a_degree(
    rule: PanoramaRule, pose: tuple[float, float, float]
) -> None:
    marks = [_direction(*mark) for mark in MARKS]
    image = Image.fromarray(_render(marks, pose))
    seen = set()
    for heading_deg, view in cut(image, rule, *pose):
        assert view.size == (rule.width_px, rule.height_px)
        for channel, mark in enumerate(marks):
            ray = _found(view, channel, heading_deg, rule)
            if ray is not None:
                seen.add(channel)
                assert math.degrees(math.acos(min(1, float(ray @ mark)))) < 0.1
    assert seen == {0, 1, 2}


def test_headings_count_from_the_panorama_or_from_north() -> None:
    assert PanoramaRule(first_heading_deg=10).headings(355) == [5, 95, 185, 275]
    assert PanoramaRule(first_heading_deg=10, reference="north").headings(355) == [10, 100, 190, 280]
    assert PanoramaRule(count=3).headings(-1e-15) == [0, 120, 240]


def test_pose_is_that_of_gpano() -> None:
    """Its words: the pitch is that of the middle; as the roll grows, the horizon turns counterclockwise in the image."""
    rule = PanoramaRule(count=1, fov_deg=60)
    middle = np.zeros((512, 1024, 3), np.uint8)
    middle[254:258, 510:514] = 255
    ((_, view),) = cut(Image.fromarray(middle), rule, 50, pitch_deg=15)
    ray = _found(view, 0, 50, rule)
    assert ray is not None
    assert ray == pytest.approx(_direction(50, 15), abs=0.004)
    # A panorama rolled by 20 degrees: its horizon, to the right of the middle, lies above the middle row.
    horizon = _direction(50 + 30, 0)
    right, forward, up = _camera(50, 0, 20)
    assert horizon @ up > 0.1
    column, row = math.atan2(horizon @ right, horizon @ forward), math.asin(horizon @ up)
    rolled = np.zeros((512, 1024, 3), np.uint8)
    rolled[round((0.5 - row / math.pi) * 512 - 0.5), round((0.5 + column / 2 / math.pi) * 1024 - 0.5)] = 255
    wide = PanoramaRule(count=1, fov_deg=90)
    ((_, view),) = cut(Image.fromarray(rolled).resize((1024, 512)), wide, 50, roll_deg=20)
    brightest = np.unravel_index(np.asarray(view)[..., 0].argmax(), (480, 640))
    assert abs(int(brightest[0]) - 240) <= 3
    assert abs(int(brightest[1]) - (320 + 320 * math.tan(math.radians(30)))) <= 3


def test_view_over_the_seam_has_no_seam() -> None:
    longitude = (np.arange(1024) + 0.5) / 1024 * 2 * math.pi
    smooth = np.broadcast_to(127 + 100 * np.cos(longitude)[None, :, None], (512, 1024, 3)).astype(np.uint8)
    views = dict(cut(Image.fromarray(smooth), PanoramaRule(), 0))
    assert np.abs(np.diff(np.asarray(views[180]).astype(int), axis=1)).max() <= 3


def test_large_panorama_shrinks_to_grey_and_not_to_single_pixels() -> None:
    stripes = np.zeros((1024, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
    ((_, view),) = cut(Image.fromarray(stripes), PanoramaRule(count=1, width_px=64, height_px=48), 0)
    assert np.abs(np.asarray(view).astype(int) - 127).max() <= 4


def test_panorama_smaller_than_the_views_is_enlarged() -> None:
    grey = Image.new("RGB", (64, 32), (90, 120, 30))
    for _, view in cut(grey, PanoramaRule(pitch_deg=80), 12):
        assert (np.asarray(view) == [90, 120, 30]).all()


@pytest.mark.parametrize("pose", [(40, 0, 0), (40, 3, -2)])
def test_cropped_panorama_gives_the_views_that_it_shows(pose: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(0, 256, (32, 64, 3), np.uint8))
    whole = small.resize((1024, 512), Image.Resampling.BICUBIC)
    # 50 degrees up and down, and 110 degrees to either side of the middle.
    left, right = round(1024 * 70 / 360), round(1024 * 290 / 360)
    top, bottom = round(512 * 40 / 180), round(512 * 140 / 180)
    area = Area(left / 1024, top / 512, (right - left) / 1024, (bottom - top) / 512)
    rule = PanoramaRule(count=8, fov_deg=60, width_px=120, height_px=90)
    expected = dict(cut(whole, rule, *pose))
    got = dict(cut(whole.crop((left, top, right, bottom)), rule, *pose, area=area))
    assert sorted(got) == [40, 85, 355]
    assert list(got) == headings_shown(rule, *pose, area)
    for heading_deg, view in got.items():
        difference = np.abs(np.asarray(view).astype(int) - np.asarray(expected[heading_deg]))
        assert np.median(difference) <= 2
    assert cut(whole.crop((left, top, right, bottom)), PanoramaRule(pitch_deg=60), *pose, area=area) == []


@pytest.mark.parametrize(
    "wrong",
    [{"count": 0}, {"fov_deg": 0}, {"fov_deg": 180}, {"pitch_deg": 91}, {"width_px": 8}, {"height_px": 100_000},
     {"first_heading_deg": math.inf}, {"reference": "south"}, {"fov_deg": math.nan}],
)  # fmt: skip
def test_rules_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="view"):
        PanoramaRule(**wrong)  # type: ignore[arg-type]
