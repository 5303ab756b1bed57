"""The weight of validation photos in places without training photos, against that of the others.

Cells of both kinds compete for every photo. Fitted with the share that validation photos of withheld cells happen to have,
which the configuration of the training decides, the calibration may give those cells what fusion gained the others. Our
choice: their share, or the weight nearest to it at which both groups reach the recall that they are owed.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from cellcode.database.calibration import tradeoff
from cellcode.database.calibration.similarity import Similarities
from cellcode.types import Float32

WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)  # tried beside the share, those on one side of it
KEPT_OF_GAIN = 0.25  # of what fusion gains in cells with a prototype
KEPT_OF_AERIAL = 0.9  # of the recall of aerial embeddings alone, in cells without a prototype


class Scorer(Protocol):
    """A calibration."""

    def scores(self, similarities: Similarities) -> Float32:
        """Return (V, M)."""


C = TypeVar("C", bound=Scorer)
F = TypeVar("F")


def choose(
    similarities: Similarities,
    fit: Callable[[float | None, F | None], tuple[C, F]],
    given: float | None,
    both_kinds: bool,
) -> tuple[C, F, float | None]:
    """Return a calibration, the figures of its fit and the weight of photos whose nearest cell has no prototype.

    Args:
        fit: fits with a weight (None: the share of those photos), beginning with the figures of another fit.
        given: the weight to use, if it is decided.
        both_kinds: there are enough photos of both groups, and cells of imagery alone.
    """
    made, figures = fit(given, None)
    if given is not None or not both_kinds:
        return made, figures, given
    share = float((~similarities.visited).mean())
    singles = tradeoff.singles(similarities)
    best, weight, others = None, share, None
    while True:
        with_prototype, without = _kept(similarities, made.scores(similarities), singles)
        kept = min(with_prototype, without)
        if best is None or kept > best[0]:
            best = kept, made, figures, weight
        if others is None:  # away from what the worse group has too little of
            lower = with_prototype < without
            others = [w for w in WEIGHTS[::-1] if w < share] if lower else [w for w in WEIGHTS if w > share]
        if kept >= 1 or not others:
            return best[1:]
        weight = others.pop(0)
        made, figures = fit(weight, figures)


def _kept(s: Similarities, scores: Float32, singles: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """Shares, at most 1, that photos in cells with a prototype and the others get of the recall they are owed.

    Cells with a prototype: the better term alone, and KEPT_OF_GAIN of what fusion gains over it where only they compete.
    Cells without: KEPT_OF_AERIAL of the aerial term.
    """
    found = tradeoff.recall(s, scores)
    alone = tradeoff.recall(s, np.where(s.has_prototype, scores, -np.inf))["with_prototype"] or 0.0
    single = max((each["with_prototype"] or 0.0) for each in singles.values())
    owed = (
        single + KEPT_OF_GAIN * max(alone - single, 0.0),
        KEPT_OF_AERIAL * (singles["aerial"]["without_prototype"] or 0.0),
    )
    first, second = (
        min(1.0, (found[group] or 0.0) / value) if value else 1.0
        for group, value in zip(("with_prototype", "without_prototype"), owed, strict=True)
    )
    return first, second
