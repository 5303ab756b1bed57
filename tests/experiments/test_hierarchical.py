"""The hierarchy of classifiers, on photos whose colour belongs to their place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from experiments import hierarchical
from experiments.hierarchical import Hierarchy
from PIL import Image

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.errors import InputError, UsageError
from cellcode.geography import distance, s2
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoTable, ingest
from cellcode.photos.reading.pixels import load_pixels
from cellcode.training.loop.objective import Places
from cellcode.types import UInt8

PLACE = (48.85, 2.35)
LEVELS = (14, 16, 18)
CONFIG: dict[str, object] = {
    "levels": {"prototype": 17, "cell": 18},
    "photo": {"width_px": 32, "height_px": 32},
    "model": {"dim": 16, "ground": {"backbone": "tiny", "aggregation": {"name": "gem"}}},
    "augmentation": {"erase": 0, "exposure": 0, "white_balance": 0},
    "validation": {"share": 0, "withheld_share": 0},
    "machine": {"precision": "float32", "device": "cpu"},
    "training": {"epochs": 40, "batch_size": 20, "log_every_steps": 1000},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoTable:
    """Twelve places 70 m apart in two rows, five photos of a colour at each."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    lines = ["file,lat,lon,split"]
    for place in range(12):
        lat, lon = distance.offset(*PLACE, 70.0 * (place % 6), 70.0 * (place // 6))
        colour = rng.integers(20, 235, 3)
        for number in range(5):
            pixels = np.clip(colour + rng.integers(-15, 16, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{place}_{number}.png")
            lines.append(f"{place}_{number}.png,{lat:.8f},{lon:.8f},train")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ingest(folder / "list.csv", out=folder / "table")


@pytest.fixture(scope="module")
def config() -> Config:
    return configuration.parse(CONFIG)


@pytest.fixture(scope="module")
def pixels(photos: PhotoTable, config: Config) -> UInt8:
    return load_pixels(photos.files, config.photo)[0]


@pytest.fixture(scope="module")
def trained(config: Config, photos: PhotoTable) -> Hierarchy:
    return hierarchical.train(config, photos, LEVELS)


def _fresh(photos: PhotoTable, config: Config) -> Hierarchy:
    torch.manual_seed(0)
    classes = [np.unique(s2.cell_ids(photos.lat_deg, photos.lon_deg, level)) for level in LEVELS]
    return Hierarchy(config, Encoder(config.model.ground, config.model.dim), classes)


def test_it_learns_where_the_photos_were_taken(trained: Hierarchy, photos: PhotoTable, pixels: UInt8) -> None:
    lat, lon = trained.rank(pixels, 1)
    finest = s2.cell_ids(photos.lat_deg, photos.lon_deg, LEVELS[-1])
    found = s2.cell_ids(lat[:, 0], lon[:, 0], LEVELS[-1]) == finest
    chance = 1 / len(trained.classes[-1])
    assert found.mean() > 0.6 > 4 * chance


def test_answers_are_centres_of_distinct_cells_with_training_photos(
    trained: Hierarchy, photos: PhotoTable, pixels: UInt8
) -> None:
    lat, lon = trained.rank(pixels[:7], 4)
    assert lat.shape == lon.shape == (7, 4)
    cells = s2.cell_ids(lat.ravel(), lon.ravel(), LEVELS[-1])
    centres = s2.cell_centers(cells)
    np.testing.assert_allclose(centres[0], lat.ravel(), atol=1e-9)
    np.testing.assert_allclose(centres[1], lon.ravel(), atol=1e-9)
    assert np.isin(cells, s2.cell_ids(photos.lat_deg, photos.lon_deg, LEVELS[-1])).all()
    assert all(len(set(row.tolist())) == 4 for row in cells.reshape(7, 4))
    assert trained.rank(pixels[:2], 10_000)[0].shape == (2, len(trained.classes[-1]))
    assert trained.rank(pixels[:0], 3)[0].shape == (0, 3)


def test_a_score_is_the_product_of_the_probabilities_up_the_hierarchy(
    trained: Hierarchy, pixels: UInt8, config: Config
) -> None:
    with torch.inference_mode():
        embeddings = trained.ground(torch.from_numpy(pixels[:5]))
        scores = trained.scores(embeddings).numpy()
    shares = []
    for layer in trained.classifiers:
        logits = config.loss.scale * embeddings.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        shares.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    for column, cell in enumerate(trained.classes[-1]):
        product = np.ones(5)
        for ids, share, level in zip(trained.classes, shares, LEVELS, strict=True):
            product *= share[:, ids.tolist().index(int(s2.parents(cell, level)[0]))]
        np.testing.assert_allclose(np.exp(scores[:, column]), product, rtol=1e-4)
    order = np.argsort(-scores, axis=1)[:, :3]
    lat, lon = trained.rank(pixels[:5], 3)
    expected = s2.cell_centers(trained.classes[-1][order.ravel()])
    np.testing.assert_allclose(lat.ravel(), expected[0], atol=1e-9)
    np.testing.assert_allclose(lon.ravel(), expected[1], atol=1e-9)


def test_every_level_has_its_cross_entropy_and_teaches_encoder_and_classifier(
    photos: PhotoTable, pixels: UInt8, config: Config
) -> None:
    model = _fresh(photos, config).train()
    rows = slice(0, 60, 7)
    embeddings = model.ground(torch.from_numpy(pixels[rows]))
    losses = model.losses(Places(embeddings, photos.lat_deg[rows], photos.lon_deg[rows]))
    assert list(losses) == [f"level_{level}" for level in LEVELS]
    for loss, ids, level, layer in zip(losses.values(), model.classes, LEVELS, model.classifiers, strict=True):
        own = s2.cell_ids(photos.lat_deg[rows], photos.lon_deg[rows], level)
        target = torch.tensor([ids.tolist().index(int(cell)) for cell in own])
        expected = torch.nn.functional.cross_entropy(layer(config.loss.scale * embeddings), target, reduction="none")
        torch.testing.assert_close(loss, expected)
    sum(loss.sum() for loss in losses.values()).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0 or len(parameter) == 1, name  # one class is always certain


def test_saved_and_loaded_it_answers_the_same(trained: Hierarchy, pixels: UInt8, tmp_path: Path) -> None:
    loaded = Hierarchy.load(trained.save(tmp_path / "made"))
    assert loaded.levels == trained.levels == LEVELS
    assert loaded.bytes == trained.bytes
    assert loaded.config == trained.config
    for made, expected in zip(loaded.rank(pixels, 5), trained.rank(pixels, 5), strict=True):
        np.testing.assert_array_equal(made, expected)
    assert not loaded.training


def test_its_size_is_that_of_the_classifiers_in_float16_with_the_ids(trained: Hierarchy) -> None:
    stored = 0
    for layer, ids in zip(trained.classifiers, trained.classes, strict=True):
        stored += sum(value.detach().numpy().astype(np.float16).nbytes for value in layer.parameters()) + ids.nbytes
    assert trained.bytes == stored


def test_photos_kept_for_validation_are_not_classes(photos: PhotoTable, config: Config) -> None:
    far = np.where(np.arange(len(photos)) < 5, photos.lat_deg + 0.1, photos.lat_deg)
    split = ["validation"] * 5 + ["train"] * (len(photos) - 5)
    table = photos.with_column("lat_deg", far).with_column("split", split)
    short = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1})})
    made = hierarchical.train(short, table, LEVELS)
    np.testing.assert_array_equal(made.classes[-1], np.unique(s2.cell_ids(table.lat_deg, table.lon_deg, 18)[5:]))


def test_the_same_seed_gives_the_same_weights_and_the_regime_is_followed(photos: PhotoTable, config: Config) -> None:
    rule = config.training.model_copy(update={"epochs": 1, "regime": "frozen", "cached_views": 1, "ema_decay": 0.9})
    frozen = config.model_copy(update={"training": rule})
    first, second = (hierarchical.train(frozen, photos, (15, 17)).state_dict() for _ in range(2))
    torch.manual_seed(config.training.seed)
    start = Encoder(config.model.ground, config.model.dim).state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        if name.startswith("ground.backbone."):
            assert torch.equal(value, start[name.removeprefix("ground.")]), name


def test_three_levels_up_to_the_prototypes_are_the_default() -> None:
    assert hierarchical.default_levels(Config()) == (12, 14, 15)
    assert hierarchical.default_levels(configuration.parse({"levels": {"prototype": 0, "cell": 3}})) == (0,)


@pytest.mark.parametrize("levels", [(), (16, 14), (15, 15), (-1, 3), (14, 31)])
def test_levels_that_make_no_hierarchy_are_refused(levels: tuple[int, ...], photos: PhotoTable, config: Config) -> None:
    with pytest.raises(UsageError, match="each finer than the one before"):
        hierarchical.train(config, photos, levels)


def test_folders_of_something_else_are_refused(trained: Hierarchy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Hierarchy.load(tmp_path)
    folder = trained.save(tmp_path / "made")
    (folder / hierarchical.WEIGHTS).unlink()
    with pytest.raises(InputError, match="train it again"):
        Hierarchy.load(folder)
    (folder / hierarchical.MANIFEST).write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="not a cellcode-hierarchy"):
        Hierarchy.load(folder)


def test_no_answers_are_refused(trained: Hierarchy, pixels: UInt8) -> None:
    with pytest.raises(UsageError, match="top must be at least 1"):
        trained.rank(pixels, 0)
