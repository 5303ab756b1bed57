"""Aerial tiles for training: read once with their surroundings, then cut anew for every batch.

A tile that is moved and turned differently each time cannot be memorised, and that is what makes aerial embeddings work
where no photo was taken (method: random rotation and translation of the tile). Reading a fresh crop from the raster for
each would cost some ten milliseconds; cutting it from the kept surroundings costs a tenth of one.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.aerial import AerialSource
from cellcode.config import TileConfig
from cellcode.geography import distance, s2
from cellcode.progress import Meter

Float64 = npt.NDArray[np.float64]


class TileStore:
    """North-up surroundings of a set of cells at the tile's own resolution, in a memory-mapped file.

    Args:
        source: where the imagery comes from.
        cells: (C,) uint64, sorted; tiles can be cut around any position inside them.
        tile: size and resolution of a tile.
        reach_m: how far from a position in a cell the centre of its tile may lie.
        path: file that holds the surroundings; it can be deleted after training.
    """

    def __init__(
        self, source: AerialSource, cells: npt.NDArray[np.uint64], tile: TileConfig, reach_m: float, path: Path
    ) -> None:
        self.tile, self.cells, self.path = tile, cells, path
        self.gsd_m = tile.size_m / tile.size_px
        self.lat_deg, self.lon_deg = s2.cell_centers(cells)
        corners = s2.cell_polygons(cells)
        farthest = distance.haversine_m(
            self.lat_deg[:, None], self.lon_deg[:, None], corners[..., 0], corners[..., 1]
        ).max()
        # A turned tile needs the circle around it; two pixels more for the interpolation.
        self.window_px = math.ceil(tile.size_px * math.sqrt(2)) + 3
        self.side_px = 2 * math.ceil((farthest + reach_m) / self.gsd_m) + self.window_px + 2
        path.parent.mkdir(parents=True, exist_ok=True)
        self._pixels = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.uint8, shape=(len(cells), self.side_px, self.side_px, 4)
        )
        with Meter("reading imagery around cells", len(cells)) as meter:
            for row in range(len(cells)):
                crop = source.read(
                    float(self.lat_deg[row]), float(self.lon_deg[row]), self.side_px * self.gsd_m, self.side_px
                )
                self._pixels[row, ..., :3] = crop.pixels
                self._pixels[row, ..., 3] = crop.mask * np.uint8(255)
                meter.advance()

    def rows(self, lat_deg: Float64, lon_deg: Float64, level: int) -> npt.NDArray[np.int64]:
        """Rows of the cells that hold these positions; they must be among `cells`."""
        return np.searchsorted(self.cells, s2.cell_ids(lat_deg, lon_deg, level)).astype(np.int64)

    def cut(
        self, rows: npt.NDArray[np.int64], lat_deg: Float64, lon_deg: Float64, bearing_deg: Float64
    ) -> tuple[Tensor, Tensor]:
        """Cut one tile a row of the store, centred on a position, its top towards `bearing_deg`.

        Returns:
            (B, size_px, size_px, 3) float32 in 0..255, and the share of each tile that has imagery, (B,) float32.
        """
        east_m, north_m = distance.local_m(self.lat_deg[rows], self.lon_deg[rows], lat_deg, lon_deg)
        # Pixel coordinates of the centre, measured between pixel edges, y down.
        x = self.side_px / 2 + east_m / self.gsd_m
        y = self.side_px / 2 - north_m / self.gsd_m
        limit = self.side_px - self.window_px
        left = np.clip(np.round(x - self.window_px / 2).astype(np.int64), 0, limit)
        top = np.clip(np.round(y - self.window_px / 2).astype(np.int64), 0, limit)
        side = self.window_px
        windows = np.stack(
            [self._pixels[r, t : t + side, c : c + side] for r, t, c in zip(rows, top, left, strict=True)]
        )
        images = torch.from_numpy(windows).permute(0, 3, 1, 2).float()
        grid = _turned_grid(x - left, y - top, np.deg2rad(bearing_deg), side, self.tile.size_px)
        tiles = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
        return tiles[:, :3].permute(0, 2, 3, 1), tiles[:, 3].mean(dim=(1, 2)) / 255

    def close(self) -> None:
        """Delete the file."""
        del self._pixels
        self.path.unlink(missing_ok=True)


def _turned_grid(x: Float64, y: Float64, bearing_rad: Float64, side_px: int, size_px: int) -> Tensor:
    """Sampling grid (B, size_px, size_px, 2) of squares of `size_px` around (x, y), for images of `side_px`."""
    scale = size_px / side_px
    cos, sin = scale * np.cos(bearing_rad), scale * np.sin(bearing_rad)
    # The crop's right points to bearing + 90 degrees: (cos, sin) in (right, down); its down points to bearing + 180.
    theta = np.stack(
        [
            np.stack([cos, -sin, 2 * x / side_px - 1], axis=1),
            np.stack([sin, cos, 2 * y / side_px - 1], axis=1),
        ],
        axis=1,
    )
    return F.affine_grid(torch.from_numpy(theta).float(), [len(theta), 1, size_px, size_px], align_corners=False)
