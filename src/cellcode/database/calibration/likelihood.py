"""Maximum likelihood of the calibration.

With temperature T the logit of a cell is a sum of similarities times coefficients that depend on which terms the cell
has: a conditional logit model (McFadden 1974), concave but for the several cells that count as right. A coarse grid
finds the basin, L-BFGS its bottom.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cellcode.database.calibration.similarity import Similarities
from cellcode.types import Float32

FIT_ENTRIES = 1 << 22  # photos x cells that a fit looks at: with more photos it is slower, not better
GRID_ENTRIES = 1 << 18
KAPPAS = (0.25, 0.5, 1.0, 2.0, 4.0)
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)  # times the length of a code with both terms
TEMPERATURES = (0.02, 0.04, 0.08, 0.16)
IMPUTED = 0.5  # initial weight of imputed prototypes, times kappa
PRIOR_SPREAD = math.log(8.0)


@dataclass(frozen=True)
class Free:
    """Which figures the validation photos determine."""

    kappa: bool
    aerial_only: bool
    prototype_only: bool
    temperature: bool
    imputed: bool = False


@dataclass(frozen=True)
class Figures:
    """The result; `log_likelihood` is None when nothing was fitted."""

    kappa: float
    aerial_only: float
    prototype_only: float
    temperature: float
    imputed: float
    log_likelihood: float | None


class Model:
    """The loss as a function of five logarithms.

    Those of kappa, of the two factors (over the length of a code with both terms, or 1 where no cell has both), of the
    temperature, and of the weight of imputed prototypes (over kappa). `cosine` is the mean of z^A . z^P over the cells with
    both terms, None where no cell has both; `kappa` and `temperature` are used where they are not free.
    """

    def __init__(
        self, similarities: Similarities, cosine: float | None, free: Free, kappa: float, temperature: float
    ) -> None:
        s = similarities
        self.photos = slice(None, None, max(1, -(-s.photos * len(s.stands_for) // FIT_ENTRIES)))  # evenly spaced
        self.free, self.cosine, self.fixed_kappa, self.fixed_temperature = free, cosine, kappa, temperature
        self.usual = torch.tensor([0.0, 0.0, 0.0, math.log(temperature), 0.0])  # the point that the prior favours
        # Cells of one kind side by side, each kind with the similarities it has.
        kinds = [np.flatnonzero(s.kind == kind) for kind in range(3)]
        order = np.concatenate(kinds)
        self.both, self.aerial_only, self.prototype_only = (
            [torch.from_numpy(term[self.photos][:, cells]) for term in terms]
            for cells, terms in zip(
                kinds, ((s.aerial, s.prototypes), (s.aerial, s.imputed), (s.prototypes,)), strict=True
            )
        )
        self.near = torch.from_numpy(s.near[self.photos][:, order])
        self.log_count = torch.from_numpy(np.log(s.stands_for[order]))

    def maximise(self, photo_weights: Float32, start: Figures | None = None) -> Figures:
        """Return the figures of largest likelihood under weights of the photos, (V,); what is not free keeps its fallback.

        It begins at `start`, or at the best point of a grid.
        """
        weights, free = torch.from_numpy(photo_weights[self.photos]), self.free
        weights = weights / weights.sum().clamp(min=1e-12)
        if not any((free.kappa, free.aerial_only, free.prototype_only, free.temperature)):
            return self._figures(
                torch.tensor([0.0, 0.0, 0.0, math.log(self.fixed_temperature), math.log(IMPUTED)]), None
            )
        with torch.no_grad():
            best = self._point(start) if start is not None else self._searched(weights)
        point = best.clone().requires_grad_(True)
        _minimise(point, lambda: self._loss(point, weights), 60)
        found = point.detach() if torch.isfinite(point).all() else best
        with torch.no_grad():
            return self._figures(found, -float(self._loss(found, weights, prior=False)))

    def _point(self, figures: Figures) -> Tensor:
        """The inverse of `_parts`."""
        length, kappa = float(self._length(torch.tensor(figures.kappa))), max(figures.kappa, 1e-6)
        factors = (figures.aerial_only / length, figures.prototype_only / length)
        values = (kappa, *factors, figures.temperature, max(figures.imputed, 1e-6) / kappa)
        return torch.tensor([math.log(value) for value in values])

    def _searched(self, weights: Tensor) -> Tensor:
        """The best point of a grid over what is free, on evenly spaced photos: a point costs about a millisecond."""
        keep = slice(None, None, max(1, len(self.near) * len(self.log_count) // GRID_ENTRIES))
        given = (self.free.kappa, self.free.aerial_only, self.free.prototype_only, self.free.temperature)
        tried = (KAPPAS, FACTORS, FACTORS, TEMPERATURES)
        axes = [[math.log(x) for x in each] if is_free else [0.0] for each, is_free in zip(tried, given, strict=True)]
        points = [torch.tensor([*point, math.log(IMPUTED)]) for point in itertools.product(*axes)]
        thin = weights[keep] / weights[keep].sum().clamp(min=1e-12)
        return min(points, key=lambda point: float(self._loss(point, thin, photos=keep)))

    def _length(self, kappa: Tensor) -> Tensor:
        """Mean length of a code with both terms."""
        if self.cosine is None:
            return torch.ones(())
        return (1 + kappa**2 + 2 * kappa * self.cosine).clamp(min=1e-6).sqrt()

    def _parts(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return kappa, both factors, temperature and the weight of imputed prototypes of a point."""
        kappa = point[0].exp() if self.free.kappa else torch.tensor(float(self.fixed_kappa))
        length = self._length(kappa)
        aerial = length * point[1].exp() if self.free.aerial_only else length
        prototype = length * point[2].exp() if self.free.prototype_only else length
        temperature = point[3].exp() if self.free.temperature else torch.tensor(self.fixed_temperature)
        imputed = kappa * point[4].exp() if self.free.imputed else torch.zeros(())
        return kappa, aerial, prototype, temperature, imputed

    def _logits(self, point: Tensor, photos: slice) -> Tensor:
        """(V, M), the cells ordered by kind."""
        kappa, aerial, prototype, temperature, imputed = self._parts(point)
        coefficients = (
            (self.both, (1 / temperature, kappa / temperature)),
            (self.aerial_only, (aerial / temperature, imputed / temperature)),
            (self.prototype_only, (prototype / temperature,)),
        )
        scores = []
        for terms, weights in coefficients:
            kind = weights[0] * terms[0][photos]
            for term, weight in zip(terms[1:], weights[1:], strict=True):
                kind = torch.addcmul(kind, term[photos], weight.expand(1, 1))
            scores.append(kind)
        return torch.cat(scores, dim=1) + self.log_count

    def _loss(self, point: Tensor, weights: Tensor, prior: bool = True, photos: slice = slice(None)) -> Tensor:
        """Negative mean log posterior mass near the true positions.

        The prior has the weight of one photo; it only matters where the photos determine next to nothing. Without one on the
        temperature, photos that are all found or all missed would drive it to zero or infinity.
        """
        logits = self._logits(point, photos)
        inside = logits.masked_fill(~self.near[photos], -math.inf).logsumexp(dim=1)
        fit = -(weights * (inside - logits.logsumexp(dim=1))).sum()
        return fit + _prior(point - self.usual, len(weights)) if prior else fit

    def _figures(self, point: Tensor, log_likelihood: float | None) -> Figures:
        kappa, aerial, prototype, temperature, imputed = (float(part) for part in self._parts(point))
        return Figures(kappa, aerial, prototype, temperature, imputed, log_likelihood)


def fit_temperature(similarities: Similarities, scores: Float32, start: float) -> float:
    """Return the temperature of largest likelihood for scores (V, M) as they are, every photo counting the same.

    The prior is that of `Model`, around `start`.
    """
    logits, near = torch.from_numpy(scores), torch.from_numpy(similarities.near)
    log_count = torch.from_numpy(np.log(similarities.stands_for))
    cold = torch.tensor(-math.log(start), requires_grad=True)

    def loss() -> Tensor:
        scaled = logits * cold.exp() + log_count
        fit = (scaled.logsumexp(dim=1) - scaled.masked_fill(~near, -math.inf).logsumexp(dim=1)).mean()
        return fit + _prior(cold + math.log(start), len(near))

    _minimise(cold, loss, 20)
    return float((-cold.detach()).exp()) if torch.isfinite(cold) else start


def _prior(deviation: Tensor, photos: int) -> Tensor:
    """Return the penalty of a deviation from the usual figures, with the weight of one of the photos."""
    return (deviation**2).sum() / (2 * PRIOR_SPREAD**2 * max(photos, 1))


def _minimise(point: Tensor, loss: Callable[[], Tensor], steps: int) -> None:
    optimiser = torch.optim.LBFGS([point], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-6)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
