"""360 degree panoramas cut into perspective photos, and these as files: written once, and found again by the next run.

A panorama is equirectangular: its columns are directions, clockwise, with its heading in the middle, and its rows elevations
from +90 to -90 degrees. A view is what a pinhole camera would have seen: each of its pixels is a ray, turned by the heading
and pitch of the view, then into the frame of the panorama, and looked up there.
"""

import io
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cellcode.errors import UsageError
from cellcode.files import sampled_digest, write_bytes
from cellcode.photos.reading.image import PhotoError, photo_size, read_image
from cellcode.photos.table.versions import versioned
from cellcode.types import Float32, Float64, Int32, UInt8, UInt32

_MAX_FOV_DEG = 150.0  # beyond it a pinhole's picture is mostly stretched rim
_COVERED = 0.99  # share of a view that a cropped panorama must show
_SHAPE_TOLERANCE = 0.01
_QUALITY = 90  # of JPEGs
# Turns of vectors (right, forward, up): clockwise as seen from above, forward lifted, up to the right.
_HEADING, _PITCH, _ROLL = (1, 0), (1, 2), (2, 0)


@dataclass(frozen=True)
class PanoramaRule:
    """How a panorama is cut.

    Attributes:
        count: number of views, evenly spread over the circle.
        fov_deg: horizontal field of view of each.
        pitch_deg: elevation of each view's middle.
        width_px, height_px: size of each view; its pixels are square.
        first_heading_deg: direction of the first view, clockwise.
        reference: what it is counted from: the middle of the panorama, or true north.

    Raises:
        UsageError: a value is out of range.
    """

    count: int = 4
    fov_deg: float = 90.0
    pitch_deg: float = 0.0
    width_px: int = 640
    height_px: int = 480
    first_heading_deg: float = 0.0
    reference: Literal["panorama", "north"] = "panorama"

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 360:
            raise UsageError(f"the number of views of a panorama is {self.count}, not in 1..360")
        if not 1 <= self.fov_deg <= _MAX_FOV_DEG:
            raise UsageError(f"the field of view of a view is {self.fov_deg:g} degrees, not in 1..{_MAX_FOV_DEG:g}")
        if not -90 <= self.pitch_deg <= 90:
            raise UsageError(f"the pitch of a view is {self.pitch_deg:g} degrees, not in -90..90")
        if not (16 <= self.width_px <= 8192 and 16 <= self.height_px <= 8192):
            raise UsageError(f"the size of a view is {self.width_px} x {self.height_px} pixels, not in 16..8192")
        if not math.isfinite(self.first_heading_deg):
            raise UsageError("the heading of the first view is not a number")
        if self.reference not in ("panorama", "north"):
            raise UsageError(f"headings of views count from {self.reference!r}, which is neither panorama nor north")

    @property
    def focal_px(self) -> float:
        """Focal length in pixels of a view."""
        return self.width_px / 2 / math.tan(math.radians(self.fov_deg / 2))

    def headings(self, heading_deg: float) -> list[float]:
        """Return the true headings of the views, 0..360, of a panorama whose middle looks to `heading_deg`."""
        start = self.first_heading_deg + (heading_deg if self.reference == "panorama" else 0.0)
        # A tiny negative angle modulo 360 is 360 itself.
        return [(start + 360 * number / self.count) % 360 % 360 for number in range(self.count)]


@dataclass(frozen=True)
class Area:
    """The part of the sphere that a cropped panorama shows, as shares of the whole panorama's width and height."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0


WHOLE = Area()


def is_whole(width_px: int, height_px: int) -> bool:
    """Return True if a picture has the shape of a whole sphere, 2:1."""
    return abs(width_px / height_px - 2) <= 2 * _SHAPE_TOLERANCE


def cut(
    image: Image.Image,
    rule: PanoramaRule,
    heading_deg: float,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
    area: Area = WHOLE,
) -> list[tuple[float, Image.Image]]:
    """Cut a panorama.

    Args:
        image: RGB, upright.
        heading_deg: true heading of the middle of the whole panorama. Where it is not known, give 0: the headings returned
            then count from the middle.
        pitch_deg: elevation of that middle.
        roll_deg: how far the camera was turned clockwise, seen from behind it; its horizon then leans counterclockwise.
        area: what part of the whole panorama `image` is.

    Returns:
        The true heading of each view, 0..360, and the view; those that a cropped panorama does not show are left out.
    """
    # Four bytes a pixel, gathered as one number: several times faster than as three bytes.
    pixels = np.asarray(_shrunk(image.convert("RGB"), rule, area).convert("RGBX")).view(np.uint32)[..., 0]
    return [
        (view_deg, Image.fromarray(_sample(pixels, across, down, area.width >= 1)))
        for view_deg, across, down in _shown(rule, heading_deg, pitch_deg, roll_deg, area)
    ]


def headings_shown(
    rule: PanoramaRule, heading_deg: float, pitch_deg: float = 0.0, roll_deg: float = 0.0, area: Area = WHOLE
) -> list[float]:
    """Return the headings of the views that `cut` would return."""
    return [view_deg for view_deg, _, _ in _shown(rule, heading_deg, pitch_deg, roll_deg, area)]


def _shown(
    rule: PanoramaRule, heading_deg: float, pitch_deg: float, roll_deg: float, area: Area
) -> Iterator[tuple[float, Float32, Float32]]:
    """Yield heading and places of the views that lie in the picture, all but a rim that is not worth its loss."""
    for view_deg in rule.headings(heading_deg):
        across, down = _places(rule, view_deg - heading_deg, pitch_deg, roll_deg, area)
        inside = (down >= 0) & (down <= 1)
        if area.width < 1:
            inside &= (across >= 0) & (across <= 1)
        if inside.mean() >= _COVERED:
            yield view_deg, across, down


def _shrunk(image: Image.Image, rule: PanoramaRule, area: Area) -> Image.Image:
    """Bring the panorama down to the resolution of the views' rims, with antialiasing: sampling then misses no pixel."""
    wanted_px = 2 * math.pi * area.width * rule.focal_px / math.cos(math.radians(rule.fov_deg / 2))
    scale = wanted_px / image.width
    if scale >= 1:
        return image
    size = (max(2, round(image.width * scale)), max(2, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def _places(
    rule: PanoramaRule, turn_deg: float, pitch_deg: float, roll_deg: float, area: Area
) -> tuple[Float32, Float32]:
    """Where each pixel of a view, turned from the panorama's heading, lies: shares of width and height, float32 (H, W)."""
    if pitch_deg == 0 and roll_deg == 0:  # a level panorama: views of other headings are shifted copies
        across, down = _level_places(rule)
        across = (across + np.float32(turn_deg / 360 % 1)) % np.float32(1)
    else:
        camera = _turned(turn_deg, _HEADING) @ _turned(rule.pitch_deg, _PITCH)
        across, down = _looked_up(rule, (_turned(pitch_deg, _PITCH) @ _turned(roll_deg, _ROLL)).T @ camera)
    return (across - area.left) / area.width, (down - area.top) / area.height


@lru_cache(maxsize=4)
def _level_places(rule: PanoramaRule) -> tuple[Float32, Float32]:
    return _looked_up(rule, _turned(rule.pitch_deg, _PITCH))


def _looked_up(rule: PanoramaRule, turn: Float64) -> tuple[Float32, Float32]:
    """Turn the rays of a view's pixels, vectors (right, forward, up), into the panorama's frame."""
    across = (np.arange(rule.width_px) + 0.5 - rule.width_px / 2) / rule.focal_px
    up = (rule.height_px / 2 - np.arange(rule.height_px) - 0.5) / rule.focal_px
    rays = np.stack(np.broadcast_arrays(across[None, :], 1.0, up[:, None]), axis=-1) @ turn.T
    longitude = np.arctan2(rays[..., 0], rays[..., 1])
    latitude = np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1]))
    return (longitude / (2 * math.pi) + 0.5).astype(np.float32), (0.5 - latitude / math.pi).astype(np.float32)


def _sample(pixels: UInt32, across: Float32, down: Float32, around: bool) -> UInt8:
    """Look up places, (H, W, 3), bilinearly in pixels (h, w) of red, green, blue and nothing in their four bytes.

    The picture's rim goes on beyond it, or `around`: its last column is followed by its first.
    """
    height, width = pixels.shape
    x, y = across * width - np.float32(0.5), np.clip(down * height - np.float32(0.5), 0, height - 1)
    x = x if around else np.clip(x, 0, width - 1)
    left, upper = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    right, lower = left + 1, np.minimum(upper + 1, height - 1)
    columns = [column % width if around else np.minimum(column, width - 1) for column in (left, right)]

    def mixed(row: Int32, weight: Float32) -> Float32:
        first, second = (
            np.take(pixels, row * width + column).view(np.uint8).reshape(*row.shape, 4)[..., :3].astype(np.float32)
            for column in columns
        )
        mix: Float32 = first + (second - first) * weight
        return mix

    across_weight, down_weight = (x - left)[..., None], (y - upper)[..., None]
    above, below = mixed(upper, across_weight), mixed(lower, across_weight)
    view: UInt8 = np.rint(above + (below - above) * down_weight).astype(np.uint8)
    return view


def _turned(degrees: float, axes: tuple[int, int]) -> Float64:
    """Matrix that turns vectors (right, forward, up) from the first of two axes towards the second."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix, (start, end) = np.eye(3), axes
    matrix[start, start] = matrix[end, end] = cos
    matrix[end, start], matrix[start, end] = sin, -sin
    return matrix


@dataclass(frozen=True)
class Panorama:
    """What GPano says of an equirectangular panorama: degrees, of the middle of the whole sphere (None: not stated)."""

    heading_deg: float | None
    pitch_deg: float
    roll_deg: float
    area: Area


@dataclass(frozen=True)
class Cutter:
    """Cuts the panoramas of a folder.

    Attributes:
        folder: where the views go, `NAME_hHHHH.vVERSION.jpg`, under the panorama's own path; HHHH is the heading in tenths of a
            degree, VERSION a digest of all that a view depends on.
        root: the folder of the panoramas.
    """

    rule: PanoramaRule
    folder: Path
    root: Path

    def views(
        self, source: Path, heading_deg: float | None, panorama: Panorama
    ) -> list[tuple[Path, dict[str, float | None]]]:
        """Return file, size, field of view and heading of each view. Those that exist are neither read nor written.

        Where the heading of the panorama's middle is not known, those of the views are not either.

        Raises:
            PhotoError: the panorama is damaged, or shows none of the views.
        """
        pose = (heading_deg or 0.0, panorama.pitch_deg, panorama.roll_deg, panorama.area)
        headings = headings_shown(self.rule, *pose)
        if not headings:
            raise PhotoError(f"{source}: a cropped panorama that shows none of the views; choose others")
        # With the suffix of the panorama: a.jpg and a.png may lie side by side.
        name = source.relative_to(self.root).as_posix()
        version = repr((self.rule, pose, sampled_digest(source), _QUALITY))
        names = {each: f"{name}_h{round(each * 10) % 3600:04d}.jpg" for each in headings}
        files = {each: self.folder / versioned(name, version) for each, name in names.items()}
        if not all(_is_view(path, self.rule) for path in files.values()):
            for each, view in cut(read_image(source), self.rule, *pose):
                view.save(written := io.BytesIO(), "JPEG", quality=_QUALITY)
                write_bytes(files[each], written.getvalue())
        size = {"width_px": self.rule.width_px, "height_px": self.rule.height_px, "fov_deg": self.rule.fov_deg}
        return [(path, {**size, "heading_deg": None if heading_deg is None else each}) for each, path in files.items()]


def _is_view(path: Path, rule: PanoramaRule) -> bool:
    with suppress(PhotoError):  # it is not there, or damaged
        return photo_size(path, "header") == (rule.width_px, rule.height_px)
    return False
