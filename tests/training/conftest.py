"""Forty small photos on a grid of a few cells, imagery below them, and a configuration that trains on them in a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
from PIL import Image
from rasterio.transform import from_origin

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.geography import distance
from cellcode.photos import PhotoTable, ingest

PLACE = (48.85, 2.35)
ROWS, COLUMNS, SPACING_M = 5, 8, 60.0
SMALL = """
name: small
levels: {prototype: 16, cell: 18}
photo: {width_px: 32, height_px: 32}
tile: {size_m: 80, size_px: 32}
model:
  dim: 16
  ground: {backbone: tiny, aggregation: {name: gem}}
  aerial: {backbone: tiny, aggregation: {name: mean}}
loss: {kind: multi_similarity}
augmentation: {tile_translation_m: 15}
validation: {block_m: 20, share: 0.1, withheld_share: 0}
machine: {precision: float32, device: cpu}
training:
  epochs: 2
  batch_size: 8
  cached_views: 2
  ema_decay: 0
  checkpoint_every_steps: 3
  log_every_steps: 1
"""


@pytest.fixture(scope="session")
def grid_photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoTable:
    """Photos whose colour belongs to their place, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("grid")
    rng = np.random.default_rng(0)
    lines = ["file,lat,lon,split,captured_at"]
    for number in range(ROWS * COLUMNS):
        row, column = divmod(number, COLUMNS)
        lat, lon = distance.offset(*PLACE, column * SPACING_M, row * SPACING_M)
        pixels = rng.integers(40, 215, 3) + rng.integers(-40, 41, (32, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg", quality=95)
        lines.append(f"{number}.jpg,{lat:.8f},{lon:.8f},train,2024-05-{1 + number % 9:02d}T12:00:00")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ingest(folder / "list.csv", out=folder / "table")


@pytest.fixture(scope="session")
def grid_imagery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GeoTIFF of coloured patches of 40 m under the photos and 300 m around them."""
    path = tmp_path_factory.mktemp("imagery") / "aerial.tif"
    (east,), (north,) = rasterio.warp.transform("EPSG:4326", "EPSG:32631", [PLACE[1]], [PLACE[0]])
    patches = np.random.default_rng(1).integers(0, 255, (3, 24, 28), dtype=np.uint8)
    pixels = patches.repeat(10, axis=1).repeat(10, axis=2)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=280,
        height=240,
        count=3,
        dtype="uint8",
        crs="EPSG:32631",
        transform=from_origin(east - 300, north + 600, 4, 4),
    ) as file:
        file.write(pixels)
    return path


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    """The configuration with overrides, `small_config("training.ema_decay=0.9")`."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")

    def make(*overrides: str) -> Config:
        return configuration.load(path, overrides)

    return make


@pytest.fixture(scope="session")
def log_lines() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a run's log without what depends on the machine."""
    machine = {"seconds", "photos_per_s", "memory_bytes"}

    def read(run: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        return [{key: value for key, value in line.items() if key not in machine} for line in lines]

    return read
