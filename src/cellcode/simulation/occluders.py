"""Cars and people in front of the camera: up to three a photo, standing on the ground, behind whatever is nearer."""

import numpy as np

from cellcode.types import Bools, Float32, Float64

MOST = 3
PAINTS = np.array(
    [(0.85, 0.85, 0.86), (0.10, 0.10, 0.12), (0.45, 0.47, 0.50), (0.60, 0.08, 0.08), (0.10, 0.20, 0.48), (0.16, 0.34, 0.22),
     (0.75, 0.62, 0.20)],
    np.float32,
)  # fmt: skip
SKIN = np.array([(0.86, 0.68, 0.56), (0.60, 0.44, 0.33), (0.38, 0.27, 0.20)], np.float32)


def draw(
    image: Float32, depth_m: Float32, *, horizon_px: float, focal_px: float, camera_m: float, light: float, seed: int
) -> None:
    """Draw zero to three occluders into a photo, (H, W, 3), where its depth, (H, W), is larger; both change in place."""
    rng = np.random.default_rng([seed, 2])
    stand = sorted((_Occluder(rng) for _ in range(rng.integers(0, MOST + 1))), key=lambda each: -each.distance_m)
    for each in stand:
        each.draw(image, depth_m, horizon_px, focal_px, camera_m, light)


class _Occluder:
    def __init__(self, rng: np.random.Generator) -> None:
        self.is_car = bool(rng.random() < 0.6)
        self.distance_m = float(rng.uniform(4, 30) if self.is_car else rng.uniform(2.5, 20))
        self.column = float(rng.random())
        self.paint = PAINTS[rng.integers(len(PAINTS))] * float(rng.uniform(0.7, 1.1))
        self.other = PAINTS[rng.integers(len(PAINTS))] * 0.8
        self.skin = SKIN[rng.integers(len(SKIN))]
        width_m = rng.choice([4.3, 1.8]) * rng.uniform(0.9, 1.15) if self.is_car else rng.uniform(0.45, 0.6)
        self.width_m, self.height_m = float(width_m), float(rng.uniform(1.4 if self.is_car else 1.5, 1.9))

    def draw(
        self, image: Float32, depth_m: Float32, horizon_px: float, focal_px: float, camera_m: float, light: float
    ) -> None:
        height, width = depth_m.shape
        scale = focal_px / self.distance_m
        bottom, top = horizon_px + camera_m * scale, horizon_px + (camera_m - self.height_m) * scale
        middle = self.column * width
        first, last = max(0, round(top)), min(height, round(bottom))
        half = self.width_m * scale / 2
        left, right = max(0, round(middle - half)), min(width, round(middle + half))
        if last <= first or right <= left:
            return
        # Position inside the figure: up 0 at its feet, across -1 to 1.
        up = ((bottom - np.arange(first, last) - 0.5) / (bottom - top))[:, None]
        across = ((np.arange(left, right) + 0.5 - middle) / half)[None, :]
        colour, shape = self._car(up, across) if self.is_car else self._person(up, across)
        window = (slice(first, last), slice(left, right))
        shown = shape & (depth_m[window] > self.distance_m)
        image[window][shown] = (colour * light)[shown]
        depth_m[window][shown] = self.distance_m

    def _car(self, up: Float64, across: Float64) -> tuple[Float32, Bools]:
        cabin = 1 - 0.45 * np.clip((up - 0.5) / 0.5, 0, 1)
        shape = (np.abs(across) < cabin) & (up > 0)
        colour = np.broadcast_to(self.paint, (*shape.shape, 3)).copy()
        glass = (up > 0.55) & (up < 0.92) & (np.abs(across) < cabin * 0.86)
        colour[glass & shape] = (0.16, 0.19, 0.22)
        wheel = (up < 0.28) & (np.abs(np.abs(across) - 0.62) < 0.16)
        colour[wheel & shape] = 0.05
        return colour, shape & ((up > 0.1) | wheel)

    def _person(self, up: Float64, across: Float64) -> tuple[Float32, Bools]:
        head = (up > 0.86) & (np.abs(across) < 0.35)
        body = (up > 0.45) & (up <= 0.84) & (np.abs(across) < 0.9)
        legs = (up <= 0.45) & (np.abs(across) < 0.6) & (np.abs(across) > 0.06)
        shape = head | body | legs
        colour = np.broadcast_to(self.paint, (*shape.shape, 3)).copy()
        colour[np.broadcast_to(legs, shape.shape)] = self.other
        colour[np.broadcast_to(head, shape.shape)] = self.skin
        return colour, shape
