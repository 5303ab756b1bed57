"""Whether a photo was taken in the region at all: a logistic regression on what a search returns and on the embedding.

Ours; the paper does not treat it. It is fitted on validation photos against out-of-region photos.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cellcode.types import Float32, Float64

RIDGE = 1e-3  # on the mean loss, with standardised features
FOLDS = 5
KEPT = 0.95  # share of validation photos that count as inside
RANKS = 100  # best scores that are looked at; a database of fewer cells than it was fitted on looks different
STEPS = 25  # of Newton's method, which needs fewer


@dataclass(frozen=True)
class Inside:
    """The regression, as JSON keeps it.

    Attributes:
        weights: of the features, not standardised; the last one is the constant.
        threshold: a photo with a lower probability is taken to be outside the region or not locatable.
    """

    weights: tuple[float, ...]
    threshold: float

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote."""
        return cls(tuple(float(weight) for weight in values["weights"]), float(values["threshold"]))

    def probability(self, queries: Float32, scores: Float32) -> Float64:
        """Return the probability that photos were taken in the region, (B,), where half of all photos are.

        Args:
            queries: (B, D), of any length.
            scores: (B, K), the best of a search of the whole database, best first.
        """
        return _sigmoid(with_constant(features(queries, scores)) @ np.array(self.weights))

    @classmethod
    def fit(cls, inside: Float64, outside: Float64) -> Self:
        """Fit it on features of photos of both kinds, (V, F) and (E, F), which count the same.

        The threshold comes from photos that the regression was not fitted on: FOLDS of them in turn.
        """
        held_out = np.empty(len(inside))
        for fold in range(FOLDS):
            out = np.arange(len(inside)) % FOLDS == fold
            held_out[out] = _sigmoid(with_constant(inside[out]) @ _regression(inside[~out], outside))
        weights = tuple(float(weight) for weight in _regression(inside, outside))
        return cls(weights, float(np.quantile(held_out, 1 - KEPT)))


def features(queries: Float32, scores: Float32) -> Float64:
    """Return what the regression sees, (B, D + 3): the best score, how far it is above the 10th and 100th, the embedding.

    All over the length of the query, which is not 1 where several photos ask together.
    """
    length = np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    ranks = np.minimum([9, RANKS - 1], scores.shape[1] - 1)
    best = scores[:, :1]
    return np.asarray(np.concatenate([best, best - scores[:, ranks], queries], axis=1) / length, np.float64)


def _regression(inside: Float64, outside: Float64) -> Float64:
    """Weights of raw features and the constant, (F + 1,), by Newton's method."""
    rows = np.concatenate([inside, outside])
    target = np.repeat([1.0, 0.0], [len(inside), len(outside)])
    balance = np.repeat([0.5 / len(inside), 0.5 / len(outside)], [len(inside), len(outside)])
    mean, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-9)
    x = with_constant((rows - mean) / spread)
    ridge = RIDGE * np.append(np.ones(rows.shape[1]), 0)
    weights = np.zeros(x.shape[1])
    for _ in range(STEPS):
        share = _sigmoid(x @ weights)
        slope = x.T @ (balance * (share - target)) + ridge * weights
        bend = (x * (balance * share * (1 - share))[:, None]).T @ x + np.diag(ridge + 1e-9)
        weights -= np.linalg.solve(bend, slope)
    raw = weights[:-1] / spread
    return np.append(raw, weights[-1] - mean @ raw)


def with_constant(rows: Float64) -> Float64:
    """Append a column of ones."""
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def _sigmoid(x: Float64) -> Float64:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
