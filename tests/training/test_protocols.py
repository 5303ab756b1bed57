"""Photos of a table and packed ones are trained on through the same protocols; nothing asks which kind they are."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cellcode import training
from cellcode.config import Config
from cellcode.photos import PhotoTable
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.training.data.photos import PackedTraining, TablePhotos, TrainingPhotos
from cellcode.training.data.sampling import Sampler
from cellcode.training.setup import factory

Configure = Callable[..., Config]


@pytest.fixture(params=["table", "packed"])
def photos(
    request: pytest.FixtureRequest, grid_photos: PhotoTable, small_config: Configure, tmp_path: Path
) -> TrainingPhotos:
    if request.param == "table":
        return TablePhotos(grid_photos)
    packed = pack.run(grid_photos, Packing(level=18, shard_photos=6), out=tmp_path / "shards")
    return PackedTraining.of(packed, small_config())


def test_both_kinds_answer_the_same_questions(
    photos: TrainingPhotos, grid_photos: PhotoTable, small_config: Configure, tmp_path: Path
) -> None:
    config, table = small_config(), TablePhotos(grid_photos)
    assert isinstance(photos, TrainingPhotos)
    assert len(photos) == len(grid_photos)
    np.testing.assert_array_equal(photos.cells(16), table.cells(16))
    for name, value in vars(photos.cell_facts(18)).items():
        np.testing.assert_array_equal(value, getattr(table.cell_facts(18), name))
    assert photos.distinct("licence") == table.distinct("licence")
    photos = photos.read(config)
    model = factory.make_model(config, photos, has_aerial=False)
    feed = photos.feed(config, model.ground, None, None, tmp_path)
    assert isinstance(feed.sampler, Sampler)
    assert feed.sampler.photos_per_batch == 8
    indices = feed.sampler.batch(0)
    assert feed.photos.draw(indices).inputs.shape == (8, 32, 32, 3)
    assert feed.sampler.damaged[0] == 0
    feed.sampler.close()


def test_training_asks_no_object_for_its_kind() -> None:
    """What is left: what a user may give (a table or a path), torch's wrapper, how a photo was decoded, what a file holds."""
    folder = Path(training.__file__).parent
    asked = {
        kind for path in folder.rglob("*.py") for kind in re.findall(r"isinstance\(\w+, (\w+)", path.read_text("utf-8"))
    }
    assert asked <= {"PhotoTable", "DistributedDataParallel", "Model", "str", "dict"}
