"""Losses: a row of similarities in, one value per row out.

Each loss over prototypes exists twice: from a row of similarities, and from the sums of that row, which processes that hold
parts of the row can add up. Both give the same value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_similarity(
    similarity: Tensor, positives: Tensor, negatives: Tensor, alpha: float, beta: float, threshold: float
) -> Tensor:
    """Multi-similarity loss of each row (Wang et al., CVPR 2019, eq. 10 without pair mining).

    1/alpha log(1 + sum over positives of exp(-alpha (s - threshold)))
    + 1/beta log(1 + sum over negatives of exp(beta (s - threshold)))

    Args:
        similarity: (B, N) s, cosines.
        positives: (B, N) bool.
        negatives: (B, N) bool; pairs that are neither are ignored.

    Returns:
        (B,) float32; a row without positives (negatives) gets 0 from that half.
    """
    margin = similarity.float() - threshold
    pull = _log_one_plus_sum_exp((-alpha * margin).masked_fill(~positives, -torch.inf)) / alpha
    push = _log_one_plus_sum_exp((beta * margin).masked_fill(~negatives, -torch.inf)) / beta
    return pull + push


def softmax_contrast(similarity: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the positives as one class against the negatives (InfoNCE with several positives; our choice).

    -log(sum over positives of exp(scale s) / sum over positives and negatives of exp(scale s))

    Args:
        similarity, positives, negatives: as in `multi_similarity`.

    Returns:
        (B,) float32; a row without positives or without negatives gets 0.
    """
    logits = scale * similarity.float()
    inside = torch.logsumexp(logits.masked_fill(~positives, -torch.inf), dim=1)
    outside = torch.logsumexp(logits.masked_fill(~negatives, -torch.inf), dim=1)
    # softplus(outside - inside); without either side the difference is infinite or not a number, the row teaches nothing.
    known = positives.any(dim=1) & negatives.any(dim=1)
    return F.softplus(torch.where(known, outside, 0) - torch.where(known, inside, 0)) * known


def softmax_towards(similarity: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Cross-entropy of softmax(scale s) towards soft targets, as PIGEON's smoothed labels (our choice).

    Args:
        similarity: (B, N) s, cosines.
        targets: (B, N), rows that sum to 1, or to 0 for samples without a target.

    Returns:
        (B,) float32.
    """
    return -(targets * F.log_softmax(scale * similarity.float(), dim=1)).sum(dim=1)


def multi_similarity_of_sums(
    own: Tensor, known: Tensor, push_log_sum: Tensor, alpha: float, beta: float, threshold: float
) -> Tensor:
    """`multi_similarity` with one positive a row.

    Args:
        own: (B,) similarity of the positive.
        known: (B,) bool, whether there is one.
        push_log_sum: (B,) log(1 + sum over negatives of exp(beta (s - threshold))).
    """
    pull = F.softplus(-alpha * (own.float() - threshold)) * known
    return pull / alpha + push_log_sum / beta


def softmax_towards_of_sums(attraction: Tensor, label: Tensor, log_sum: Tensor, scale: float) -> Tensor:
    """`softmax_towards`.

    Args:
        attraction: (B,) sum over the row of target times s.
        label: (B,) sum of the targets.
        log_sum: (B,) log(sum over the row of exp(scale s)).
    """
    return label * log_sum - scale * attraction.float()


def _log_one_plus_sum_exp(exponents: Tensor) -> Tensor:
    """log(1 + sum exp) along rows, as one stable logsumexp with a zero in front."""
    return torch.logsumexp(torch.cat([torch.zeros_like(exponents[:, :1]), exponents], dim=1), dim=1)
