"""Hard batches: orders against their definition, and the clusters that are known ahead of the training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellcode import config as configuration
from cellcode.config import Config, PrototypesConfig
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.model.prototypes import clusters
from cellcode.model.prototypes.protocol import PrototypeTable, part
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.photos import PhotoTable
from cellcode.photos.packed.shards import ShardList
from cellcode.training import train
from cellcode.training.data import inputs, stream
from cellcode.training.data.sampling import LOOKAHEAD, HardBatches, Miner, PlaceSampler, hard_order
from cellcode.training.data.schedule import Schedule
from cellcode.training.loop.trainer import Trainer
from cellcode.training.train import prepare

Configure = Callable[..., Config]
PROTOTYPES, CLUSTERS, DRAWS = 60, 7, 500


def _labels(seed: int, count: int = PROTOTYPES) -> np.ndarray:
    return np.random.default_rng([seed, count]).integers(0, CLUSTERS, count).astype(np.int32)


@pytest.mark.parametrize("lead", [0, 3])
@pytest.mark.parametrize("size", [2, 4, 5])
def test_an_order_has_as_many_groups_of_one_cluster_as_there_can_be(size: int, lead: int) -> None:
    rng = np.random.default_rng(size)
    labels, rows = _labels(0), rng.integers(0, PROTOTYPES, DRAWS)
    order = hard_order(labels, rows, size, rng, lead)
    assert sorted(order) == list(range(DRAWS))
    groups = labels[rows[order]][lead : lead + (DRAWS - lead) // size * size].reshape(-1, size)
    whole = sum(int(np.count_nonzero(labels[rows] == each)) // size for each in range(CLUSTERS))
    assert whole - lead <= np.count_nonzero((groups == groups[:, :1]).all(axis=1)) <= whole


def test_a_group_has_places_far_from_each_other_where_its_cluster_has_such() -> None:
    labels = np.repeat(np.arange(3), 40).astype(np.int32)
    rows = np.repeat(np.arange(120), 5)
    order = hard_order(labels, rows, 4, np.random.default_rng(0))
    groups = np.sort(rows[order].reshape(-1, 4), axis=1)
    assert (labels[groups] == labels[groups[:, :1]]).all()
    assert (np.diff(groups, axis=1) > 0).mean() > 0.95  # a prototype meets itself beside the ends of runs at most
    assert np.diff(groups, axis=1).mean() > 7  # of 10 on average; 8 for random ones
    assert len(np.unique(groups, axis=0)) > 100


def test_clusters_without_draws_and_clusters_with_few_do_no_harm() -> None:
    labels = np.array([0, 3, 3, 9], np.int32)
    order = hard_order(labels, np.array([1, 0, 2]), 2, np.random.default_rng(0))
    assert sorted(order[:2]) == [0, 2]
    assert hard_order(labels, np.array([3]), 4, np.random.default_rng(0), lead=2).tolist() == [0]


@pytest.mark.parametrize("period", [3, 8, 20])
def test_clusters_that_are_forgotten_are_not_needed_again(period: int) -> None:
    """Against one that forgets nothing, for stretches that begin up to 30 batches before the training."""
    short, whole = HardBatches(2, period), HardBatches(2, period)
    for batch in range(period, 200, period):
        begin = max(0, batch - 30)
        short.keep(batch, _labels(batch), begin)
        whole.keep(batch, _labels(batch), 0)
        for asked in range(begin, batch + period + LOOKAHEAD):
            assert short.at(asked) is whole.at(asked) or np.array_equal(short.at(asked), whole.at(asked))  # type: ignore[arg-type]
        assert len(short.labels) <= 30 // period + LOOKAHEAD // period + 3
    assert whole.at(period + LOOKAHEAD - 1) is None
    assert whole.at(period + LOOKAHEAD) is whole.labels[period]


def test_no_batch_is_begun_before_the_clusters_that_order_it_are_made() -> None:
    assert inputs.PREFETCHED + stream.DECODED < LOOKAHEAD


def _places() -> tuple[np.ndarray, np.ndarray]:
    """Places of 400 photos, and their prototypes."""
    places = np.random.default_rng(2).integers(0, 150, 400)
    return places, places * PROTOTYPES // 150


def _place_sampler(known: HardBatches | None, sampling_exponent: float = 1.0) -> PlaceSampler:
    places, prototypes = _places()
    return PlaceSampler(places, 32, 2, 0, sampling_exponent, known, prototypes)


def _shards(world: int, rank: int) -> tuple[Schedule, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    groups = [np.repeat(np.arange(first, first + 20), rng.integers(1, 7, 20)) for first in range(0, 240, 20)]
    sizes = np.array([np.bincount(np.unique(each, return_counts=True)[1], minlength=7)[1:] for each in groups])
    shards = ShardList([str(number) for number in range(12)], np.array([len(each) for each in groups]), sizes)
    return Schedule(shards, 48, 2, 0, 2, rank, world, hard_group_size=4), groups


class _Scheduled:
    """A stream without photos: the draws of a schedule."""

    def __init__(self, known: HardBatches, world: int = 1, rank: int = 0) -> None:
        self.hard, (self.schedule, self.groups) = known, _shards(world, rank)

    def begin(self, step: int) -> int:
        return self.schedule.begin(step)

    def prototype(self, photos: np.ndarray) -> np.ndarray:
        return np.concatenate(self.groups)[photos] % PROTOTYPES

    def batch(self, step: int) -> np.ndarray:
        shown = []
        for window, places in self.schedule.positions(step):
            numbers = self.schedule.windows(window.epoch)[window.number]
            drawn = self.schedule.draws(window, [self.groups[number] for number in numbers])
            labels = self.hard.at(self.schedule.first_step(window))
            if labels is not None:
                drawn = drawn[self.schedule.hard_order(window, labels, self.prototype(drawn[:, 0]))]
            shown.append(drawn[places].ravel())
        return np.concatenate(shown)


def _sampler(kind: str, known: HardBatches) -> PlaceSampler | _Scheduled:
    if kind == "table":
        return _place_sampler(known, sampling_exponent=0.5)
    return _Scheduled(known, *((3, 1) if kind == "third of shards" else (1, 0)))


@pytest.mark.parametrize("period", [3, 11])
@pytest.mark.parametrize("kind", ["table", "shards", "third of shards"])
def test_batches_are_the_same_however_far_ahead_they_are_drawn_and_after_a_stop(kind: str, period: int) -> None:
    """The oracle draws with all clusters known beforehand. Training draws ahead, forgets, and is stopped at step 40."""
    everything = HardBatches(4, period, {made: _labels(made) for made in range(period, 80, period)})
    expected = {step: _sampler(kind, everything).batch(step) for step in range(80)}
    known, ready = HardBatches(4, period), 0
    sampler = _sampler(kind, known)
    for step in range(80):
        if step and step % period == 0:
            known.keep(step, _labels(step), sampler.begin(step))
        if step == 40:  # a new process, with what the checkpoint has
            known = HardBatches(4, period, dict(known.labels))
            sampler, ready = _sampler(kind, known), step
        for number in range(ready, min(step + inputs.PREFETCHED + stream.DECODED + 1, 80)):
            np.testing.assert_array_equal(sampler.batch(number), expected[number])
        ready = step + inputs.PREFETCHED + stream.DECODED + 1
    assert len(known.labels) < len(everything.labels)


def test_a_pass_shows_the_photos_it_would_have_shown_in_groups_of_one_cluster() -> None:
    _, prototypes = _places()
    known = HardBatches(4, 1000, {0: _labels(0)})
    ordered, plain = _place_sampler(known), _place_sampler(None)
    for begin in (25, 50):  # passes of 25 batches
        shown, usual = (
            np.concatenate([each.batch(step)[::2] for step in range(begin, begin + 25)]) for each in (ordered, plain)
        )
        assert sorted(shown) == sorted(usual)
        groups = known.labels[0][prototypes[shown]].reshape(-1, 4)
        assert (groups == groups[:, :1]).all(axis=1).mean() > 0.8
    for step in range(8):  # clusters made before batch 0 order those from 8 on
        np.testing.assert_array_equal(ordered.batch(step), plain.batch(step))
    assert (ordered.batch(9) != plain.batch(9)).any()


def test_a_process_has_whole_groups_in_its_share_of_a_batch() -> None:
    made = _Scheduled(HardBatches(4, 1000, {0: _labels(0)}), world=3, rank=1)
    of_one = []
    for step in range(made.schedule.steps_per_epoch, 5 * made.schedule.steps_per_epoch):
        photos = made.batch(step)[::2]
        assert len(photos) == 8
        groups = made.hard.labels[0][made.prototype(photos)].reshape(2, 4)
        of_one += (groups == groups[:, :1]).all(axis=1).tolist()
    assert np.mean(of_one) > 0.75  # a window has 70 draws in 7 clusters; by chance: 0.003


def _table(count: int = 400) -> tuple[Prototypes, ShardedPrototypes]:
    first = s2.cell_ids(np.array([48.85]), np.array([2.35]), 15)
    ids = np.sort(s2.descendants(s2.parents(first, 9), 15).ravel())[:count]
    table = ShardedPrototypes(ids, 16, 1.2, PrototypesConfig(table="sharded"), seed=0)
    centres = F.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    table.weight = F.normalize(centres.repeat(count // 20, 1) + 0.05 * torch.randn(count, 16), dim=1)
    whole = Prototypes(ids, 16, 1.2)
    with torch.no_grad():
        whole.weight.copy_(3 * table.weight)
    return whole, table


def test_prototypes_are_clustered_the_same_whole_or_sharded_and_in_any_number_of_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, table = _table()
    expected = table.cluster(0).of_row
    np.testing.assert_array_equal(whole.cluster(0).of_row, expected)
    np.testing.assert_array_equal(np.unique(expected), np.arange(20))
    parts = [part(400, rank, 3) for rank in range(3)]
    with monkeypatch.context() as patch:  # what the processes have instead of their sums
        patch.setattr(clusters.collectives, "total_", lambda x: x)
        patch.setattr(clusters.collectives, "rank", lambda: 1)
        part_only = clusters.find(lambda rows: table.unit_rows(rows), *parts[1], 400, 0).of_row
    assert not part_only[: parts[1][0]].any()
    assert not part_only[parts[1][1] :].any()


def test_clusters_with_near_numbers_look_more_alike_than_others() -> None:
    whole, _ = _table(4000)
    with torch.no_grad():
        whole.weight.copy_(torch.randn(4000, 16, generator=torch.Generator().manual_seed(5)))
    found = whole.cluster(0)
    vectors = F.normalize(whole.weight.detach(), dim=1).numpy()
    means = np.stack([vectors[found.of_row == each].mean(axis=0) for each in range(len(found.count))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (means[:-1] * means[1:]).sum(axis=1).mean() > 0.3  # 0 for random ones


@pytest.mark.parametrize("hard_rows", [0, 2])
@pytest.mark.parametrize("sharded", [False, True])
def test_prototypes_are_clustered_when_hard_rows_or_hard_batches_need_it(
    sharded: bool, hard_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = PrototypeTable.cluster
    monkeypatch.setattr(PrototypeTable, "cluster", lambda table, seed: made.append(1) or make(table, seed))
    whole, table = _table()
    rule = {"table": "sharded" if sharded else "whole", "hard_rows": hard_rows, "mine_every_steps": 5}
    config = configuration.parse({"prototypes": rule, "training": {"gradient_accumulation": 3}})
    for known in (None, HardBatches(4, 15)):
        made.clear()
        table.clusters = None
        sampler = _place_sampler(known)
        miner = Miner(config, table if sharded else whole, sampler)
        for step in range(12):
            miner.mine_if_due(step)
        hard = sharded and hard_rows > 0
        assert len(made) == (3 if hard else 2 if known else 0)  # before the first step prototypes are random
        assert (table.clusters is not None) == hard
        assert known is None or (sorted(known.labels) == [15, 30] and known.labels[30].dtype == np.int32)


def test_without_imagery_such_batches_are_refused_unless_photos_are_compared(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"training\.hard_group_size has no effect without aerial imagery"):
        train(small_config("training.hard_group_size=2"), grid_photos, out=tmp_path)


def test_a_training_with_such_batches_is_resumed_bit_for_bit(
    small_config: Configure, grid_photos: PhotoTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Batches of 4 places, 4 of them in an epoch; clusters of step 2 order batches from the 10th on."""
    config = small_config(
        "training.epochs=4",
        "training.hard_group_size=2",
        "training.sampling_exponent=0.5",
        "prototypes.mine_every_steps=2",
        "loss.query_query=0.5",
    )
    shown: dict[str, list[list[int]]] = {"whole": [], "stopped": []}
    take = Trainer.losses
    last = 99

    def losses(self: Trainer, batch: inputs.Batch) -> dict[str, torch.Tensor]:
        if batch.number > last:
            raise KeyboardInterrupt
        shown[self.folder.name].append([batch.number, *batch.indices.tolist()])
        return take(self, batch)

    monkeypatch.setattr(Trainer, "losses", losses)
    whole = train(config, grid_photos, out=tmp_path / "whole")
    last = 13
    with pytest.raises(KeyboardInterrupt):
        train(config, grid_photos, out=tmp_path / "stopped")
    last = 99
    resumed = train(config, grid_photos, out=tmp_path / "stopped", resume=True)
    assert resumed.identity == whole.identity
    assert {number: rest for number, *rest in shown["stopped"]} == {number: rest for number, *rest in shown["whole"]}
    plain = prepare(
        config.model_copy(update={"training": config.training.model_copy(update={"hard_group_size": 1})}),
        grid_photos,
        out=tmp_path / "plain",
        resume=False,
    ).trainer.sampler
    differs = [plain.batch(number).tolist() != rest for number, *rest in shown["whole"]]
    assert not any(differs[:10])
    assert any(differs[10:])
