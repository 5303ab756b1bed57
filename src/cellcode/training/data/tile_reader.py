"""Aerial tiles for training, read from the imagery when a batch needs them.

`TileStore` keeps some hundred times the bytes that the same ground takes as JPEG, since neighbouring cells overlap:
right for a town, too much for a country. Here nothing is kept; a tile costs some milliseconds of a core each time.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cellcode.aerial import AerialSource
from cellcode.aerial.missing import refuse_transient
from cellcode.config import TileConfig
from cellcode.training.data.tiles import CellTiles
from cellcode.types import Float64, Ids, Int64


class TileReader(CellTiles):
    """Returns the tiles that `TileStore` returns, without a store; see it for the other arguments.

    Args:
        threads: that read, in this process; 0: one per core.
    """

    def __init__(self, source: AerialSource, cells: Ids, tile: TileConfig, dates: int = 1, threads: int = 0) -> None:
        self._source, self._tile = source, tile
        self._views = source.editions(dates)
        super().__init__(cells, len(self._views))
        self._threads = ThreadPoolExecutor(threads or os.cpu_count(), "tiles")

    def cut(
        self, rows: Int64, lat_deg: Float64, lon_deg: Float64, bearing_deg: Float64, date: Int64 | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read one tile for each position; see `CellTiles`.

        Raises:
            InputError: some of the imagery could not be fetched because of temporary errors.
        """
        tile = self._tile
        view = np.zeros(len(rows), np.int64) if date is None else date
        wanted = [
            (int(v), *position)
            for v, *position in zip(view, lat_deg.tolist(), lon_deg.tolist(), bearing_deg.tolist(), strict=True)
        ]
        shape = (len(wanted), len(tile.scales), tile.size_px, tile.size_px)
        pixels, share = np.empty((*shape, 3), np.uint8), np.empty(len(wanted), np.float32)

        def read(number: int) -> None:
            at, lat, lon, bearing = wanted[number]
            for scale, factor in enumerate(tile.scales):
                crop = self._views[at].read(lat, lon, tile.size_m * factor, tile.size_px, bearing)
                pixels[number, scale] = crop.pixels
                if scale == 0:
                    share[number] = crop.mask.mean()

        for _ in self._threads.map(read, range(len(wanted))):
            pass
        refuse_transient(self._source.missing, "train again with --resume, what was fetched is kept")
        tiles = torch.from_numpy(pixels).float()
        return (tiles[:, 0] if len(tile.scales) == 1 else tiles), torch.from_numpy(share)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)
