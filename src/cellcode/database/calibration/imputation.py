"""Prototypes imputed from aerial embeddings, for cells without training photos; ours, not in the paper.

A ridge regression (Hoerl and Kennard 1970) z^A -> z^P over the cells with both terms predicts the prototype. It is linear in
z^A, so that a code with an imputed prototype is still one vector and a score one product.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from cellcode.database.calibration.in_region import with_constant
from cellcode.database.calibration.similarity import Terms
from cellcode.errors import InputError
from cellcode.types import Float32

MIN_CELLS = 200  # with both terms; fewer predict nothing about other cells
MAX_CELLS = 65536  # more change nothing
RIDGE = 1e-3  # times the number of cells; leaving out blocks of cells, anything up to 3e-3 was as good


@dataclass(frozen=True)
class Imputation:
    """The regression. Two are equal when their digests are.

    Attributes:
        weights: (D + 1, D) float32; the last row is the constant.
        digest: of the weights.
    """

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
        """Read the file that `save` wrote.

        Raises:
            InputError: it cannot be read, or is of another width.
        """
        try:
            weights = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise InputError(f"{path} is not a readable numpy file; build the database again") from None
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
