import numpy as np
import pytest

from cellcode.training.sampling import PlaceSampler

PLACES = np.array([7, 7, 7, 3, 3, 9, 1, 1, 1, 1])


@pytest.mark.parametrize("photos_per_place", [1, 2, 3])
def test_photos_of_an_anchor_share_its_place(photos_per_place: int) -> None:
    sampler = PlaceSampler(PLACES, 6, photos_per_place, seed=0)
    for step in range(50):
        batch = PLACES[sampler.batch(step)].reshape(-1, photos_per_place)
        assert (batch == batch[:, :1]).all()


def test_companions_are_other_photos_where_there_are_any() -> None:
    sampler = PlaceSampler(PLACES, 8, 2, seed=0)
    for step in range(50):
        for anchor, other in sampler.batch(step).reshape(-1, 2):
            assert anchor != other or PLACES[anchor] == 9


def test_a_pass_shows_every_photo_once_as_anchor() -> None:
    sampler = PlaceSampler(np.arange(12), 4, 1, seed=3)
    seen = np.concatenate([sampler.batch(step) for step in range(3)])
    assert sorted(seen) == list(range(12))
    again = np.concatenate([sampler.batch(step) for step in range(3, 6)])
    assert sorted(again) == list(range(12))
    assert (seen != again).any()


def test_a_batch_depends_on_nothing_but_seed_and_step() -> None:
    fresh, used = PlaceSampler(PLACES, 6, 2, seed=1), PlaceSampler(PLACES, 6, 2, seed=1)
    for step in range(7):
        used.batch(step)
    np.testing.assert_array_equal(fresh.batch(20), used.batch(20))
    assert (PlaceSampler(PLACES, 6, 2, seed=2).batch(20) != fresh.batch(20)).any()


def test_fewer_photos_than_a_batch_still_make_one() -> None:
    sampler = PlaceSampler(np.array([4, 4]), 64, 2, seed=0)
    assert sampler.steps_per_epoch == 1
    assert sorted(sampler.batch(0)) == [0, 1]
