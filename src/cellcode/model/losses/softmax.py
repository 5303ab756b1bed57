"""Cross-entropies of softmax(scale s); our choice."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.model.losses.protocol import PairLoss, PrototypeSums


class Softmax(PairLoss):
    """InfoNCE over pairs, and cross-entropy towards soft labels over prototypes, as PIGEON's smoothed labels."""

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
