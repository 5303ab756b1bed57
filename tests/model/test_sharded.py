"""The sharded table in one process, against the whole one and against its definition."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellcode.config import Config, LossConfig, PrototypesConfig
from cellcode.geography import distance, s2
from cellcode.model.prototypes import clusters
from cellcode.model.prototypes.protocol import part
from cellcode.model.prototypes.sharded import BLOCK, RowwiseAdam, ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.training.loop.objective import Objective, Places

PLACE, LEVEL, DIM = (48.85, 2.35), 15, 8
ALL = PrototypesConfig(table="sharded")


def _ids(count: int) -> np.ndarray:
    first = s2.cell_ids(np.array([PLACE[0]]), np.array([PLACE[1]]), LEVEL)
    return np.sort(s2.descendants(s2.parents(first, LEVEL - 6), LEVEL).ravel())[:count]


def _places(seed: int, count: int, reach_m: float = 900.0) -> Places:
    rng = np.random.default_rng(seed)
    lat, lon = distance.offset(*PLACE, rng.uniform(-reach_m, reach_m, count), rng.uniform(-reach_m, reach_m, count))
    vectors = torch.from_numpy(rng.normal(size=(count, DIM))).float()
    return Places(F.normalize(vectors, dim=1).requires_grad_(), lat, lon)


def _near_ids() -> np.ndarray:
    places = _places(9, 60)
    return np.unique(s2.cell_ids(places.lat_deg, places.lon_deg, LEVEL))


def _pair(rule: PrototypesConfig = ALL) -> tuple[Prototypes, ShardedPrototypes]:
    table = ShardedPrototypes(_near_ids(), DIM, 1.2, rule, seed=0)
    whole = Prototypes(_near_ids(), DIM, 1.2)
    with torch.no_grad():
        whole.weight.copy_(table.weight)
    return whole, table


@pytest.mark.parametrize("kind", ["softmax", "multi_similarity"])
@pytest.mark.parametrize("rule", [ALL, PrototypesConfig(table="sharded", negatives="sampled", share=1.0, hard_rows=2)])
def test_losses_and_gradients_are_those_of_the_whole_table_when_every_row_is_used(
    kind: str, rule: PrototypesConfig
) -> None:
    config = Config(loss=LossConfig.model_validate({"kind": kind, "beta": 10.0, "query_cell": 0.5, "query_query": 0.2}))
    whole, table = _pair(rule)
    if rule.hard_rows:
        table.clusters = table.cluster(table.seed)
    photos, tiles = _places(0, 12, 600), _places(1, 12, 600)
    expected = Objective(config, whole)(photos, tiles)
    made = Objective(config, table)(photos, tiles, draw=3)
    assert made.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(made[name], loss, atol=1e-5, rtol=1e-5)
    ones, others = (
        torch.autograd.grad(sum(x.mean() for x in losses.values()), [photos.embeddings, tiles.embeddings, leaf])
        for losses, leaf in ((expected, whole.weight), (made, table._selections[0].raw))
    )
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_step_changes_the_rows_it_looked_at_and_no_other() -> None:
    rule = PrototypesConfig(table="sharded", negatives="sampled", share=0.01)
    table = ShardedPrototypes(_ids(3000), DIM, 1.2, rule, seed=0)
    before = table.weight.clone()
    config = Config(loss=LossConfig(kind="softmax", query_aerial=0))
    centre = s2.cell_centers(table.ids[1000:1004])
    places = Places(_places(2, 4).embeddings, *centre)
    losses = Objective(config, table)(places, None)
    looked_at = table._selections[0].rows
    assert len(looked_at) < 100
    losses["query_prototype"].mean().backward()
    table.update(0.1, step=0)
    changed = (table.weight != before).any(dim=1).nonzero().ravel()
    assert len(changed) > 20
    assert set(changed.tolist()) <= set(looked_at.tolist())
    assert torch.equal(table.optimizer.count > 0, (table.weight != before).any(dim=1))


def test_the_expected_sum_of_exponentials_is_that_of_all_rows() -> None:
    """Mean over many draws against the sum itself, within four standard errors."""
    rule = PrototypesConfig(table="sharded", negatives="sampled", share=0.1, hard_rows=3)
    table = ShardedPrototypes(_ids(2000), DIM, 1.2, rule, seed=0)
    table.clusters = table.cluster(table.seed)
    places = Places(_places(4, 3).embeddings.detach(), *s2.cell_centers(table.ids[[5, 700, 1500]]))
    around = table.neighbours(places.lat_deg, places.lon_deg)[0].numpy()
    with torch.no_grad():
        sums = torch.stack(
            [table.log_sum(table.select(around, draw), places.embeddings, 5.0).exp() for draw in range(400)]
        )
        expected = (5 * places.embeddings @ F.normalize(table.weight, dim=1).T).exp().sum(dim=1)
    error = sums.std(dim=0) / 20
    assert (error < 0.02 * expected).all()
    assert ((sums.mean(dim=0) - expected).abs() < 4 * error).all()


def test_a_draw_has_one_row_of_each_stratum_and_the_lengths_add_up() -> None:
    rows, lengths = clusters.strata(1003, 97, np.random.default_rng(0))
    assert lengths.sum() == 1003
    edges = np.concatenate([[0], np.cumsum(lengths)])
    assert ((rows >= edges[:-1]) & (rows < edges[1:])).all()
    every, ones = clusters.strata(50, 80, np.random.default_rng(0))
    np.testing.assert_array_equal(every, np.arange(50))
    assert (ones == 1).all()


def test_certain_rows_stand_for_themselves_and_are_not_counted_twice() -> None:
    rows, stands_for = clusters.with_certain(np.array([7, 3, 7]), np.array([1, 3, 9]), np.array([4, 5, 6], np.float32))
    assert rows.tolist() == [1, 3, 7, 9]
    assert stands_for.tolist() == [4, 1, 1, 6]


def test_hard_rows_look_like_the_cells_they_are_drawn_for() -> None:
    table = ShardedPrototypes(_ids(1500), 16, 1.2, ALL, seed=0)
    centres = F.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    table.weight = F.normalize(centres.repeat(50, 1) + 0.05 * torch.randn(1500, 16), dim=1)
    table.clusters = table.cluster(table.seed)
    assert table.clusters is not None
    rows = np.arange(40)
    alike = table.clusters.hard_rows(rows, 5, np.random.default_rng(0)).reshape(40, 5)
    assert (alike % 30 == rows[:, None] % 30).mean() > 0.8  # by chance: 0.03


def test_the_first_vectors_are_unit_and_do_not_depend_on_who_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellcode.model.prototypes.sharded.BLOCK", 64)
    ids = _ids(1000)
    whole = ShardedPrototypes(ids, DIM, 1.2, ALL, seed=3).weight
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(1000))
    assert (whole @ whole.T).fill_diagonal_(0).max() < 0.999
    parts = []
    for rank in range(3):
        monkeypatch.setattr("cellcode.distributed.collectives.rank", lambda rank=rank: rank)
        monkeypatch.setattr("cellcode.distributed.collectives.world", lambda: 3)
        parts.append(ShardedPrototypes(ids, DIM, 1.2, ALL, seed=3).weight)
    assert torch.equal(torch.cat(parts), whole)


def test_parts_are_contiguous_and_nearly_equal() -> None:
    for count, world in ((10, 3), (2, 5), (BLOCK + 1, 7)):
        parts = [part(count, rank, world) for rank in range(world)]
        assert parts[0][0] == 0
        assert parts[-1][1] == count
        assert all(a[1] == b[0] for a, b in pairwise(parts))
        assert max(b - a for a, b in parts) - min(b - a for a, b in parts) <= 1


def test_a_rowwise_step_is_adam_without_a_first_moment_on_the_rows_mean_square() -> None:
    table = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected, square, count = table.double(), np.zeros(5), np.zeros(5)
    optimizer = RowwiseAdam(table)
    rng = np.random.default_rng(0)
    for rows in ([0, 2], [2, 4], [0, 2]):
        gradient = rng.normal(size=(2, 4))
        optimizer.step(torch.tensor(rows), torch.from_numpy(gradient).float(), 0.1, 0)
        for row, g in zip(rows, gradient, strict=True):
            count[row] += 1
            square[row] = 0.999 * square[row] + 0.001 * (g**2).mean()
            expected[row] -= torch.from_numpy(0.1 * g / (np.sqrt(square[row] / (1 - 0.999 ** count[row])) + 1e-8))
    torch.testing.assert_close(table.double(), expected, atol=1e-5, rtol=1e-5)
    assert optimizer.count.tolist() == [2, 0, 3, 0, 1]


def test_bfloat16_keeps_steps_below_its_precision_on_average() -> None:
    table = torch.ones(2000, 4, dtype=torch.bfloat16)
    optimizer = RowwiseAdam(table)
    rows, gradient = torch.arange(2000), torch.ones(2000, 4)
    for step in range(20):
        optimizer.step(rows, gradient, 1e-4, step)  # a 20th of the distance between two numbers below 1
    assert float(table.float().mean()) == pytest.approx(1 - 20e-4, abs=2e-4)


def test_gathered_it_is_a_table_like_any_other() -> None:
    _, table = _pair()
    whole = table.whole()
    np.testing.assert_array_equal(whole.ids, table.ids)
    assert whole.level == LEVEL
    torch.testing.assert_close(whole.all().detach(), F.normalize(table.weight, dim=1))
