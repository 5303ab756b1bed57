import math

import pytest
import torch
from torch import Tensor

from cellcode.config import LossConfig
from cellcode.errors import UsageError
from cellcode.model.losses import make_loss

ALPHA, BETA, THRESHOLD = 2.0, 50.0, 0.5


def multi_similarity(
    similarity: Tensor, positives: Tensor, negatives: Tensor, alpha: float, beta: float, threshold: float
) -> Tensor:
    config = LossConfig(kind="multi_similarity", alpha=alpha, beta=beta, threshold=threshold)
    return make_loss(config).of_pairs(similarity, positives, negatives)


def softmax_contrast(similarity: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> Tensor:
    return make_loss(LossConfig(kind="softmax", scale=scale)).of_pairs(similarity, positives, negatives)


def softmax_towards(similarity: Tensor, labels: Tensor, scale: float) -> Tensor:
    return make_loss(LossConfig(kind="softmax", scale=scale)).of_labels(similarity, labels)


def _pairs(seed: int, rows: int = 6, columns: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines, and disjoint masks that leave some pairs in neither."""
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(rows, columns, generator=generator) * 2 - 1
    kind = torch.randint(3, (rows, columns), generator=generator)
    kind[:, 0], kind[:, 1] = 0, 1  # every row has one of both
    return similarity, kind == 0, kind == 1


def _multi_similarity_of_row(
    similarity: list[float], positive: list[bool], negative: list[bool], alpha: float, beta: float, threshold: float
) -> float:
    pull = push = 0.0
    for s, is_positive, is_negative in zip(similarity, positive, negative, strict=True):
        if is_positive:
            pull += math.exp(-alpha * (s - threshold))
        if is_negative:
            push += math.exp(beta * (s - threshold))
    return math.log(1 + pull) / alpha + math.log(1 + push) / beta


@pytest.mark.parametrize(("alpha", "beta", "threshold"), [(2.0, 50.0, 0.5), (1.0, 10.0, 0.0), (4.0, 30.0, 0.8)])
def test_multi_similarity_is_the_formula_of_wang_et_al(alpha: float, beta: float, threshold: float) -> None:
    similarity, positives, negatives = _pairs(0)
    expected = [
        _multi_similarity_of_row(s, p, n, alpha, beta, threshold)
        for s, p, n in zip(similarity.tolist(), positives.tolist(), negatives.tolist(), strict=True)
    ]
    loss = multi_similarity(similarity, positives, negatives, alpha, beta, threshold)
    assert loss.shape == (len(similarity),)
    torch.testing.assert_close(loss, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_multi_similarity_does_not_look_at_ignored_pairs() -> None:
    similarity, positives, negatives = _pairs(1)
    ignored = ~positives & ~negatives
    assert ignored.any()
    changed = torch.where(ignored, torch.full_like(similarity, 0.99), similarity)
    torch.testing.assert_close(
        multi_similarity(changed, positives, negatives, ALPHA, BETA, THRESHOLD),
        multi_similarity(similarity, positives, negatives, ALPHA, BETA, THRESHOLD),
        atol=0,
        rtol=0,
    )


def test_multi_similarity_without_positives_or_negatives_is_the_other_half_alone() -> None:
    similarity, positives, negatives = _pairs(2)
    none = torch.zeros_like(positives)
    both = multi_similarity(similarity, positives, negatives, ALPHA, 10.0, THRESHOLD)
    pull = multi_similarity(similarity, positives, none, ALPHA, 10.0, THRESHOLD)
    push = multi_similarity(similarity, none, negatives, ALPHA, 10.0, THRESHOLD)
    torch.testing.assert_close(pull + push, both)
    assert (pull > 0).all()
    assert (push > 0).all()
    assert (multi_similarity(similarity, none, none, ALPHA, 10.0, THRESHOLD) == 0).all()


def test_multi_similarity_of_rows_without_pairs_has_a_zero_gradient_that_is_a_number() -> None:
    similarity = torch.full((2, 3), 0.4, requires_grad=True)
    none = torch.zeros(2, 3, dtype=torch.bool)
    multi_similarity(similarity, none, none, ALPHA, BETA, THRESHOLD).sum().backward()
    assert similarity.grad is not None
    assert (similarity.grad == 0).all()


def test_multi_similarity_does_not_overflow_for_equal_vectors() -> None:
    """A thousand negatives at similarity 1, beta 50 and a threshold of -1: exp(100) is no float32."""
    similarity = torch.ones(1, 1000, requires_grad=True)
    every = torch.ones(1, 1000, dtype=torch.bool)
    loss = multi_similarity(similarity, ~every, every, ALPHA, 50.0, -1.0)
    torch.testing.assert_close(loss, torch.tensor([(100 + math.log(1000)) / 50]), atol=1e-6, rtol=1e-6)
    loss.sum().backward()
    assert similarity.grad is not None
    torch.testing.assert_close(similarity.grad, torch.full((1, 1000), 1e-3), atol=1e-7, rtol=1e-4)


def test_multi_similarity_computes_in_float32_whatever_it_is_given() -> None:
    similarity, positives, negatives = _pairs(3)
    loss = multi_similarity(similarity.bfloat16(), positives, negatives, ALPHA, BETA, THRESHOLD)
    assert loss.dtype == torch.float32
    expected = multi_similarity(similarity.bfloat16().float(), positives, negatives, ALPHA, BETA, THRESHOLD)
    torch.testing.assert_close(loss, expected, atol=0, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_softmax_contrast_is_the_share_of_all_positives_together(scale: float) -> None:
    similarity, positives, negatives = _pairs(4)
    assert (positives.sum(1) > 1).any()
    expected = []
    for row in range(len(similarity)):
        inside = sum(math.exp(scale * s) for s in similarity[row, positives[row]].tolist())
        outside = sum(math.exp(scale * s) for s in similarity[row, negatives[row]].tolist())
        expected.append(-math.log(inside / (inside + outside)))
    loss = softmax_contrast(similarity, positives, negatives, scale)
    assert loss.shape == (len(similarity),)
    torch.testing.assert_close(loss, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_softmax_contrast_with_one_positive_is_the_usual_cross_entropy() -> None:
    similarity, _, _ = _pairs(5)
    positives = torch.zeros_like(similarity, dtype=torch.bool)
    target = torch.arange(len(similarity))
    positives[target, target] = True
    expected = torch.nn.functional.cross_entropy(10 * similarity, target, reduction="none")
    torch.testing.assert_close(softmax_contrast(similarity, positives, ~positives, 10.0), expected)


def test_softmax_contrast_of_a_row_without_positives_or_negatives_teaches_nothing() -> None:
    similarity, positives, negatives = _pairs(6)
    positives[0], negatives[1] = False, False
    positives[2], negatives[2] = False, False
    similarity.requires_grad_()
    loss = softmax_contrast(similarity, positives, negatives, 20.0)
    assert loss[:3].tolist() == [0, 0, 0]
    assert (loss[3:] > 0).all()
    loss.sum().backward()
    assert similarity.grad is not None
    assert torch.isfinite(similarity.grad).all()
    assert (similarity.grad[:3] == 0).all()
    assert (similarity.grad[3:][negatives[3:]] > 0).all()
    assert (similarity.grad[3:][positives[3:]] < 0).all()
    assert (similarity.grad[3:][~positives[3:] & ~negatives[3:]] == 0).all()


def test_softmax_contrast_is_finite_for_extreme_scales() -> None:
    similarity = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    positives = torch.tensor([[True, False], [True, False]])
    loss = softmax_contrast(similarity, positives, ~positives, 1000.0)
    torch.testing.assert_close(loss, torch.tensor([0.0, 2000.0]))


def test_softmax_towards_is_the_cross_entropy_of_the_targets() -> None:
    similarity, _, _ = _pairs(7)
    targets = torch.rand(similarity.shape, generator=torch.Generator().manual_seed(0))
    targets = targets / targets.sum(1, keepdim=True)
    expected = []
    for s, t in zip(similarity.tolist(), targets.tolist(), strict=True):
        total = sum(math.exp(20 * value) for value in s)
        expected.append(-sum(share * math.log(math.exp(20 * value) / total) for value, share in zip(s, t, strict=True)))
    torch.testing.assert_close(softmax_towards(similarity, targets, 20.0), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_softmax_towards_nothing_is_zero_without_a_gradient() -> None:
    similarity, _, _ = _pairs(8)
    similarity.requires_grad_()
    targets = torch.zeros_like(similarity)
    targets[1, 2] = 1
    loss = softmax_towards(similarity, targets, 20.0)
    loss.sum().backward()
    assert similarity.grad is not None
    others = torch.arange(len(similarity)) != 1
    assert (loss[others] == 0).all()
    assert (similarity.grad[others] == 0).all()
    assert similarity.grad[1, 2] < 0
    assert torch.isfinite(similarity.grad).all()


def test_softmax_towards_is_smallest_where_the_distribution_is_the_target() -> None:
    targets = torch.tensor([[0.5, 0.3, 0.2]])
    reached = softmax_towards(targets.log() / 5, targets, 5.0)
    torch.testing.assert_close(reached, -(targets * targets.log()).sum(1))
    moved = softmax_towards(targets.log() / 5 + torch.tensor([[0.05, 0.0, -0.05]]), targets, 5.0)
    assert (moved > reached).all()


def test_haversine_labels_are_refused_without_a_softmax() -> None:
    with pytest.raises(UsageError, match="haversine are labels of a softmax"):
        make_loss(LossConfig(kind="multi_similarity", prototype_labels="haversine"))
    assert make_loss(LossConfig(prototype_labels="haversine", kind="softmax")).config.haversine_m == 75
