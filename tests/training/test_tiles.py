from pathlib import Path

import numpy as np
import pytest
import torch

from cellcode.aerial import AerialSource
from cellcode.aerial.protocol import Crop
from cellcode.config import AggregationConfig, AugmentationConfig, Config, EncoderConfig, TileConfig, TrainingConfig
from cellcode.geography import Region, distance, s2
from cellcode.model.encoder import Encoder
from cellcode.training.data.inputs import CachedInputs, PhotoArrays, TileInputs
from cellcode.training.data.tiles import TileStore
from cellcode.types import Float64, Ids, Int64

PARIS = (48.85, 2.35)
LEVEL = 16
CPU = torch.device("cpu")
TILE = TileConfig(size_m=154.0, size_px=40)
REACH_M = 60.0
PIXELS = np.empty((0, 8, 8, 3), np.uint8)  # no test reads them


class FakeSource(AerialSource):
    """Smooth imagery as a formula of metres east and north of a point; nothing north of `end_m`."""

    identity = "fake"
    bounds = (2.0, 48.0, 3.0, 49.0)

    def __init__(self, origin: tuple[float, float], end_m: float = np.inf) -> None:
        self.origin, self.end_m, self.reads = origin, end_m, 0

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        self.reads += 1
        steps = ((np.arange(size_px) + 0.5) / size_px - 0.5) * size_m
        right, up = np.meshgrid(steps, -steps)
        bearing = np.deg2rad(bearing_deg)
        east = right * np.cos(bearing) + up * np.sin(bearing)
        north = up * np.cos(bearing) - right * np.sin(bearing)
        east_m, north_m = distance.local_m(*self.origin, *distance.offset(lat_deg, lon_deg, east, north))
        waves = [np.sin(east_m / 60), np.cos(north_m / 45), np.sin((east_m - 2 * north_m) / 110)]
        mask = north_m < self.end_m
        pixels = np.round(128 + 110 * np.stack(waves, axis=-1)).astype(np.uint8) * mask[..., None]
        return Crop(pixels, mask, "")

    def footprint(self) -> Region:
        return Region.bbox(*self.bounds)


def _cells(place: tuple[float, float], count: int = 5) -> Ids:
    own = s2.cell_ids(*place, LEVEL)
    return np.sort(np.concatenate([own, s2.all_neighbors(own)[0]])[:count])


def _positions(cells: Ids, each: int, reach_m: float) -> tuple[Int64, Float64, Float64]:
    """Random places in cells, moved by up to `reach_m`; the corners of the cells are among them."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(len(cells)), each)
    corners = s2.cell_polygons(cells)[rows]
    share = rng.dirichlet(np.full(4, 0.3), len(rows))
    share[::3] = np.eye(4)[rng.integers(0, 4, len(share[::3]))]
    # Corners may lie on both sides of the antimeridian.
    lon = distance.wrap_lon(corners[:, :1, 1] + distance.wrap_lon(corners[..., 1] - corners[:, :1, 1]))
    east_m, north_m = distance.local_m(corners[:, :1, 0], corners[:, :1, 1], corners[..., 0], lon)
    move = rng.choice([-1, 1], (2, len(rows))) * reach_m
    return (
        rows,
        *distance.offset(
            corners[:, 0, 0], corners[:, 0, 1], (share * east_m).sum(1) + move[0], (share * north_m).sum(1) + move[1]
        ),
    )


def test_the_fake_source_follows_the_protocol() -> None:
    assert isinstance(FakeSource(PARIS), AerialSource)


@pytest.mark.parametrize("place", [PARIS, (-33.9, 151.2), (60.0, 179.9999), (0.0, 0.0)])
def test_a_cut_tile_is_what_the_source_gives_at_that_position_and_bearing(
    place: tuple[float, float], tmp_path: Path
) -> None:
    source = FakeSource(place)
    cells = _cells(place)
    store = TileStore(source, cells, TILE, REACH_M, tmp_path / "imagery.npy")
    assert source.reads == len(cells)
    rows, lat, lon = _positions(cells, 8, REACH_M)
    bearing = np.random.default_rng(1).uniform(-180, 180, len(rows))
    bearing[:4] = [0, 90, 45, -135]
    tiles, covered = store.cut(rows, lat, lon, bearing)
    assert tiles.shape == (len(rows), TILE.size_px, TILE.size_px, 3)
    assert (covered == 1).all()
    for tile, *position in zip(tiles.numpy(), lat.tolist(), lon.tolist(), bearing.tolist(), strict=True):
        expected = source.read(position[0], position[1], TILE.size_m, TILE.size_px, position[2]).pixels
        np.testing.assert_allclose(tile, expected, atol=2)


def test_the_top_of_a_tile_points_to_its_bearing(tmp_path: Path) -> None:
    """Along the first channel, a wave of east: seen from a tile turned to the east it runs from bottom to top."""
    cells = _cells(PARIS, 1)
    store = TileStore(FakeSource(PARIS), cells, TILE, REACH_M, tmp_path / "imagery.npy")
    lat, lon = s2.cell_centers(cells)
    (north_up,), (east_up,) = (store.cut(np.array([0]), lat, lon, np.array([b]))[0] for b in (0.0, 90.0))
    torch.testing.assert_close(east_up, north_up.transpose(0, 1).flip(0), atol=0.05, rtol=0)


@pytest.mark.parametrize("place", [PARIS])
def test_where_there_is_no_imagery_a_tile_is_black_and_its_share_counted(
    place: tuple[float, float], tmp_path: Path
) -> None:
    source = FakeSource(place, end_m=20.0)
    cells = _cells(place)
    store = TileStore(source, cells, TILE, REACH_M, tmp_path / "imagery.npy")
    rows, lat, lon = _positions(cells, 12, REACH_M)
    bearing = np.random.default_rng(1).uniform(-180, 180, len(rows))
    tiles, covered = store.cut(rows, lat, lon, bearing)
    shares = []
    for tile, *position in zip(tiles.numpy(), lat.tolist(), lon.tolist(), bearing.tolist(), strict=True):
        mask = source.read(position[0], position[1], TILE.size_m, TILE.size_px, position[2]).mask
        shares.append(mask.mean())
        assert ((tile == 0).all(-1) & mask).mean() < 0.03  # only along the edge
        assert ((tile != 0).any(-1) & ~mask).mean() < 0.06
    np.testing.assert_allclose(covered.numpy(), shares, atol=0.02)
    assert min(shares) < 0.2
    assert max(shares) == 1


def test_rows_are_those_of_the_cells_that_hold_the_positions(tmp_path: Path) -> None:
    cells = _cells(PARIS)
    store = TileStore(FakeSource(PARIS), cells, TILE, REACH_M, tmp_path / "imagery.npy")
    lat, lon = s2.cell_centers(cells[[3, 0, 4, 0]])
    assert store.rows(lat + 1e-5, lon, LEVEL).tolist() == [3, 0, 4, 0]


def test_closing_a_store_deletes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "imagery.npy"
    store = TileStore(FakeSource(PARIS), _cells(PARIS), TILE, REACH_M, path)
    assert path.exists()
    store.close()
    assert not path.exists()


def _tiles(folder: Path, random_tiles: int = 0, **augmentation: float) -> tuple[FakeSource, TileInputs]:
    still = {"tile_rotation_deg": 0.0, "tile_exposure": 0.0, "tile_white_balance": 0.0}
    augment = AugmentationConfig.model_validate({**still, **augmentation})
    config = Config(tile=TILE, augmentation=augment, training=TrainingConfig(random_tiles=random_tiles))
    source, cells = FakeSource(PARIS), _cells(PARIS)
    store = TileStore(source, cells, TILE, augment.tile_translation_m, folder / "imagery.npy")
    _, lat, lon = _positions(cells[[0, 2]], 4, 0.0)
    inside = np.isin(s2.cell_ids(lat, lon, LEVEL), cells)
    assert inside.sum() >= 4
    return source, TileInputs(store, PhotoArrays(PIXELS, lat[inside], lon[inside]), config)


def test_training_tiles_are_cut_where_they_say_within_reach_of_their_photos(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, tiles = _tiles(tmp_path)
    indices = np.arange(len(tiles.photos.lat_deg)).repeat(20)
    drawn = tiles.of_photos(indices)
    images, lat, lon = drawn.inputs, drawn.lat_deg, drawn.lon_deg
    for image, *position in zip(images.numpy(), lat.tolist(), lon.tolist(), strict=True):
        expected = source.read(position[0], position[1], TILE.size_m, TILE.size_px).pixels
        np.testing.assert_allclose(image, expected, atol=2)
    east_m, north_m = distance.local_m(tiles.photos.lat_deg[indices], tiles.photos.lon_deg[indices], lat, lon)
    moves_m = np.stack([east_m, north_m])
    assert np.abs(moves_m).max() <= 60.01
    assert moves_m.max(axis=1).min() > 40
    assert moves_m.min(axis=1).max() < -40
    assert abs(np.corrcoef(moves_m)[0, 1]) < 0.5


def test_training_tiles_are_turned_by_up_to_half_a_circle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, tiles = _tiles(tmp_path, tile_rotation_deg=180.0, tile_translation_m=0.0)
    (lat,), (lon,) = tiles.photos.lat_deg[:1], tiles.photos.lon_deg[:1]
    images = tiles.of_photos(np.zeros(40, np.int64)).inputs
    known = np.arange(-180, 180, 3)
    turned = np.stack([source.read(lat, lon, TILE.size_m, TILE.size_px, float(b)).pixels for b in known]).astype(float)
    errors = np.abs(turned[None] - images.numpy()[:, None]).mean((2, 3, 4))
    assert errors.min(axis=1).max() < 4  # each is one of the turns
    assert len(set((known[errors.argmin(axis=1)] // 45).tolist())) == 8  # in every eighth of the circle


def test_random_tiles_follow_those_of_the_photos(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, tiles = _tiles(tmp_path, random_tiles=7)
    config = EncoderConfig(aggregation=AggregationConfig(name="mean"))
    encoder = Encoder(config, 8).eval()
    indices = np.arange(4)
    with torch.no_grad():
        places = tiles.draw(indices).embed(encoder, CPU)
    assert places.embeddings.shape == (11, 8)
    assert len(places.lat_deg) == len(places.lon_deg) == 11
    own_m = distance.haversine_m(
        places.lat_deg[:4], places.lon_deg[:4], tiles.photos.lat_deg[:4], tiles.photos.lon_deg[:4]
    )
    assert own_m.max() < 86  # 60 m on both axes
    held = s2.cell_centers(tiles.store.cells)
    nearest_m = distance.haversine_m(places.lat_deg[4:, None], places.lon_deg[4:, None], *held).min(axis=1)
    assert nearest_m.max() < 86


def test_cached_features_are_those_of_the_frozen_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, tiles = _tiles(tmp_path, tile_translation_m=0.0)
    encoder = Encoder(EncoderConfig(aggregation=AggregationConfig(name="mean")), 8)
    encoder.freeze(2)
    cached = CachedInputs(tiles, len(tiles.photos.lat_deg), encoder, 2, 3, tmp_path / "features.npy", "float32")
    assert cached.features.shape[:2] == (3, len(tiles.photos.lat_deg))
    indices = np.array([3, 0, 3, 1])
    with torch.no_grad():
        encoder.eval()
        direct, places = (each.draw(indices).embed(encoder, CPU) for each in (tiles, cached))
    torch.testing.assert_close(places.embeddings, direct.embeddings, atol=2e-3, rtol=0)
    np.testing.assert_array_equal(places.lat_deg, tiles.photos.lat_deg[indices])
    np.testing.assert_array_equal(places.lon_deg, tiles.photos.lon_deg[indices])
    cached.close()
    assert not (tmp_path / "features.npy").exists()


def test_each_cached_view_keeps_the_position_it_was_drawn_at(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, tiles = _tiles(tmp_path)
    encoder = Encoder(EncoderConfig(aggregation=AggregationConfig(name="mean")), 8).eval()
    cached = CachedInputs(tiles, len(tiles.photos.lat_deg), encoder, 0, 4, tmp_path / "features.npy", "float32")
    assert len(np.unique(cached.lat_deg)) == cached.lat_deg.size
    with torch.no_grad():
        places = cached.draw(np.array([0, 1, 1, 2, 3, 3])).embed(encoder, CPU)
        crops = [source.read(*at, TILE.size_m, TILE.size_px) for at in zip(places.lat_deg, places.lon_deg, strict=True)]
        direct = encoder(torch.from_numpy(np.stack([crop.pixels for crop in crops])))
    assert (direct @ direct.T)[0, 1] < 0.999  # the tiles differ
    torch.testing.assert_close(places.embeddings, direct, atol=5e-3, rtol=0)


WIDE = TileConfig(size_m=154.0, size_px=40, scales=(1, 2, 4, 8))


def test_scales_of_a_tile_share_centre_and_bearing_and_widen_its_ground(tmp_path: Path) -> None:
    source, cells = FakeSource(PARIS), _cells(PARIS)
    store = TileStore(source, cells, WIDE, REACH_M, tmp_path / "imagery.npy")
    rows, lat, lon = _positions(cells, 3, REACH_M)
    bearing = np.random.default_rng(1).uniform(-180, 180, len(rows))
    tiles, covered = store.cut(rows, lat, lon, bearing)
    assert tiles.shape == (len(rows), 4, 40, 40, 3)
    assert (covered == 1).all()
    for views, *position in zip(tiles.numpy(), lat.tolist(), lon.tolist(), bearing.tolist(), strict=True):
        for view, scale, most in zip(views, WIDE.scales, (2, 2, 5, 25), strict=True):
            expected = source.read(position[0], position[1], WIDE.size_m * scale, 40, position[2]).pixels.astype(float)
            # Waves of 280 m sampled at 31 m and again between the samples: the wider, the blunter.
            assert np.quantile(np.abs(view - expected), 0.98) <= most
            assert np.corrcoef(view.ravel(), expected.ravel())[0, 1] > 0.98


def test_wide_scales_take_less_room_than_the_first_and_are_deleted_with_it(tmp_path: Path) -> None:
    store = TileStore(FakeSource(PARIS), _cells(PARIS), WIDE, REACH_M, tmp_path / "imagery.npy")
    sizes = sorted((path.stat().st_size for path in tmp_path.iterdir()), reverse=True)
    assert len(sizes) == 4
    assert (tmp_path / "imagery.npy").stat().st_size == sizes[0]
    assert sum(sizes) < 3 * sizes[0]
    store.close()
    assert not list(tmp_path.iterdir())


def test_the_first_scale_is_the_tile_that_one_scale_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cells = _cells(PARIS)
    rows, lat, lon = _positions(cells, 3, REACH_M)
    stores = [
        TileStore(FakeSource(PARIS), cells, tile, REACH_M, tmp_path / f"{n}.npy") for n, tile in enumerate((TILE, WIDE))
    ]
    (one, _), (several, _) = (store.cut(rows, lat, lon, 30.0 * rows) for store in stores)
    assert torch.equal(one, several[:, 0])


def _wide(folder: Path, **augmentation: float) -> TileInputs:
    still = {"tile_exposure": 0.0, "tile_white_balance": 0.0, **augmentation}
    config = Config(tile=WIDE, augmentation=AugmentationConfig.model_validate(still))
    cells = _cells(PARIS)
    store = TileStore(FakeSource(PARIS), cells, WIDE, config.augmentation.tile_translation_m, folder / "imagery.npy")
    return TileInputs(store, PhotoArrays(PIXELS, *s2.cell_centers(cells)), config)


def test_all_scales_of_a_training_tile_are_in_the_same_light(tmp_path: Path) -> None:
    still = _wide(tmp_path)
    lit = TileInputs(
        still.store,
        still.photos,
        still.config.model_copy(update={"augmentation": AugmentationConfig(tile_exposure=0.2, tile_white_balance=0.1)}),
    )
    images = []
    for tiles in (still, lit):
        torch.manual_seed(3)
        images.append(tiles.of_photos(np.arange(4)).inputs)
    gain = images[1] / images[0]
    gain[(images[0] < 20) | (images[1] > 254)] = torch.nan
    gains = torch.nanmedian(gain.flatten(2, 3), dim=2).values  # B x S x 3
    torch.testing.assert_close(gains, gains[:, :1].expand_as(gains), atol=1e-3, rtol=0)
    assert gains[:, 0].std() > 0.02


@pytest.mark.parametrize("start", [0, 2, 3])
def test_cached_features_of_several_scales_are_those_of_the_frozen_blocks(start: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiles = _wide(tmp_path, tile_translation_m=0.0, tile_rotation_deg=0.0)
    encoder = Encoder(EncoderConfig(aggregation=AggregationConfig(name="mean")), 8, scales=4).eval()
    encoder.freeze(start)
    cached = CachedInputs(tiles, len(tiles.photos.lat_deg), encoder, start, 2, tmp_path / "features.npy", "float32")
    indices = np.array([3, 0, 3, 1])
    with torch.no_grad():
        direct, places = (each.draw(indices).embed(encoder, CPU) for each in (tiles, cached))
    torch.testing.assert_close(places.embeddings, direct.embeddings, atol=2e-3, rtol=0)


def test_shared_imagery_is_read_once_and_cut_alike(tmp_path: Path) -> None:
    cells, source = _cells(PARIS), FakeSource(PARIS)
    stores = [TileStore(source, cells, WIDE, REACH_M, tmp_path / "imagery.npy", shared=True) for _ in range(2)]
    assert source.reads == len(cells) * len(WIDE.scales)
    at = (np.arange(len(cells)), stores[0].lat_deg, stores[0].lon_deg, np.full(len(cells), 30.0))
    torch.testing.assert_close(stores[0].cut(*at)[0], stores[1].cut(*at)[0], rtol=0, atol=0)
