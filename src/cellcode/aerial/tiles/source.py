"""Crops from tiles: the one routine for everything that comes in a pyramid.

The crop's corners come from metric offsets on the ellipsoid, transformed to the pyramid's CRS. The level is the coarsest that
is at least as fine as requested; where the finest is coarser, it is enlarged. The tiles are joined to one window, which is
warped once. In Web Mercator north is up, so a crop with bearing 0 is a rectangle of the window: it is resampled as one, which
is several times quicker.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from cellcode.aerial.crops import crop_corners, sides, warp
from cellcode.aerial.missing import Missing
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.aerial.tiles.decoder import Decoder, Tile
from cellcode.aerial.tiles.grid import Level, shown_box
from cellcode.aerial.tiles.provider import Key, TileProvider
from cellcode.errors import InputError
from cellcode.geography import Region
from cellcode.types import Bools, Float64, UInt8

USUAL_TILE_PX = 256
MAX_TILES = 1024  # for one crop
_MARGIN_PX = 2  # of the window around the crop, for interpolation
_UPRIGHT_PX = 0.02  # how far a corner may be from a rectangle that is resampled as one


class TileSource(AerialSource):
    """An aerial source made of tiles; can be read from several threads. InputError: no tile lies in the provider's bounds."""

    def __init__(self, provider: TileProvider, decoder: Decoder | None = None) -> None:
        self.provider = provider
        self._tiles = decoder or Decoder(provider)
        self._threads = ThreadPoolExecutor(provider.connections) if provider.connections else None
        self.attribution, self.licence, self.date = provider.attribution, provider.licence, provider.date
        self.identity, self.bounds, self.is_remote = provider.identity, provider.bounds, provider.connections > 0
        self._reach = provider.grid.box(provider.bounds)
        if not any(_meet(level.extent, self._reach) for level in provider.grid.levels.values()):
            bounds = shown_box(provider.bounds)
            raise InputError(f"{provider.host}: its tiles lie outside its bounds, {bounds} degrees; correct the bounds")

    @property
    def missing(self) -> Counter[Missing]:
        """Tiles that were requested and masked so far, by reason and host; each tile counts once."""
        return self._tiles.missing

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`. InputError: the service sends nothing at all (see `Failures`), or the file is damaged."""
        cut, complete = None, True
        corners = self._corners(lat_deg, lon_deg, size_m, bearing_deg)
        if np.isfinite(corners).all():
            cut, complete = self._cut(corners, size_px)
        pixels, mask = cut or (np.zeros((size_px, size_px, 3), np.uint8), np.zeros((size_px, size_px), bool))
        return Crop(pixels, mask, self.attribution, self.date, complete)

    def footprint(self) -> Region:
        """Return the box of the provider's bounds."""
        return Region.bbox(*self.bounds)

    def close(self) -> None:
        """End the threads and close the provider's files."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self.provider.close()

    def _corners(self, lat_deg: float, lon_deg: float, size_m: float, bearing_deg: float) -> Float64:
        """Corners in the CRS, (4, 2), without a jump at 180 degrees."""
        grid = self.provider.grid
        x, y = grid.xy(*crop_corners(lat_deg, lon_deg, size_m, bearing_deg))
        if grid.period is not None:
            middle, _ = grid.xy(np.array([lat_deg]), np.array([lon_deg]))
            x = x + grid.period * np.round((middle - x) / grid.period)
        return np.stack([x, y], axis=1)

    def _cut(self, corners: Float64, size_px: int) -> tuple[tuple[UInt8, Bools] | None, bool]:
        """Cut a crop out of the tiles under it; None where there are none; and True if a later request would give no more."""
        resolution = float(sides(corners).min()) / size_px
        z, side_px = self._level(corners, resolution)
        level = self.provider.grid.levels[z]
        shown_px = _shown_px(level, side_px, resolution)
        at = _pixels(corners, level, shown_px)
        low = np.floor(at.min(axis=0) - _MARGIN_PX).astype(int)
        high = np.ceil(at.max(axis=0) + _MARGIN_PX).astype(int)
        tiles = self._under(z, level, low, high, shown_px)
        complete = not any(tile.why is not None and tile.why.transient for tile in tiles.values())
        images = {place: tile.image for place, tile in tiles.items() if tile.image is not None}
        if not images:
            return None, complete
        image, seen = _stitch(images, low.tolist(), (high - low).tolist(), shown_px)
        return _square(image, seen, at - low, size_px), complete

    def _level(self, corners: Float64, resolution: float) -> tuple[int, int]:
        """Return the level to read, and the pixels along its tiles; where no level says those, the tile in the middle does."""
        grid = self.provider.grid
        z = grid.level_for(resolution, self._tiles.side_px or USUAL_TILE_PX)
        if grid.levels[z].tile_px is None and self._tiles.side_px is None:
            middle = np.floor(_pixels(corners, grid.levels[z], USUAL_TILE_PX).mean(axis=0)).astype(int)
            self._under(z, grid.levels[z], middle, middle + 1, USUAL_TILE_PX)
            z = grid.level_for(resolution, self._tiles.side_px or USUAL_TILE_PX)
        return z, grid.levels[z].tile_px or self._tiles.side_px or USUAL_TILE_PX

    def _under(
        self, z: int, level: Level, low: npt.NDArray[np.int_], high: npt.NDArray[np.int_], shown_px: int
    ) -> dict[tuple[int, int], Tile]:
        """Tiles between two corners in pixels, by column and row; those that the provider cannot have are left out."""
        (left, top), (right, bottom) = low // shown_px, -(-high // shown_px)
        if (right - left) * (bottom - top) > MAX_TILES:
            raise InputError(
                f"a crop needs {(right - left) * (bottom - top)} tiles of {self.provider.host}, whose coarsest level is "
                f"{min(self.provider.grid.levels)}; read a smaller crop or add coarser levels"
            )
        keys = {
            (int(column), int(row)): (z, wrapped, int(row))
            for row in range(top, bottom)
            for column in range(left, right)
            if level.has(wrapped := self._wrapped(level, column), row) and _meet(level.box(wrapped, row), self._reach)
        }
        self._fetch(keys.values(), shown_px)
        return {place: self._tiles.get(key, shown_px) for place, key in keys.items()}

    def _fetch(self, keys: Iterable[Key], shown_px: int) -> None:
        if self._threads is None:
            return
        absent = [key for key in keys if not self._tiles.is_loaded(key, shown_px)]
        # The first one is left to the calling thread, which would only wait.
        fetched = [self._threads.submit(self._tiles.get, key, shown_px) for key in absent[1:]]
        if absent:
            self._tiles.get(absent[0], shown_px)
        for each in fetched:
            each.result()

    def _wrapped(self, level: Level, column: int) -> int:
        """Number of a column that may lie beyond 180 degrees."""
        period = self.provider.grid.period
        if period is None:
            return int(column)
        around = round(period / level.span)
        return int(column) % around if math.isclose(around * level.span, period, rel_tol=1e-6) else int(column)


def _pixels(corners: Float64, level: Level, side_px: int) -> Float64:
    """Transform positions in the CRS to columns and rows of pixels, from the level's corner."""
    scale = side_px / level.span
    return (corners - (level.left, level.top)) * (scale, -scale)


def _shown_px(level: Level, side_px: int, resolution: float) -> int:
    """Pixels to which a tile is reduced when it is decoded: halved while it stays at least as fine as requested."""
    while side_px % 2 == 0 and side_px > 1 and level.span / (side_px // 2) <= resolution:
        side_px //= 2
    return side_px


def _meet(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _stitch(
    images: dict[tuple[int, int], Image.Image], low: Sequence[int], size: Sequence[int], side_px: int
) -> tuple[Image.Image, Image.Image | None]:
    """Put tiles together to a window of `size` pixels whose corner is at `low`, and its mask; None: imagery everywhere."""
    width, height = size
    canvas = Image.new("RGB", (width, height), None)  # what no tile covers is masked, whatever it holds
    covered = 0
    for (column, row), image in images.items():
        left, top = column * side_px - low[0], row * side_px - low[1]
        canvas.paste(image, (left, top))
        covered += (min(left + side_px, width) - max(left, 0)) * (min(top + side_px, height) - max(top, 0))
    if covered >= width * height and all(image.mode == "RGB" for image in images.values()):
        return canvas, None
    mask = Image.new("L", (width, height))
    for (column, row), image in images.items():
        seen = image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)
        mask.paste(seen, (column * side_px - low[0], row * side_px - low[1]))
    return canvas, mask


def _square(image: Image.Image, mask: Image.Image | None, corners: Float64, size_px: int) -> tuple[UInt8, Bools]:
    """Cut the crop, of corners in pixels from the window's (UL, LL, LR, UR), out of its window."""
    (left, top), _, (right, bottom), _ = corners.tolist()
    rectangle = np.array([(left, top), (left, bottom), (right, bottom), (right, top)])
    upright = right > left and bottom > top and bool((np.abs(rectangle - corners) <= _UPRIGHT_PX).all())
    if mask is None and upright:
        resized = image.resize((size_px, size_px), Image.Resampling.BILINEAR, (left, top, right, bottom))
        return np.asarray(resized).copy(), np.ones((size_px, size_px), bool)
    seen = np.full(image.size[::-1], 255, np.uint8) if mask is None else np.asarray(mask)
    return warp(np.dstack([np.asarray(image), seen]), corners, size_px)
