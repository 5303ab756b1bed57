"""Maximum likelihood of the calibration.

With temperature T the logit of a cell is a sum of similarities times coefficients that depend on which terms the cell
has: a conditional logit model (McFadden 1974), concave but for the several cells that count as right. A coarse grid
finds the basin, L-BFGS its bottom.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cellcode.database.similarity import Similarities

GRID_ENTRIES = 1 << 18
KAPPAS = (0.25, 0.5, 1.0, 2.0, 4.0)
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)  # times the length of a code with both terms
TEMPERATURES = (0.02, 0.04, 0.08, 0.16)
PRIOR_SPREAD = math.log(8.0)


@dataclass(frozen=True)
class Free:
    """Which figures the validation photos can tell."""

    kappa: bool
    aerial_only: bool
    prototype_only: bool
    temperature: bool


@dataclass(frozen=True)
class Problem:
    """What is maximised.

    Attributes:
        similarities: V photos against cells.
        photo_weights: (V,), sum 1.
        cosine: mean of z^A . z^P over the cells with both terms; None where no cell has both.
    """

    similarities: Similarities
    photo_weights: npt.NDArray[np.float32]
    cosine: float | None


@dataclass(frozen=True)
class Figures:
    """The result; `log_likelihood` is None when nothing was fitted."""

    kappa: float
    aerial_only: float
    prototype_only: float
    temperature: float
    log_likelihood: float | None


def maximise(problem: Problem, free: Free, kappa: float, temperature: float) -> Figures:
    """Return the figures of largest likelihood; those that are not free stay at their fallbacks.

    A factor that is not free is the mean length of a code with both terms, or 1 where no cell has both.

    Args:
        kappa, temperature: used where they are not free.
    """
    model = _Model(problem, free, kappa, temperature)
    if not any((free.kappa, free.aerial_only, free.prototype_only, free.temperature)):
        return model.figures(model.start(), None)
    with torch.no_grad():
        small = model.thinned()
        best = min(model.grid(), key=lambda point: float(small.loss(point)))
    point = best.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([point], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = model.loss(point)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found = point.detach() if torch.isfinite(point).all() else best
    with torch.no_grad():
        return model.figures(found, -float(model.loss(found, prior=False)))


class _Model:
    """The loss as a function of four logarithms: kappa, the two factors (over the length of a code), temperature."""

    def __init__(self, problem: Problem, free: Free, kappa: float, temperature: float) -> None:
        s = problem.similarities
        self.problem, self.free, self.fixed_kappa, self.fixed_temperature = problem, free, kappa, temperature
        self.aerial, self.prototypes = torch.from_numpy(s.aerial), torch.from_numpy(s.prototypes)
        self.near = torch.from_numpy(s.near)
        self.log_count = torch.from_numpy(np.log(s.stands_for))
        self.kind = torch.from_numpy(s.kind)
        self.weights = torch.from_numpy(problem.photo_weights)

    def start(self) -> Tensor:
        return torch.tensor([0.0, 0.0, 0.0, math.log(self.fixed_temperature)])

    def grid(self) -> list[Tensor]:
        """Points over what is free."""
        axes = [
            [math.log(x) for x in values] if is_free else [0.0]
            for values, is_free in (
                (KAPPAS, self.free.kappa),
                (FACTORS, self.free.aerial_only),
                (FACTORS, self.free.prototype_only),
                (TEMPERATURES, self.free.temperature),
            )
        ]
        return [torch.tensor(point) for point in itertools.product(*axes)]

    def thinned(self) -> _Model:
        """The same over evenly spaced photos, so that a grid point costs about a millisecond."""
        s = self.problem.similarities
        keep = slice(None, None, max(1, s.photos * len(s.stands_for) // GRID_ENTRIES))
        thin = _Model(self.problem, self.free, self.fixed_kappa, self.fixed_temperature)
        thin.aerial, thin.prototypes = self.aerial[keep], self.prototypes[keep]
        thin.near, thin.weights = self.near[keep], self.weights[keep] / self.weights[keep].sum().clamp(min=1e-12)
        return thin

    def parts(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return kappa, both factors and temperature of a point."""
        kappa = point[0].exp() if self.free.kappa else torch.tensor(float(self.fixed_kappa))
        length = torch.ones(())
        if self.problem.cosine is not None:
            length = (1 + kappa**2 + 2 * kappa * self.problem.cosine).clamp(min=1e-6).sqrt()
        aerial = length * point[1].exp() if self.free.aerial_only else length
        prototype = length * point[2].exp() if self.free.prototype_only else length
        temperature = point[3].exp() if self.free.temperature else torch.tensor(self.fixed_temperature)
        return kappa, aerial, prototype, temperature

    def loss(self, point: Tensor, prior: bool = True) -> Tensor:
        """Negative mean log posterior mass near the true positions.

        The prior has the weight of one photo; it only matters where the photos say next to nothing.
        """
        kappa, aerial, prototype, temperature = self.parts(point)
        zero = torch.zeros(())
        on_aerial = torch.stack([torch.ones(()), aerial, zero])[self.kind] / temperature
        on_prototypes = torch.stack([kappa, zero, prototype])[self.kind] / temperature
        logits = self.aerial * on_aerial + self.prototypes * on_prototypes + self.log_count
        inside = logits.masked_fill(~self.near, -math.inf).logsumexp(dim=1)
        mass = inside - logits.logsumexp(dim=1)
        fit = -(self.weights * mass).sum()
        penalty = (point[:3] ** 2).sum() / (2 * PRIOR_SPREAD**2 * max(len(self.weights), 1))
        return fit + penalty if prior else fit

    def figures(self, point: Tensor, log_likelihood: float | None) -> Figures:
        kappa, aerial, prototype, temperature = (float(part) for part in self.parts(point))
        return Figures(kappa, aerial, prototype, temperature, log_likelihood)
