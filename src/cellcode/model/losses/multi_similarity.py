"""The multi-similarity loss: Wang et al., CVPR 2019, eq. 10 without pair mining; the paper's loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.model.losses.protocol import PairLoss, PrototypeSums


class MultiSimilarity(PairLoss):
    """Pulls and pushes each pair by how far its similarity is from a threshold.

    1/alpha log(1 + sum over positives of exp(-alpha (s - threshold)))
    + 1/beta log(1 + sum over negatives of exp(beta (s - threshold)))

    A row without positives (negatives) gets 0 from that half.
    """

    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `PairLoss.of_pairs`."""
        alpha, beta = self.config.alpha, self.config.beta
        margin = similarity.float() - self.config.threshold
        pull = _log_one_plus_sum_exp((-alpha * margin).masked_fill(~positives, -torch.inf)) / alpha
        push = _log_one_plus_sum_exp((beta * margin).masked_fill(~negatives, -torch.inf)) / beta
        return pull + push

    def of_sums(self, sums: PrototypeSums) -> Tensor:
        """See `PairLoss.of_sums`: the only positive is the prototype interpolated at the position."""
        alpha, beta, threshold = self.config.alpha, self.config.beta, self.config.threshold
        push = sums.log_sum(beta, -beta * threshold, negatives_only=True, plus_one=True)
        pull = F.softplus(-alpha * (sums.own().float() - threshold)) * (sums.label > 0)
        return pull / alpha + push / beta


def _log_one_plus_sum_exp(exponents: Tensor) -> Tensor:
    """log(1 + sum exp) along rows, as one stable logsumexp with a zero in front."""
    return torch.logsumexp(torch.cat([torch.zeros_like(exponents[:, :1]), exponents], dim=1), dim=1)
