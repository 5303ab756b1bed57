"""The two regressions of a calibration: prototypes imputed from aerial embeddings, and whether a photo was taken in the region.

Both are ours; the paper treats neither.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cellcode.database.calibration.similarity import Terms
from cellcode.errors import InputError, unreadable
from cellcode.types import Float32, Float64

MIN_CELLS = 200  # with both terms; fewer predict nothing about other cells
MAX_CELLS = 65536  # more change nothing
# On the mean loss, with standardised features; on imputed prototypes times the number of cells: leaving out blocks of cells,
# anything up to 3e-3 was as good.
RIDGE = 1e-3
FOLDS = 5
KEPT = 0.95  # share of validation photos that count as inside
RANKS = 100  # best scores that are looked at; a database of fewer cells than it was fitted on looks different
STEPS = 25  # of Newton's method, which needs fewer


@dataclass(frozen=True)
class Inside:
    """Logistic regression on what a search returns and on the embedding: was the photo taken in the region at all?

    It is fitted on validation photos against out-of-region photos.
    """

    weights: tuple[float, ...]  # of the features, not standardised; the last one is the constant
    threshold: float  # a photo with a lower probability is taken to be outside the region or not locatable

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote."""
        return cls(tuple(float(weight) for weight in values["weights"]), float(values["threshold"]))

    def probability(self, queries: Float32, scores: Float32) -> Float64:
        """Return the probability that photos, (B, D), were taken in the region, (B,), where half of all photos are.

        Scores are the best of a search of the whole database, (B, K), best first.
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


@dataclass(frozen=True)
class Imputation:
    """Ridge regression (Hoerl and Kennard 1970) z^A -> z^P over the cells with both terms, for cells without training photos.

    It is linear in z^A, so that a code with an imputed prototype is still one vector and a score one product. Two are equal
    when their digests are.
    """

    # (D + 1, D); the last row is the constant.
    weights: Float32 = field(compare=False, repr=False)
    digest: str

    @classmethod
    def of_weights(cls, weights: Float32) -> Self:
        """Take weights, (D + 1, D) float32."""
        return cls(weights, hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()[:16])

    @classmethod
    def fit(cls, terms: Terms) -> Self | None:
        """Fit it on (at most MAX_CELLS, evenly spaced) cells with both terms; None where they are too few."""
        both = np.flatnonzero(terms.has_aerial & terms.has_prototype)
        if terms.aerial is None or terms.prototypes is None or len(both) < MIN_CELLS:
            return None
        rows = both[:: -(-len(both) // MAX_CELLS)]
        seen = with_constant(np.asarray(terms.aerial[rows], np.float64))
        prototypes = np.asarray(terms.prototypes[rows], np.float64)
        squares = seen.T @ seen + RIDGE * len(rows) * np.eye(seen.shape[1])
        return cls.of_weights(np.linalg.solve(squares, seen.T @ prototypes).astype(np.float32))

    @classmethod
    def load(cls, path: Path, dim: int) -> Self:
        """Read the file that `save` wrote; InputError where it cannot be read, or is of another width."""
        try:
            weights = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            otherwise = f"{path} is not a readable numpy file; build the database again"
            raise unreadable(path, error, otherwise) from None
        if weights.shape != (dim + 1, dim) or weights.dtype != np.float32:
            raise InputError(f"{path} does not hold a regression of width {dim}; build the database again")
        return cls.of_weights(weights)

    def save(self, path: Path) -> None:
        """Write the weights as a numpy file."""
        np.save(path, self.weights)

    def of(self, aerial: npt.NDArray[np.floating]) -> Float32:
        """Return the imputed prototypes of aerial embeddings, (N, D) to (N, D) float32; shorter where less is known."""
        return np.asarray(np.asarray(aerial, np.float32) @ self.weights[:-1] + self.weights[-1], np.float32)

    def transposed(self, queries: Float32) -> tuple[Float32, Float32]:
        """Return (B, D) and (B,): a query's similarity to an imputed prototype is the first times z^A, plus the second."""
        return queries @ self.weights[:-1].T, queries @ self.weights[-1]
