"""Losses: from a row of similarities to one value per row. `LOSSES` has them by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.config import LossConfig
from cellcode.errors import CellcodeError, PluginError, UsageError
from cellcode.model.checks import require_shape
from cellcode.plugins import Registry, described


class LogSum(Protocol):
    """log(sum over a row of exp(scale s + shift)), whose terms several processes hold."""

    def __call__(
        self, scale: float, shift: float = 0.0, *, negatives_only: bool = False, plus_one: bool = False
    ) -> Tensor:
        """Return it for each row, (N,) float32, perhaps without prototypes near the position; every process calls it."""


@dataclass(frozen=True)
class PrototypeSums:
    """What a loss can know of N rows of similarities to prototypes that are split over processes."""

    embeddings: Tensor  # (N, D) of the rows
    mean: Tensor  # (N, D), the mean of the prototypes around each position, weighted by the labels
    label: Tensor  # (N,) sum of the labels of each row: 1, or 0 where no prototype is near
    log_sum: LogSum

    def own(self) -> Tensor:
        """Return (N,), the similarity of the prototype interpolated at each position."""
        return (self.embeddings * F.normalize(self.mean, dim=1)).sum(dim=1)

    def attraction(self) -> Tensor:
        """Return (N,), the sum of label times similarity over each row: labels are the weights of the mean."""
        return (self.embeddings * self.mean).sum(dim=1)


class PairLoss(ABC):
    """From a row of similarities to one value per row.

    A factory is called with the block `loss` of the configuration and the options as keyword arguments. With `soft_labels`
    photos and tiles are drawn to the prototypes around them by their interpolation weights (`of_labels`), not to the one
    prototype interpolated at the position (`of_pairs`).
    """

    soft_labels = False

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    @abstractmethod
    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return one value per row, (N,) float32, from cosines (N, M).

        Positives and negatives (N, M) are disjoint; other pairs do not count. A row may have none of either.
        """

    def of_labels(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """Return one value per row, (N,) float32, from cosines (N, M); only losses with `soft_labels` need it.

        Rows of the labels (N, M) float32 sum to 1, or to 0 for positions without a prototype near them.
        """
        raise PluginError(f"loss {self.config.kind} has soft_labels and no of_labels")

    def of_sums(self, sums: PrototypeSums) -> Tensor:
        """Return `of_labels` or `of_pairs` of similarities to prototypes that are sharded, (N,) float32."""
        raise UsageError(f"loss {self.config.kind} needs prototypes.table: whole")


LOSSES: Registry[PairLoss] = Registry(
    "loss",
    "cellcode.losses",
    PairLoss,  # type: ignore[type-abstract]  # factories return subclasses
    {
        "multi_similarity": "cellcode.model.losses.kinds:MultiSimilarity",
        "softmax": "cellcode.model.losses.kinds:Softmax",
    },
)


def make_loss(config: LossConfig, *, sharded: bool = False) -> PairLoss:
    """Return the loss of a configuration, after a trial with two rows; `sharded` prototypes are split over processes.

    Raises:
        UsageError: the name is unknown, or the configuration asks for what the loss cannot do.
        PluginError: it cannot be built, or does not return one finite value per row.
    """
    loss = LOSSES.make(config.kind, config, **config.options)
    if config.prototype_labels == "haversine" and not loss.soft_labels:
        raise UsageError("loss.prototype_labels haversine are labels of a softmax; set loss.kind to softmax")
    similarity, first = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1]]), torch.tensor([[True, False, False]] * 2)
    _try(config.kind, lambda: loss.of_pairs(similarity, first, ~first))
    if loss.soft_labels:
        _try(config.kind, lambda: loss.of_labels(similarity, first.float()))
    if sharded:
        own = similarity[:, 0]
        sums = PrototypeSums(similarity, similarity, torch.ones(2), lambda scale, shift=0.0, **_: scale * own + shift)
        _try(config.kind, lambda: loss.of_sums(sums))
    return loss


def _try(name: str, call: Callable[[], Tensor]) -> None:
    try:
        values = call()
    except CellcodeError:
        raise
    except Exception as error:
        raise PluginError(f"loss {name}: two rows of similarities raised {described(error)}") from error
    require_shape(f"loss {name}", "one value per row", values, 2)
    if not values.isfinite().all():
        raise PluginError(f"loss {name}: expected finite values, and of two rows it returned {values.tolist()}")
