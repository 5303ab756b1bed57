"""Tiles read when they are wanted are those of the store, from the same imagery."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cellcode.aerial import open_source
from cellcode.aerial.missing import Missing
from cellcode.config import Config, TileConfig
from cellcode.errors import InputError
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.training import train
from cellcode.training.data.tiles import TileReader, TileStore
from cellcode.training.train import prepare

Configure = Callable[..., Config]
TILE = TileConfig(size_m=80, size_px=32, scales=(1.0, 2.0))


def test_tiles_are_those_of_a_store(grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path) -> None:
    source, rng = open_source(grid_imagery), np.random.default_rng(0)
    cells = np.unique(s2.cell_ids(grid_photos.lat_deg, grid_photos.lon_deg, 18))
    kept, read = TileStore(source, cells, TILE, 15.0, tmp_path / "x.npy"), TileReader(source, cells, TILE, threads=2)
    rows = read.rows(grid_photos.lat_deg, grid_photos.lon_deg, 18)
    np.testing.assert_array_equal(rows, kept.rows(grid_photos.lat_deg, grid_photos.lon_deg, 18))
    np.testing.assert_array_equal((read.lat_deg, read.lon_deg), (kept.lat_deg, kept.lon_deg))
    count = len(rows)
    lat, lon = distance.offset(grid_photos.lat_deg, grid_photos.lon_deg, *rng.uniform(-15, 15, (2, count)))
    bearing = rng.uniform(-180, 180, count)
    (expected, their_share), (tiles, share) = (each.cut(rows, lat, lon, bearing) for each in (kept, read))
    assert tiles.shape == expected.shape == (count, 2, 32, 32, 3)
    assert tiles.dtype == expected.dtype
    assert (tiles - expected).abs().mean() < 4  # patches with sharp edges, warped once and twice
    torch.testing.assert_close(share, their_share, atol=0.03, rtol=0)
    read.close()


def test_imagery_that_may_be_there_later_stops_the_training(grid_imagery: Path) -> None:
    source = open_source(grid_imagery)
    source.missing = Counter({Missing("timeout", "tiles.example.org", True): 2})
    reader = TileReader(source, s2.cell_ids(48.85, 2.35, 18), TILE, threads=1)
    with pytest.raises(
        InputError, match=r"2 tiles of tiles\.example\.org missing: 2 timeout; train again with --resume"
    ):
        reader.cut(np.zeros(1, np.int64), np.array([48.85]), np.array([2.35]), np.zeros(1))


def test_a_training_that_keeps_no_imagery_learns_and_is_resumed(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    config = small_config(
        "training.imagery=read", "training.random_tiles=2", "training.keep_checkpoints=9", "training.epochs=1"
    )
    whole = train(config, grid_photos, grid_imagery, out=tmp_path)
    last, *others = sorted((tmp_path / "checkpoint").iterdir(), reverse=True)
    assert others
    for path in last.iterdir():
        path.unlink()
    assert train(config, grid_photos, grid_imagery, out=tmp_path, resume=True).identity == whole.identity
    prepared = prepare(config, grid_photos, grid_imagery, out=tmp_path / "again", resume=False)
    assert not list((tmp_path / "again").rglob("*.npy"))
    assert prepared.trainer.tiles is not None
