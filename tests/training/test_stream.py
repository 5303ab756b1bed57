"""Streams of packed photos, against the packed photos themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellcode.config import Config
from cellcode.errors import InputError, UsageError
from cellcode.geography import s2
from cellcode.photos import PhotoTable, ingest
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.training.data.inputs import PhotoInputs
from cellcode.training.data.photos import PackedTraining
from cellcode.training.data.schedule import Schedule, Window, draw_groups
from cellcode.training.data.stream import Stream, replacements

Configure = Callable[..., Config]
COUNT = 300


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoTable:
    """Photos of one colour each, at 40 places; place number 0 has a single photo."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    lines = ["file,lat,lon,split"]
    for number in range(COUNT):
        place = number if number < 40 else int(rng.integers(1, 40))
        Image.fromarray(np.full((16, 16, 3), number % 256, np.uint8)).save(folder / f"{number}.jpg")
        lines.append(f"{number}.jpg,{48 + 0.002 * (place % 8)},{2 + 0.003 * (place // 8)},train")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ingest(folder / "list.csv", out=folder / "table")


@pytest.fixture
def packed(photos: PhotoTable, tmp_path: Path) -> PackedPhotos:
    return pack.run(photos, Packing(level=18, group_photos=5, shard_photos=20), out=tmp_path / "shards")


def stream(packed: PackedPhotos, config: Config, rank: int = 0, world: int = 1) -> Stream:
    training = config.training
    schedule = Schedule(
        packed.shards("train"),
        training.batch_size,
        training.photos_per_place,
        training.seed,
        config.stream.window_shards,
        rank,
        world,
    )
    return Stream(packed, "train", config, schedule)


def read(made: Stream, steps: range) -> list[list[int]]:
    return [made.read(step).numbers.tolist() for step in steps]


def test_an_epoch_shows_every_photo_but_those_of_the_rest_of_a_batch(
    packed: PackedPhotos, small_config: Configure
) -> None:
    made = stream(packed, small_config("stream.window_shards=3"))
    shown = np.concatenate(read(made, range(made.steps_per_epoch)))
    assert len(np.unique(shown)) >= COUNT - made.photos_per_batch
    assert np.bincount(shown).max() <= 2  # filled up where the number of a group's photos is odd, or is 1
    again = np.concatenate(read(made, range(made.steps_per_epoch, 2 * made.steps_per_epoch)))
    assert shown.tolist() != again.tolist()
    made.close()


def test_pixels_positions_and_places_are_those_of_the_photos(packed: PackedPhotos, small_config: Configure) -> None:
    config = small_config()
    made = stream(packed, config)
    names = packed.shards("train").names
    rows = [row for name in names for row in packed.rows("train", name).to_pylist()]
    for step in range(5):
        batch = made.read(step)
        for number, pixels, lat_deg, lon_deg in zip(*vars(batch).values(), strict=True):
            assert (rows[number]["lat_deg"], rows[number]["lon_deg"]) == (lat_deg, lon_deg)
            assert abs(int(pixels.mean()) - int(rows[number]["file"].split(".")[0]) % 256) <= 2
        cells = s2.cell_ids(batch.lat_deg, batch.lon_deg, 18).reshape(-1, 2)
        assert (cells[:, 0] == cells[:, 1]).all()
        assert len(np.unique(cells)) > 1
    made.close()


def test_a_stream_begun_in_the_middle_of_an_epoch_goes_on_as_the_other_did(
    packed: PackedPhotos, small_config: Configure
) -> None:
    config = small_config("stream.window_shards=2")
    whole = stream(packed, config)
    steps = range(2 * whole.steps_per_epoch)
    expected = read(whole, steps)
    for begin in (1, whole.steps_per_epoch // 2, whole.steps_per_epoch + 3):
        resumed = stream(packed, config)
        assert read(resumed, steps[begin : begin + 4]) == expected[begin : begin + 4]
        resumed.close()
    whole.close()


def test_no_more_windows_are_held_than_are_shown_and_come_next(packed: PackedPhotos, small_config: Configure) -> None:
    made = stream(packed, small_config("stream.window_shards=2", "training.batch_size=4"))
    for step in range(3 * made.steps_per_epoch):
        made.read(step)
        assert len(made.windows._held) <= 4
        assert len(made._pending) <= 2
    made.close()


def test_processes_share_an_epoch(packed: PackedPhotos, small_config: Configure) -> None:
    config = small_config("training.batch_size=12")
    parts = [stream(packed, config, rank, 3) for rank in range(3)]
    (steps,) = {part.steps_per_epoch for part in parts}
    shards: list[set[int]] = [set() for _ in parts]
    starts = packed.shards("train").starts
    for step in range(steps):
        batches = [part.batch(step) for part in parts]
        known = np.array(batches) >= 0
        assert (known.sum(axis=0) == 1).all()  # each photo of the batch is known to one process
        for rank, batch in enumerate(batches):
            assert (batch[4 * rank : 4 * rank + 4] >= 0).all()
            shards[rank] |= set((np.searchsorted(starts, batch[batch >= 0], side="right") - 1).tolist())
    assert sum(len(own) for own in shards) == len(set.union(*shards))
    for part in parts:
        part.close()
    with pytest.raises(UsageError, match="--shard-photos"):
        stream(packed, config, 0, 99)
    with pytest.raises(UsageError, match="do not divide"):
        stream(packed, config, 0, 5)


def test_damage_is_named_replaced_and_stops_above_the_share(
    packed: PackedPhotos, small_config: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    shards = packed.shards("train")
    lost = Path(packed.place) / "train" / f"{shards.names[2]}.tar"
    lost.write_bytes(lost.read_bytes()[:3000])  # one or two photos are left of it
    made = stream(packed, small_config("stream.damaged_share=0.2"))
    names = [row for name in shards.names for row in packed.rows("train", name).to_pylist()]
    for step in range(made.steps_per_epoch):
        batch = made.read(step)
        for number, pixels in zip(batch.numbers, batch.pixels, strict=True):
            assert abs(int(pixels.mean()) - int(names[number]["file"].split(".")[0]) % 256) <= 2
        cells = s2.cell_ids(batch.lat_deg, batch.lon_deg, 18).reshape(-1, 2)
        assert (cells[:, 0] == cells[:, 1]).all()
    assert 10 < made.damaged[0] <= shards.photos[2]
    err = caplog.text
    assert lost.name in err
    assert err.count("left out") == 5
    made.close()
    strict = stream(packed, small_config("stream.damaged_share=0.01"))
    with pytest.raises(InputError, match=r"stream\.damaged_share 0\.01"):
        read(strict, range(strict.steps_per_epoch))
    strict.close()


def test_streamed_photos_are_what_the_encoder_is_fed(packed: PackedPhotos, small_config: Configure) -> None:
    config = small_config()
    made = stream(packed, config)
    photos = PhotoInputs(made, config)
    numbers = made.batch(0)
    drawn = photos.draw(numbers)
    assert drawn.inputs.shape == (8, 32, 32, 3)
    assert photos.draw(numbers[::2]).lat_deg.tolist() == drawn.lat_deg[::2].tolist()
    with pytest.raises(ValueError, match="read last"):
        photos.draw(numbers + COUNT)
    made.close()


def test_draws_are_of_one_group_and_show_all_of_it() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), rng.integers(1, 8, 30))
    for per_place in (1, 2, 3):
        often = np.array([-(-np.count_nonzero(group == each) // per_place) for each in range(30)])
        draws = draw_groups(group, often, per_place, rng)
        assert (group[draws] == group[draws[:, :1]]).all()
        assert np.unique(draws).tolist() == list(range(len(group)))
        assert np.bincount(group[draws[:, 0]]).tolist() == often.tolist()


def test_replacements_stay_in_the_place_where_they_can() -> None:
    damaged = np.array([0, 1, 1, 1, 0, 0, 1, 0, 1, 1], bool)
    assert replacements(damaged, 2).tolist() == [0, 0, 4, 5, 4, 5, 7, 7, 0, 0]


def test_windows_follow_one_another_over_epochs(packed: PackedPhotos) -> None:
    schedule = Schedule(packed.shards("train"), 8, 2, 0, window_shards=4)
    count = len(schedule.windows(0))
    assert schedule.after(Window(0, 0)) == Window(0, 1)
    assert schedule.after(Window(0, count - 1)) == Window(1, 0)
    assert sorted(np.concatenate(schedule.windows(3)).tolist()) == list(range(len(packed.shards("train").names)))


def _groups(packed: PackedPhotos) -> tuple[np.ndarray, np.ndarray]:
    """The group of every photo and its cell, numbered from 0."""
    names = packed.shards("train").names
    group = np.concatenate([packed.load("train", name).index["group"] for name in names])
    rows = [row for name in names for row in packed.rows("train", name).to_pylist()]
    cells = s2.cell_ids([row["lat_deg"] for row in rows], [row["lon_deg"] for row in rows], 18)
    return np.unique(group, return_inverse=True)[1], np.unique(cells, return_inverse=True)[1]


@pytest.mark.parametrize("sampling_exponent", [0.0, 0.5])
def test_groups_are_drawn_as_often_as_a_power_of_the_photos_of_their_cells_says(
    packed: PackedPhotos, small_config: Configure, sampling_exponent: float
) -> None:
    """In a window with all photos, against the formula, within one draw."""
    config = small_config(
        "stream.window_shards=99", "training.batch_size=2", f"training.sampling_exponent={sampling_exponent}"
    )
    group, cell = _groups(packed)
    _, first, sizes = np.unique(group, return_index=True, return_counts=True)
    weight = -(-sizes // 2) * (np.bincount(cell) ** (sampling_exponent - 1.0))[cell[first]]
    made = PackedTraining.of(packed, config).stream(config)
    shown = np.array(read(made, range(made.steps_per_epoch)))
    often = np.bincount(group[shown[:, 0]], minlength=len(sizes))
    assert len(shown) == (-(-sizes // 2)).sum()
    assert (np.abs(often - len(shown) * weight / weight.sum()) < 1).all()
    assert (cell[shown[:, 0]] == cell[shown[:, 1]]).all()
    made.close()


def test_draws_of_a_window_come_in_groups_that_look_alike(packed: PackedPhotos, small_config: Configure) -> None:
    config = small_config("stream.window_shards=99", "training.batch_size=12", "training.hard_group_size=3")
    _, cell = _groups(packed)
    made = PackedTraining.of(packed, config).stream(config)
    plain = stream(packed, config)
    ids = np.unique(s2.parents(PackedTraining.of(packed, config).facts.ids, 16))
    labels = (np.arange(len(ids)) % 4).astype(np.int32)
    assert made.hard is not None
    made.hard.labels = {0: labels}
    steps = range(
        made.steps_per_epoch, 2 * made.steps_per_epoch
    )  # not the first window, which begins before any clusters
    shown, usual = (np.concatenate(read(each, steps)) for each in (made, plain))
    draws = {tuple(pair) for pair in plain.windows.draws(_window(plain, steps[0])).tolist()}
    assert {tuple(pair) for pair in shown.reshape(-1, 2).tolist()} <= draws
    assert shown.tolist() != usual.tolist()
    prototype = np.searchsorted(ids, s2.parents(PackedTraining.of(packed, config).facts.ids[cell], 16))
    of_three = labels[prototype[shown[::2]]].reshape(-1, 3)
    assert (of_three == of_three[:, :1]).all(axis=1).mean() > 0.9
    for each in (made, plain):
        each.close()


def _window(made: Stream, step: int) -> Window:
    return made.schedule.positions(step)[0][0]


def test_a_window_that_is_shown_again_in_an_epoch_is_shown_from_its_begin(packed: PackedPhotos) -> None:
    """One process has fewer photos than its share, and begins anew: its windows are told apart by their turns."""
    shards = packed.shards("train")
    uneven = Schedule(shards, 12, 2, 0, 1, rank=2, world=3)
    first: dict[Window, int] = {}
    for step in range(2 * uneven.steps_per_epoch):
        for window, _ in uneven.positions(step):
            first.setdefault(window, step)
        assert uneven.begin(step) == first[uneven.positions(step)[0][0]]
    assert {window: uneven.first_step(window) for window in first} == first
    assert any(window.turn for window in first)
    with pytest.raises(UsageError, match=r"do not divide by training\.hard_group_size 3"):
        Schedule(shards, 24, 2, 0, 1, rank=0, world=3, hard_group_size=3)
