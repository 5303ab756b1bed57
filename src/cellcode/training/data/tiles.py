"""Aerial tiles for training: read once with their surroundings and cut anew for every batch, or read when one needs them.

A tile that is translated and rotated differently each time cannot be memorised, which makes aerial embeddings work where
no photo was taken (method: random rotation and translation of the tile). Reading a crop from the raster for each would
cost some ten milliseconds; cutting it from the kept surroundings costs a tenth of one.
"""

import itertools
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.aerial import AerialSource, Crop
from cellcode.aerial.missing import refuse_transient, summary
from cellcode.config import TileConfig
from cellcode.distributed import collectives
from cellcode.files import atomic_path, new_array
from cellcode.geography import distance, s2
from cellcode.progress import Meter
from cellcode.training.data.augmentation import sampling_grid
from cellcode.types import Float64, Ids, Int64

logger = logging.getLogger(__name__)


class CellTiles(ABC):
    """Tiles around positions in a set of cells, sorted, at one date of the imagery or more.

    Random negatives are around the centres of the cells, `lat_deg` and `lon_deg`.
    """

    def __init__(self, cells: Ids, dates: int) -> None:
        self.cells, self.dates = cells, dates
        self.lat_deg, self.lon_deg = s2.cell_centers(cells)

    def rows(self, lat_deg: Float64, lon_deg: Float64, level: int) -> Int64:
        """Rows of the cells that hold these positions; they must be among `cells`."""
        return np.searchsorted(self.cells, s2.cell_ids(lat_deg, lon_deg, level)).astype(np.int64)

    @abstractmethod
    def cut(
        self, rows: Int64, lat_deg: Float64, lon_deg: Float64, bearing_deg: Float64, date: Int64 | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return one tile per row of the cells, centred on a position, its top towards `bearing_deg`.

        `date` is the number of a date for each tile; None: the first, which is what the source itself shows. Tiles are
        (B, size_px, size_px, 3) float32 in 0..255, or (B, S, size_px, size_px, 3) where there are S > 1 scales; with them comes
        the share of each that has imagery at the first scale, (B,) float32.
        """


class TileReader(CellTiles):
    """Returns the tiles that `TileStore` returns, reading each from the imagery when a batch needs it.

    A store keeps some hundred times the bytes that the same ground takes as JPEG, since neighbouring cells overlap: right for a
    town, too much for a country. Here nothing is kept; a tile costs some milliseconds of one of so many `threads` (0: one per
    core) each time.
    """

    def __init__(self, source: AerialSource, cells: Ids, tile: TileConfig, dates: int = 1, threads: int = 0) -> None:
        self._source, self._tile = source, tile
        self._views = source.editions(dates)
        super().__init__(cells, len(self._views))
        self._threads = ThreadPoolExecutor(threads or os.cpu_count(), "tiles")

    def cut(
        self, rows: Int64, lat_deg: Float64, lon_deg: Float64, bearing_deg: Float64, date: Int64 | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `CellTiles`; raises InputError where imagery could not be fetched because of temporary errors."""
        tile = self._tile
        views = [self._views[0]] * len(rows) if date is None else [self._views[each] for each in date]
        pixels = np.empty((len(rows), len(tile.scales), tile.size_px, tile.size_px, 3), np.uint8)
        share = np.empty(len(rows), np.float32)

        def read(number: int, view: AerialSource, lat: float, lon: float, bearing: float) -> None:
            for scale, factor in enumerate(tile.scales):
                crop = view.read(lat, lon, tile.size_m * factor, tile.size_px, bearing)
                pixels[number, scale] = crop.pixels
                if scale == 0:
                    share[number] = crop.mask.mean()

        places = lat_deg.tolist(), lon_deg.tolist(), bearing_deg.tolist()
        list(self._threads.map(read, range(len(rows)), views, *places))
        refuse_transient(self._source.missing, "train again with --resume, what was fetched is kept")
        tiles = torch.from_numpy(pixels).float()
        return (tiles[:, 0] if len(tile.scales) == 1 else tiles), torch.from_numpy(share)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)


class TileStore(CellTiles):
    """North-up surroundings of a set of cells, at every scale of a tile.

    The wider a scale, the coarser its pixels: each takes less space than the one before, and a raster with overviews provides
    it without reading its finest pixels.

    Args:
        cells: (C,) uint64, sorted; tiles can be cut around any position inside them.
        reach_m: how far from a position in a cell the centre of its tile may lie.
        path: file that holds the surroundings; further scales are beside it. They can be deleted after training.
        shared: files that are there already are of the same cells and tiles: they are used instead of reading again.
        dates: of the imagery to keep each cell at, where a source has several (see `AerialSource.editions`).

    Raises:
        InputError: some of the imagery could not be fetched because of temporary errors.
    """

    def __init__(
        self,
        source: AerialSource,
        cells: Ids,
        tile: TileConfig,
        reach_m: float,
        path: Path,
        shared: bool = False,
        dates: int = 1,
    ) -> None:
        views = source.editions(dates)
        super().__init__(cells, len(views))
        corners = s2.cell_polygons(cells)
        apart_m = distance.haversine_m(self.lat_deg[:, None], self.lon_deg[:, None], corners[..., 0], corners[..., 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        paths = [path, *(path.with_stem(f"{path.stem}_{scale:g}") for scale in tile.scales[1:])]
        reach_m += float(apart_m.max())
        ready = shared and all(each.is_file() for each in paths)
        with ExitStack() as stack:  # the files appear whole: another training may use them
            made = paths if ready else [stack.enter_context(atomic_path(each)) for each in paths]
            count = self.dates * len(cells)
            self._scales = [
                _Surroundings(count, tile.size_m * scale, tile.size_px, reach_m, each, ready)
                for scale, each in zip(tile.scales, made, strict=True)
            ]
            if not ready:
                self._read(views)
                refuse_transient(source.missing, "start the training again, what was fetched is kept")
                if source.missing:
                    collectives.warn(logger, f"masked in the imagery: {summary(source.missing)}")
        for scale, each in zip(self._scales, paths, strict=True):
            scale.path = each

    def _read(self, views: Sequence[AerialSource]) -> None:
        """Keep every cell as each view shows it; those of a later view follow all of the one before."""
        places = list(zip(self.lat_deg.tolist(), self.lon_deg.tolist(), strict=True))
        with Meter("reading imagery around cells", len(views) * len(places)) as meter:
            for row, (view, (lat_deg, lon_deg)) in enumerate(itertools.product(views, places)):
                for scale in self._scales:
                    scale.keep(row, view.read(lat_deg, lon_deg, scale.side_px * scale.gsd_m, scale.side_px))
                meter.advance()

    def cut(
        self, rows: Int64, lat_deg: Float64, lon_deg: Float64, bearing_deg: Float64, date: Int64 | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `CellTiles`."""
        east_m, north_m = distance.local_m(self.lat_deg[rows], self.lon_deg[rows], lat_deg, lon_deg)
        bearing_rad = np.deg2rad(bearing_deg)
        kept = rows if date is None else rows + date * len(self.cells)
        tiles = [scale.cut(kept, east_m, north_m, bearing_rad) for scale in self._scales]
        share = tiles[0][:, 3].mean(dim=(1, 2)) / 255
        pixels = [tile[:, :3].permute(0, 2, 3, 1) for tile in tiles]
        return (pixels[0] if len(pixels) == 1 else torch.stack(pixels, dim=1)), share

    def close(self) -> None:
        """Delete the files."""
        for scale in self._scales:
            scale.close()


def window_px(size_px: int) -> int:
    """Return the edge of the square cut for one tile: the circle around it, and pixels for interpolation."""
    return math.ceil(size_px * math.sqrt(2)) + 3


def surroundings_px(size_px: int, gsd_m: float, reach_m: float) -> int:
    """Return the edge of what is kept around a cell, in which a tile fits whose centre lies up to `reach_m` away."""
    return 2 * math.ceil(reach_m / gsd_m) + window_px(size_px) + 2


class _Surroundings:
    """Squares around cells in a memory-mapped file, at the resolution of a tile of `size_m`."""

    def __init__(self, count: int, size_m: float, size_px: int, reach_m: float, path: Path, ready: bool) -> None:
        self.size_px, self.path = size_px, path
        self.gsd_m = size_m / size_px
        self.window_px = window_px(size_px)
        self.side_px = surroundings_px(size_px, self.gsd_m, reach_m)
        shape = (count, self.side_px, self.side_px, 4)
        self._pixels = np.load(path, mmap_mode="r") if ready else new_array(path, shape, np.uint8)

    def keep(self, row: int, crop: Crop) -> None:
        self._pixels[row, ..., :3] = crop.pixels
        self._pixels[row, ..., 3] = crop.mask * np.uint8(255)

    def cut(self, rows: Int64, east_m: Float64, north_m: Float64, bearing_rad: Float64) -> Tensor:
        """Cut squares around points, in metres from the cells' centres; (B, 4, size_px, size_px), the mask comes last."""
        # Pixel coordinates of the centre, measured between pixel edges, y down.
        x = self.side_px / 2 + east_m / self.gsd_m
        y = self.side_px / 2 - north_m / self.gsd_m
        side, limit = self.window_px, self.side_px - self.window_px
        left = np.clip(np.round(x - side / 2).astype(np.int64), 0, limit)
        top = np.clip(np.round(y - side / 2).astype(np.int64), 0, limit)
        windows = [self._pixels[r, t : t + side, c : c + side] for r, t, c in zip(rows, top, left, strict=True)]
        images = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).float()
        grid = _rotated_grid(x - left, y - top, bearing_rad, side, self.size_px)
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

    def close(self) -> None:
        del self._pixels
        self.path.unlink(missing_ok=True)


def _rotated_grid(x: Float64, y: Float64, bearing_rad: Float64, side_px: int, size_px: int) -> Tensor:
    """Sampling grid (B, size_px, size_px, 2) of squares of `size_px` around (x, y), for images of `side_px`."""
    scale = size_px / side_px
    cos, sin = scale * np.cos(bearing_rad), scale * np.sin(bearing_rad)
    # The crop's right points to bearing + 90 degrees: (cos, sin) in (right, down); its down points to bearing + 180.
    rows = (cos, -sin, 2 * x / side_px - 1), (sin, cos, 2 * y / side_px - 1)
    theta = np.stack([np.stack(row, axis=1) for row in rows], axis=1)
    return sampling_grid(torch.from_numpy(theta).float(), size_px, size_px)
