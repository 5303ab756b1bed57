"""What a loss is, and how the name in `loss.kind` becomes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from cellcode.config import LossConfig
from cellcode.errors import CellcodeError, PluginError, UsageError
from cellcode.plugins import Registry, described


class PrototypeSums(ABC):
    """What a loss can know of rows of similarities to prototypes that are split over processes; N rows of this process."""

    @abstractmethod
    def own(self) -> Tensor:
        """Return the similarity of the prototype interpolated at each position, (N,)."""

    @abstractmethod
    def attraction(self) -> Tensor:
        """Return the sum of label times similarity over each row, (N,)."""

    @abstractmethod
    def label(self) -> Tensor:
        """Return the sum of the labels of each row, (N,): 1, or 0 where no prototype is near."""

    @abstractmethod
    def log_sum(
        self, scale: float, shift: float = 0.0, *, negatives_only: bool = False, plus_one: bool = False
    ) -> Tensor:
        """Return log(sum over the row of exp(scale s + shift)), (N,) float32; every process has to call it.

        Args:
            scale, shift: of the exponents.
            negatives_only: leave out prototypes that are near the position.
            plus_one: add 1 to the sum.
        """


class PairLoss(ABC):
    """From a row of similarities to one value per row.

    A factory is called with the block `loss` of the configuration and the options as keyword arguments.

    Attributes:
        soft_labels: photos and tiles are drawn to the prototypes around them by their interpolation weights (`of_labels`),
            not to the one prototype interpolated at the position (`of_pairs`).
    """

    soft_labels = False

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    @abstractmethod
    def of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return one value per row, (N,) float32.

        Args:
            similarity: (N, M) float, cosines.
            positives, negatives: (N, M) bool, disjoint; other pairs do not count. A row may have none of either.
        """

    def of_labels(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """Return one value per row, (N,) float32; only losses with `soft_labels` need it.

        Args:
            similarity: (N, M) float, cosines.
            labels: (N, M) float32, rows that sum to 1, or to 0 for positions without a prototype near them.
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
        "multi_similarity": "cellcode.model.losses.multi_similarity:MultiSimilarity",
        "softmax": "cellcode.model.losses.softmax:Softmax",
    },
)


def make_loss(config: LossConfig, *, sharded: bool = False) -> PairLoss:
    """Return the loss of a configuration, after a trial with two rows.

    Args:
        sharded: prototypes are split over processes.

    Raises:
        UsageError: the name is unknown, or the configuration asks for what the loss cannot do.
        PluginError: it cannot be built, or does not return one finite value per row.
    """
    loss = LOSSES.make(config.kind, config, **config.options)
    if config.prototype_labels == "haversine" and not loss.soft_labels:
        raise UsageError("loss.prototype_labels haversine are labels of a softmax; set loss.kind to softmax")
    similarity, first = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1]]), torch.tensor([[True, False, False]] * 2)
    _try(config.kind, "of_pairs", lambda: loss.of_pairs(similarity, first, ~first))
    if loss.soft_labels:
        _try(config.kind, "of_labels", lambda: loss.of_labels(similarity, first.float()))
    if sharded:
        _try(config.kind, "of_sums", lambda: loss.of_sums(_Trial()))
    return loss


def one_per_row(name: str, values: Tensor, rows: int) -> Tensor:
    """Return what a loss gave for some rows.

    Raises:
        PluginError: it is not one value per row.
    """
    if not isinstance(values, Tensor) or values.shape != (rows,) or not values.is_floating_point():
        given = (
            f"{values.dtype} of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        )
        raise PluginError(f"loss {name}: expected one float per row, shape ({rows},), and it returned {given}")
    return values


def _try(name: str, method: str, call: Callable[[], Tensor]) -> None:
    try:
        values = one_per_row(name, call(), 2)
    except CellcodeError:
        raise
    except Exception as error:
        raise PluginError(f"loss {name}: {method} of two rows raised {described(error)}") from error
    if not values.isfinite().all():
        raise PluginError(f"loss {name}: {method} of two rows returned {values.tolist()}, expected finite values")


class _Trial(PrototypeSums):
    def own(self) -> Tensor:
        return torch.tensor([0.9, 0.3])

    attraction = own

    def label(self) -> Tensor:
        return torch.ones(2)

    def log_sum(
        self, scale: float, shift: float = 0.0, *, negatives_only: bool = False, plus_one: bool = False
    ) -> Tensor:
        return scale * self.own() + shift
