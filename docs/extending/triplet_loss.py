"""A triplet loss: the hardest positive against a smooth maximum of the negatives. `loss: {kind: triplet_loss:Triplet}`."""

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from cellcode.config import LossConfig
from cellcode.model.losses import PairLoss, PrototypeSums


class Options(BaseModel, extra="forbid"):
    margin: float = Field(0.2, gt=0)
    sharpness: float = Field(30.0, gt=0)


class Triplet(PairLoss):
    def __init__(self, config: LossConfig, **options: float) -> None:
        super().__init__(config)
        self.options = Options(**options)  # pydantic names the first option that is wrong

    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        similarity, sharpness = similarity.float(), self.options.sharpness
        positive = similarity.masked_fill(~positives, torch.inf).amin(dim=1)  # infinite, so a loss of 0, without one
        exponents = (sharpness * similarity).masked_fill(~negatives, -torch.inf)
        log_sum = torch.logsumexp(torch.cat([torch.zeros_like(exponents[:, :1]), exponents], dim=1), dim=1)
        return (self.options.margin + log_sum / sharpness - positive).relu()

    def of_sums(self, sums: PrototypeSums) -> Tensor:  # left out, the loss is refused for sharded prototypes
        log_sum = sums.log_sum(self.options.sharpness, negatives_only=True, plus_one=True)
        return (self.options.margin + log_sum / self.options.sharpness - sums.own()).relu() * (sums.label > 0)
