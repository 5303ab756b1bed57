from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from rasterio.transform import Affine

from cellcode import build
from cellcode.database import Database
from cellcode.geography import Region
from cellcode.runs import Run

SHARDS = "build.shard_depth=2"  # of up to 16 cells


@pytest.fixture(scope="session")
def imagery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.3 km of coloured noise around 52.05 N 3.1 E, without a corner, dated."""
    path = tmp_path_factory.mktemp("imagery") / "aerial.tif"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 13, 13), np.uint8).repeat(20, axis=1).repeat(20, axis=2)
    pixels = np.clip(pixels + rng.integers(-40, 40, pixels.shape), 1, 255).astype(np.uint8)
    pixels[:, 200:, 200:] = 0  # nodata
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:32631", [3.1], [52.05])
    profile = {
        "driver": "GTiff",
        "width": 260,
        "height": 260,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32631",
        "nodata": 0,
    }
    with rasterio.open(path, "w", transform=Affine(5, 0, x - 650, 0, -5, y + 650), **profile) as file:
        file.write(pixels)
        file.update_tags(TIFFTAG_DATETIME="2021:06:05 00:00:00")
    return path


@pytest.fixture(scope="session")
def area() -> Region:
    """The imagery and a bit more, so that some cells have a prototype alone."""
    return Region.bbox(3.088, 52.042, 3.122, 52.058)


@pytest.fixture(scope="session")
def mixed(wide_run: Run, imagery: Path, area: Region) -> Database:
    """Cells of every kind: with both terms, with imagery or a prototype alone."""
    out = wide_run.folder.with_name("mixed.cells")
    return build(wide_run, imagery, area, out=out, overrides=[SHARDS, "build.aerial_smoothing_cells=0.5"])
