"""Imagery that could not be fetched ends a training before it begins."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cellcode.aerial import AerialSource, Crop
from cellcode.aerial.missing import Missing
from cellcode.config import TileConfig
from cellcode.errors import InputError
from cellcode.geography import Region, s2
from cellcode.training.data.tiles import TileStore


class Grey(AerialSource):
    """Grey imagery of which one tile is missing."""

    identity = "grey"
    bounds = (2.0, 48.0, 3.0, 49.0)

    def __init__(self, passing: bool) -> None:
        self.missing = Counter({Missing("timeout", "tiles.example.org", passing): 1})

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        return Crop(np.full((size_px, size_px, 3), 99, np.uint8), np.ones((size_px, size_px), bool), "")

    def footprint(self) -> Region:
        return Region.bbox(*self.bounds)


def test_imagery_that_may_be_there_later_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = s2.cell_ids(np.array([48.85]), np.array([2.35]), 16)
    with pytest.raises(InputError, match=r"1 tile of tiles\.example\.org missing: 1 timeout; start the training again"):
        TileStore(Grey(passing=True), cells, TileConfig(size_px=16), 20.0, tmp_path / "imagery.npy")
    assert not list(tmp_path.iterdir())
    TileStore(Grey(passing=False), cells, TileConfig(size_px=16), 20.0, tmp_path / "imagery.npy").close()
    assert "masked in the imagery: 1 tile of tiles.example.org missing: 1 timeout" in caplog.text
