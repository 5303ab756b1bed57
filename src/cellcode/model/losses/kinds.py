"""The multi-similarity loss of the paper, and cross-entropies of a softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.model.losses import PairLoss, PrototypeSums


class MultiSimilarity(PairLoss):
    """Pulls and pushes each pair by how far its similarity is from a threshold; the paper's loss.

    1/alpha log(1 + sum over positives of exp(-alpha (s - threshold)))
    + 1/beta log(1 + sum over negatives of exp(beta (s - threshold)))

    Wang et al., CVPR 2019, eq. 10 without pair mining. A row without positives (negatives) gets 0 from that half.
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


class Softmax(PairLoss):
    """InfoNCE over pairs, and cross-entropy towards soft labels over prototypes, as PIGEON's smoothed labels; our choice."""

    soft_labels = True

    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the cross-entropy of the positives as one class against the negatives; see `PairLoss.of_pairs`.

        -log(sum over positives of exp(scale s) / sum over positives and negatives of exp(scale s))

        A row without positives or without negatives gets 0.
        """
        logits = self.config.scale * similarity.float()
        inside = torch.logsumexp(logits.masked_fill(~positives, -torch.inf), dim=1)
        outside = torch.logsumexp(logits.masked_fill(~negatives, -torch.inf), dim=1)
        # softplus(outside - inside); without either side the difference is infinite or not a number: the row gets 0.
        known = positives.any(dim=1) & negatives.any(dim=1)
        return F.softplus(torch.where(known, outside, 0) - torch.where(known, inside, 0)) * known

    def of_labels(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of softmax(scale s) towards the labels; see `PairLoss.of_labels`."""
        return -(labels * F.log_softmax(self.config.scale * similarity.float(), dim=1)).sum(dim=1)

    def of_sums(self, sums: PrototypeSums) -> Tensor:
        """Return `of_labels` from sums; see `PairLoss.of_sums`."""
        scale = self.config.scale
        return sums.label * sums.log_sum(scale) - scale * sums.attraction().float()
