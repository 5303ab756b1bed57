"""Tiles of several dates as augmentation: each batch draws from all of them, and without it nothing changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellcode.aerial import AerialSource, Crop
from cellcode.aerial.multi import Member, MultiSource
from cellcode.config import AugmentationConfig, Config, TileConfig
from cellcode.geography import Region, s2
from cellcode.training.data.inputs import PhotoArrays, TileInputs
from cellcode.training.data.tiles import TileStore
from cellcode.types import Ids

LAT, LON, LEVEL = 48.85, 2.35, 16
TILE = TileConfig(size_m=154.0, size_px=16, scales=(1, 2))
OLD, NEW = 10, 20
STILL = {"tile_exposure": 0.0, "tile_white_balance": 0.0}


class Plain(AerialSource):
    """Imagery of one colour; none east of a longitude."""

    bounds = (2.0, 48.0, 3.0, 49.0)

    def __init__(self, value: int, end_deg: float = 180.0) -> None:
        self.value, self.end_deg, self.identity, self.reads = value, end_deg, f"{value}", 0

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        self.reads += 1
        mask = np.full((size_px, size_px), lon_deg < self.end_deg)
        return Crop(np.full((size_px, size_px, 3), self.value, np.uint8) * mask[..., None], mask, "")

    def footprint(self) -> Region:
        return Region.bbox(*self.bounds)


def _cells() -> Ids:
    own = s2.cell_ids(LAT, LON, LEVEL)
    return np.sort(np.concatenate([own, s2.all_neighbors(own)[0]])[:4])


def _several(*values: int, **options: Any) -> MultiSource:
    return MultiSource([Member(Plain(value, **options), f"20{value}-01-01") for value in values])


def _tiles(source: Any, folder: Path, dates: int) -> TileInputs:
    config = Config(tile=TILE, augmentation=AugmentationConfig(tile_dates=dates, **STILL))
    cells = _cells()
    store = TileStore(source, cells, TILE, 60.0, folder / f"{dates}.npy", dates=dates)
    return TileInputs(store, PhotoArrays(np.empty((0, 8, 8, 3), np.uint8), *s2.cell_centers(cells)), config)


def test_a_batch_draws_each_tile_from_one_of_the_dates(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiles = _tiles(_several(10, 15, 20), tmp_path, 3)
    assert tiles.store.dates == 3
    images = tiles.of_photos(np.arange(4).repeat(50)).inputs
    colours = images.flatten(1).round()
    assert (colours == colours[:, :1]).all()  # all scales of a tile are of one date
    values, counts = colours[:, 0].unique(return_counts=True)
    assert values.tolist() == [10, 15, 20]
    assert counts.min() > 45  # of 200, a third each


def test_only_as_many_dates_as_are_asked_for_are_kept_the_newest_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = _tiles(_several(10, 15, 20), tmp_path, 2).of_photos(np.arange(4).repeat(20)).inputs
    assert images.round().unique().tolist() == [15, 20]


def test_date_without_imagery_of_a_place_is_filled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = MultiSource([Member(Plain(10, end_deg=0.0), "2010-01-01"), Member(Plain(20), "2020-01-01")])
    images = _tiles(source, tmp_path, 2).of_photos(np.arange(4).repeat(20)).inputs
    assert images.round().unique().tolist() == [20]


@pytest.mark.parametrize("source", [lambda: Plain(20), lambda: _several(10, 20)], ids=["one", "several"])
def test_off_it_changes_neither_tiles_nor_the_draws_that_follow(source: Callable[[], Any], tmp_path: Path) -> None:
    made = []
    for dates, kind in ((1, source()), (4 if isinstance(source(), Plain) else 1, Plain(20))):
        torch.manual_seed(5)
        tiles = _tiles(kind, tmp_path / str(len(made)), dates)
        assert tiles.store.dates == 1
        drawn = tiles.of_photos(np.arange(4))
        made.append((drawn.inputs, drawn.lat_deg, drawn.lon_deg, torch.rand(3)))
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert len(list((tmp_path / "0").iterdir())) == len(TILE.scales)


def test_default_is_off() -> None:
    assert AugmentationConfig().tile_dates == 1


class Coloured(Plain):
    """Every cell in a colour of its own. The older date has each in a darker tone of the next cell's newer colour."""

    COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        place = int(np.searchsorted(_cells(), s2.cell_ids(lat_deg, lon_deg, LEVEL)[0]))
        colour = np.array(self.COLOURS[(place + (self.value == OLD)) % 4]) * (0.5 if self.value == OLD else 1.0)
        pixels = np.broadcast_to(colour.astype(np.uint8), (size_px, size_px, 3))
        return Crop(pixels, np.ones((size_px, size_px), bool), "")


@pytest.mark.parametrize(("dates", "knows_old"), [(1, 0.0), (2, 1.0)])
def test_network_learns_from_all_the_dates_that_are_drawn(dates: int, knows_old: float, tmp_path: Path) -> None:
    """It is to tell the cells apart. From the newer date alone it takes every older tile for the next cell's."""
    torch.manual_seed(0)
    source = MultiSource([Member(Coloured(OLD), "2010-01-01"), Member(Coloured(NEW), "2020-01-01")])
    tiles = _tiles(source, tmp_path, dates)
    network = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    places = np.arange(4).repeat(8)

    def scores(images: Any) -> Any:
        return network(images[:, 0].mean(dim=(1, 2)) / 255)

    for _ in range(200):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores(tiles.of_photos(places).inputs), torch.from_numpy(places))
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        for member, known in zip(MultiSource(source.members).members, (1.0, knows_old), strict=True):
            shown = [
                member.source.read(*place, 154, 16).pixels for place in zip(*s2.cell_centers(_cells()), strict=True)
            ]
            found = scores(torch.from_numpy(np.stack(shown))[:, None].float()).argmax(dim=1)
            assert (found == torch.arange(4)).float().mean() == known


def test_a_training_runs_with_them_and_its_shared_imagery_is_apart(
    small_config: Callable[..., Config], grid_photos: Any, tmp_path: Path
) -> None:
    from cellcode.training import train

    for dates in (1, 2):
        config = small_config(f"augmentation.tile_dates={dates}", "training.epochs=1")
        train(config, grid_photos, _several(10, 20), out=tmp_path / str(dates), imagery_cache=tmp_path / "shared")
    small, large = sorted(path.stat().st_size for path in (tmp_path / "shared").iterdir())
    assert large == pytest.approx(2 * small, rel=0.01)
