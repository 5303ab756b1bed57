"""Losses: a row of similarities in, one value per row out."""

from __future__ import annotations

import torch
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


def _log_one_plus_sum_exp(exponents: Tensor) -> Tensor:
    """log(1 + sum exp) along rows, as one stable logsumexp with a zero in front."""
    return torch.logsumexp(torch.cat([torch.zeros_like(exponents[:, :1]), exponents], dim=1), dim=1)
