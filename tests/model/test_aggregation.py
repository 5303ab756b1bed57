from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from cellcode.config import AggregationConfig
from cellcode.model.aggregation import make_aggregation
from cellcode.model.aggregation.methods import FLATTEN_GRID, GeM, OptimalTransport, log_sinkhorn
from cellcode.model.backbones import Features
from cellcode.types import Float64

SMALL = AggregationConfig(name="optimal_transport", clusters=5, cluster_dim=3, token_dim=4)


def _map(seed: int = 0, channels: int = 8, height: int = 6, width: int = 7) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


def _transport(config: AggregationConfig = SMALL, channels: int = 8, seed: int = 0) -> OptimalTransport:
    torch.manual_seed(seed)
    return OptimalTransport(channels, config)


def _plain_sinkhorn(scores: Float64, rows: Float64, columns: Float64, steps: int) -> Float64:
    """Cuturi's iteration as written: scale the rows of K = exp(scores), then its columns."""
    kernel = np.exp(scores)
    left, right = np.ones(len(rows)), np.ones(len(columns))
    for _ in range(steps):
        left = rows / (kernel @ right)
        right = columns / (kernel.T @ left)
    return left[:, None] * kernel * right[None]


@pytest.mark.parametrize("name", ["mean", "gem", "flatten", "optimal_transport"])
def test_every_aggregation_gives_one_vector_of_its_announced_length(name: str) -> None:
    aggregation = make_aggregation(AggregationConfig(name=name), 8)
    for height, width in [(6, 7), (1, 1), (3, 9)]:
        made = aggregation(Features(_map(height=height, width=width)))
        assert made.shape == (2, aggregation.out_dim)
        assert made.dtype == torch.float32
        assert torch.isfinite(made).all()


def test_mean_is_the_mean_over_the_map() -> None:
    x = _map()
    made = make_aggregation(AggregationConfig(name="mean"), 8)(Features(x))
    np.testing.assert_allclose(made.numpy(), x.numpy().reshape(2, 8, -1).mean(-1), atol=1e-6)


def test_gem_with_power_one_is_the_mean_of_the_positive_part() -> None:
    x = _map()
    with torch.no_grad():
        made = GeM(8, AggregationConfig(gem_p=1.0))(Features(x))
    np.testing.assert_allclose(made.numpy(), x.numpy().clip(0).reshape(2, 8, -1).mean(-1), atol=2e-6)


def test_gem_is_the_generalised_mean() -> None:
    x = _map().abs() + 0.1
    made = GeM(8, AggregationConfig(gem_p=3.0))(Features(x)).detach().numpy()
    np.testing.assert_allclose(made, (x.numpy().reshape(2, 8, -1) ** 3).mean(-1) ** (1 / 3), rtol=1e-5)


def test_gem_approaches_the_maximum_with_its_power() -> None:
    x = _map().abs() / 2 + 0.1
    largest = x.flatten(2).amax(2)
    gaps = [(largest - GeM(8, AggregationConfig(gem_p=p))(Features(x)).detach()) for p in (1.0, 3.0, 10.0, 40.0)]
    for low, high in pairwise(gaps):
        assert (high < low).all()
    assert (gaps[-1] >= 0).all()
    assert (gaps[-1] < 0.12 * largest).all()


def test_gem_learns_its_power() -> None:
    aggregation = GeM(8, AggregationConfig(gem_p=3.0))
    aggregation(Features(_map())).sum().backward()
    assert aggregation.p.grad is not None
    assert aggregation.p.grad != 0


def test_flatten_keeps_a_map_of_its_own_grid_as_it_is() -> None:
    x = _map(height=FLATTEN_GRID, width=FLATTEN_GRID)
    made = make_aggregation(AggregationConfig(name="flatten"), 8)(Features(x))
    torch.testing.assert_close(made, x.reshape(2, -1))


def test_flatten_averages_larger_maps_in_a_grid() -> None:
    x = _map(height=2 * FLATTEN_GRID, width=3 * FLATTEN_GRID)
    made = make_aggregation(AggregationConfig(name="flatten"), 8)(Features(x))
    expected = x.numpy().reshape(2, 8, FLATTEN_GRID, 2, FLATTEN_GRID, 3).mean((3, 5)).reshape(2, -1)
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_sinkhorn_columns_are_exact_after_every_step(steps: int) -> None:
    scores = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0)) * 3
    columns = torch.rand(11, generator=torch.Generator().manual_seed(1)) + 0.5
    rows = torch.full((5,), float(columns.sum()) / 5)
    plan = log_sinkhorn(scores, rows.log(), columns.log(), steps).exp()
    torch.testing.assert_close(plan.sum(1), columns.expand(3, -1), atol=1e-5, rtol=1e-5)


def test_sinkhorn_rows_converge_to_their_targets() -> None:
    scores = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0)).double() * 2
    rows = torch.tensor([1.0, 1.0, 1.0, 1.0, 7.0]).double()
    errors = [
        float((log_sinkhorn(scores, rows.log(), torch.zeros(11).double(), steps).exp().sum(2) - rows).abs().max())
        for steps in (1, 5, 25, 100)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-8


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_sinkhorn_equals_the_plain_iteration_without_logarithms(steps: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (4, 5, 9))
    rows, columns = np.array([1.0, 1, 1, 1, 5]), np.ones(9)
    made = log_sinkhorn(
        torch.from_numpy(scores), torch.from_numpy(np.log(rows)), torch.from_numpy(np.log(columns)), steps
    ).exp()
    for plan, one in zip(made.numpy(), scores, strict=True):
        np.testing.assert_allclose(plan, _plain_sinkhorn(one, rows, columns, steps), rtol=1e-10)


def test_sinkhorn_stands_scores_whose_exponentials_overflow() -> None:
    scores = torch.tensor([[[500.0, -500.0, 0.0], [-500.0, 500.0, 0.0]]])
    plan = log_sinkhorn(scores, torch.tensor([1.5, 1.5]).log(), torch.zeros(3), 20).exp()
    torch.testing.assert_close(plan[0], torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("features", [1, 3, 5, 6, 40])
def test_a_plan_is_nonnegative_and_gives_no_feature_more_than_its_mass(features: int) -> None:
    scores = torch.randn(3, SMALL.clusters, features, generator=torch.Generator().manual_seed(0)) * 4
    plan = _transport().assign(scores).detach()
    assert plan.shape == (3, SMALL.clusters, features)
    assert torch.isfinite(plan).all()
    assert (plan >= 0).all()
    assert (plan.sum(1) <= 1 + 1e-5).all()
    assert (plan.sum(1) < 0.999).any()  # something went to the dustbin


@pytest.mark.parametrize(("features", "each"), [(40, 1.0), (6, 1.0), (5, 5 / 6), (2, 2 / 6)])
def test_every_cluster_receives_its_share_and_the_dustbin_the_rest(features: int, each: float) -> None:
    transport = _transport(SMALL.model_copy(update={"sinkhorn_steps": 100}))
    plan = transport.assign(torch.randn(2, SMALL.clusters, features, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(plan.sum(2), torch.full((2, SMALL.clusters), each), atol=1e-3, rtol=0)


def test_a_plan_equals_the_plain_iteration_with_a_dustbin_row() -> None:
    transport = _transport()
    with torch.no_grad():
        transport.dustbin.fill_(0.3)
    scores = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))
    rows = np.array([1.0] * 5 + [7.0])
    for one, plan in zip(scores, transport.assign(scores).detach(), strict=True):
        with_dustbin = np.concatenate([one.double().numpy(), np.full((1, 12), 0.3)])
        expected = _plain_sinkhorn(with_dustbin, rows, np.ones(12), SMALL.sinkhorn_steps)[:-1]
        np.testing.assert_allclose(plan.numpy(), expected, atol=1e-5)


def test_a_constant_on_all_scores_of_a_cluster_changes_nothing() -> None:
    """Rows are scaled to their sums first, so only differences within a cluster's (or the dustbin's) scores count."""
    transport = _transport()
    scores = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))
    before = transport.assign(scores).detach()
    with torch.no_grad():
        transport.dustbin.fill_(-4.0)
    moved = scores + torch.tensor([3.0, -2, 0, 1, 8])[:, None]
    torch.testing.assert_close(transport.assign(moved).detach(), before, atol=1e-5, rtol=1e-4)


def test_optimal_transport_sums_projected_features_by_their_assignment() -> None:
    """The output rebuilt feature by feature, in loops."""
    transport, x = _transport(), _map()
    made = transport(Features(x)).detach()
    for image, vector in zip(x, made, strict=True):
        local = [image[:, row, column] for row in range(image.shape[1]) for column in range(image.shape[2])]
        plan = transport.assign(torch.stack([transport.score(f) for f in local], dim=1)[None])[0]
        parts = []
        for cluster in range(SMALL.clusters):
            total = sum(plan[cluster, n] * transport.project(f) for n, f in enumerate(local))
            assert isinstance(total, Tensor)
            parts.append(total / total.norm())
        assert transport.token is not None
        token = transport.token(image.mean((1, 2)))
        whole = torch.cat([*parts, token / token.norm()])
        torch.testing.assert_close(vector, (whole / whole.norm()).detach(), atol=1e-5, rtol=1e-4)


def test_the_order_of_local_features_does_not_matter() -> None:
    transport, x = _transport(), _map()
    order = torch.randperm(42, generator=torch.Generator().manual_seed(0))
    mixed = x.flatten(2)[:, :, order].reshape(x.shape)
    assert not torch.equal(mixed, x)
    torch.testing.assert_close(transport(Features(mixed)), transport(Features(x)), atol=1e-5, rtol=1e-4)


def test_optimal_transport_gives_unit_vectors_that_differ_between_images() -> None:
    made = _transport()(Features(_map())).detach()
    torch.testing.assert_close(made.norm(dim=1), torch.ones(2))
    assert (made[0] - made[1]).norm() > 0.1


def test_without_a_token_only_clusters_are_left() -> None:
    config = SMALL.model_copy(update={"token_dim": 0})
    transport, x = _transport(config), _map()
    made = transport(Features(x)).detach()
    assert transport.token is None
    assert made.shape == (2, config.clusters * config.cluster_dim)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(2))
    # A class token has nowhere to go.
    torch.testing.assert_close(transport(Features(x, torch.randn(2, 8))).detach(), made, atol=0, rtol=0)


def test_a_class_token_takes_the_place_of_the_mean() -> None:
    transport, x = _transport(), _map()
    mean = x.mean((2, 3))
    torch.testing.assert_close(transport(Features(x, mean)), transport(Features(x)))
    clusters = SMALL.clusters * SMALL.cluster_dim
    other = transport(Features(x, mean + 5)).detach()
    assert not torch.allclose(other[:, clusters:], transport(Features(x))[:, clusters:], atol=1e-2)
    torch.testing.assert_close(other[:, :clusters], transport(Features(x))[:, :clusters].detach())


def test_every_part_of_optimal_transport_learns() -> None:
    transport = _transport()
    weights = torch.randn(2, transport.out_dim, generator=torch.Generator().manual_seed(5))
    (transport(Features(_map())) * weights).sum().backward()
    for name, parameter in transport.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name not in ("dustbin", "score.2.bias"):  # constants of a row, which the transport takes out again
            assert parameter.grad.abs().max() > 1e-5, name
