"""The optimiser's parameter groups, the learning rate over the steps, and the moving average of the weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cellcode.config import Config


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return an exponential moving average whose memory grows with the steps taken, up to `decay`.

    A constant decay would let the random start weigh in the result of a short training.
    """

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        if average[0].is_floating_point():  # AveragedModel groups tensors by type
            torch._foreach_lerp_(list(average), list(current), 1 - kept)
        else:
            torch._foreach_copy_(list(average), list(current))

    return update


def learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Linear warm-up, then half a cosine down to zero; in 0..1."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: nn.Module, config: Config) -> Iterator[dict[str, Any]]:
    """Groups by learning rate and weight decay; vectors (biases, norms), prototypes and classes are not decayed."""
    training = config.training
    backbone_rate = training.backbone_learning_rate or training.learning_rate
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(("prototypes.", "classifiers.")):
            key = (training.prototype_learning_rate, 0.0)
        else:
            rate = backbone_rate if ".backbone." in name else training.learning_rate
            key = (rate, training.weight_decay if parameter.ndim > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    for (peak, decay), parameters in groups.items():
        yield {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}
