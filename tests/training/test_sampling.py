import numpy as np
import pytest

from cellcode.training.data.sampling import PlaceSampler

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


@pytest.mark.parametrize("sampling_exponent", [0.0, 0.5])
def test_a_place_is_drawn_in_proportion_to_a_power_of_its_photos(sampling_exponent: float) -> None:
    """Within one draw of the share of each pass, and over passes all photos of a place are shown equally often."""
    places = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 60, 40))
    _, photos = np.unique(places, return_counts=True)
    expected = len(places) * photos**sampling_exponent / (photos**sampling_exponent).sum()
    sampler = PlaceSampler(places, 1, 1, 0, sampling_exponent)  # a pass of as many batches as photos
    shown = np.array([[sampler.batch(step)[0] for step in range(len(places))] for step in (0,)])
    passes = [sampler._draw(number) for number in range(20)]
    np.testing.assert_array_equal(shown[0], passes[0])
    for drawn in passes:
        often = np.bincount(places[drawn], minlength=40)
        assert often.sum() == len(places)
        assert (np.abs(often - expected) < 1).all()
    turns = np.bincount(np.concatenate(passes), minlength=len(places))
    for place in range(40):
        own = turns[places == place]
        assert own.max() - own.min() <= 20 * 1 / photos[place] + 3
    assert (passes[0][:200] != passes[1][:200]).any()


def test_photos_of_tempered_batches_share_their_place_and_come_from_all_of_it() -> None:
    places = np.repeat([0, 1, 2], [30, 5, 1])
    sampler = PlaceSampler(places, 6, 2, 0, 0.0)
    batches = [sampler.batch(step).reshape(-1, 2) for step in range(120)]
    for batch in batches:
        assert (places[batch[:, 0]] == places[batch[:, 1]]).all()
    shown = np.bincount(np.concatenate(batches)[:, 0], minlength=36)
    assert (shown > 0).all()
    assert np.bincount(places, weights=shown) == pytest.approx([120, 120, 120], abs=12)
