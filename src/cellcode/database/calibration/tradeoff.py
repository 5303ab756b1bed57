"""Recall of a calibration and of other ways to combine the terms, and the weight that balances two groups of photos.

The groups are the validation photos in places with training photos, and the others. Cells of both kinds compete for every
photo. Fitted with the share that validation photos of withheld cells happen to have, which the configuration of the training
decides, the calibration may give those cells what fusion gained the others. Our choice: their share, or the weight nearest
to it at which both groups reach the recall that they are owed.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from cellcode.database.calibration.similarity import Similarities
from cellcode.types import Bools, Float32

CURVE_KAPPAS = tuple(float(2.0**e) for e in np.arange(-3, 3.01, 0.5))
CURVE_FACTORS = tuple(float(2.0**e) for e in np.arange(-1, 2.01, 0.25))
WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)  # tried beside the share, those on one side of it
KEPT_OF_GAIN = 0.25  # of what fusion gains in cells with a prototype
KEPT_OF_AERIAL = 0.9  # of the recall of aerial embeddings alone, in cells without a prototype


class Scorer(Protocol):
    """A calibration."""

    def scores(self, similarities: Similarities) -> Float32:
        """Return (V, M)."""


C = TypeVar("C", bound=Scorer)
F = TypeVar("F")


def top_scores(similarities: Similarities, scores: Float32) -> Float32:
    """Return the best score of each photo, (V,)."""
    return _best(scores, similarities, slice(None))[0]


def recall(similarities: Similarities, scores: Float32) -> dict[str, float | None]:
    """Return recall@1 of all photos, of those whose nearest cell has a prototype, and of the others, for scores (V, M)."""
    return _shares(_best(scores, similarities, slice(None))[1], similarities.visited)


def singles(similarities: Similarities) -> dict[str, dict[str, float | None]]:
    """Return the recall of each term alone, among the cells that have it."""
    s, ways = similarities, {}
    for name, scores, cells in (("prototypes", s.prototypes, s.has_prototype), ("aerial", s.aerial, s.has_aerial)):
        if s.photos and cells.any():
            ways[name] = _shares(_best(scores, s, cells)[1], s.visited)
    return ways


def report(similarities: Similarities, scores: Float32, prototype_only: float, radius_m: float) -> dict[str, Any]:
    """Return the manifest's report of recall@1 within the radius for calibrated scores, (V, M).

    `curve` is recall over `kappa` x `aerial_only`, two nested lists, where cells without imagery have the given factor.
    """
    s = similarities
    visited, ways = s.visited, singles(s)
    if s.photos:
        if s.has_prototype.any() and s.has_aerial.any():
            ways["plain sum"] = recall(s, s.aerial + s.prototypes)
        ways["calibrated"] = recall(s, scores)
    return {
        "radius_m": radius_m,
        "photos": {
            "used": s.photos,
            "near": s.photos_near,
            "with_prototype": int(visited.sum()),
            "without_prototype": int((~visited).sum()),
        },
        "cells": {"database": s.cells, "compared": len(s.stands_for)},
        "recall": ways,
        "curve": _curve(s, prototype_only),
    }


def _curve(s: Similarities, prototype_only: float) -> dict[str, Any] | None:
    """Recall over kappa x factor; None unless there are cells with both terms and cells with imagery only."""
    cells = s.cells_of
    if not s.photos or not cells["both"] or not cells["aerial_only"]:
        return None
    # The best cell of each kind decides, and the factor changes only how kinds compare.
    kind = s.kind
    lone, lone_hit = _best(s.aerial, s, kind == 1)
    other, other_hit = _best(np.float32(prototype_only) * s.prototypes, s, kind == 2)
    grids: dict[str, list[list[float | None]]] = {"with_prototype": [], "without_prototype": []}
    for kappa in CURVE_KAPPAS:
        both, both_hit = _best(s.aerial + np.float32(kappa) * s.prototypes, s, kind == 0)
        shares = []
        for factor in CURVE_FACTORS:
            choices = np.stack([both, np.float32(factor) * lone, other])
            hits = np.stack([both_hit, lone_hit, other_hit])
            shares.append(_shares(np.take_along_axis(hits, choices.argmax(axis=0)[None], axis=0)[0], s.visited))
        for group, rows in grids.items():
            rows.append([share[group] for share in shares])
    return {"kappa": list(CURVE_KAPPAS), "aerial_only": list(CURVE_FACTORS), "recall": grids}


def _best(scores: Float32, s: Similarities, cells: Bools | slice) -> tuple[Float32, Bools]:
    """Best score of each photo among some cells, and whether that cell is near the photo; -inf where there is none."""
    columns = np.arange(scores.shape[1])[cells]
    if not len(columns):
        return np.full(len(scores), -np.inf, np.float32), np.zeros(len(scores), bool)
    chosen = columns[scores[:, columns].argmax(axis=1)]
    photos = np.arange(len(scores))
    return scores[photos, chosen], s.near[photos, chosen]


def _shares(hits: Bools, visited: Bools) -> dict[str, float | None]:
    """Share of hits in each group, to four decimals; None for an empty one."""
    groups = {"all": np.ones(len(hits), bool), "with_prototype": visited, "without_prototype": ~visited}
    return {name: round(float(hits[group].mean()), 4) if group.any() else None for name, group in groups.items()}


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
    alone = singles(similarities)
    best, weight, others = None, share, None
    while True:
        with_prototype, without = _kept(similarities, made.scores(similarities), alone)
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


def _kept(s: Similarities, scores: Float32, terms: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """Shares, at most 1, that photos in cells with a prototype and the others get of the recall they are owed.

    Cells with a prototype: the better term alone, and KEPT_OF_GAIN of what fusion gains over it where only they compete.
    Cells without: KEPT_OF_AERIAL of the aerial term.
    """
    found = recall(s, scores)
    alone = recall(s, np.where(s.has_prototype, scores, -np.inf))["with_prototype"] or 0.0
    single = max((each["with_prototype"] or 0.0) for each in terms.values())

    def kept(group: str, owed: float) -> float:
        return min(1.0, (found[group] or 0.0) / owed) if owed else 1.0

    with_prototype = kept("with_prototype", single + KEPT_OF_GAIN * max(alone - single, 0.0))
    return with_prototype, kept("without_prototype", KEPT_OF_AERIAL * (terms["aerial"]["without_prototype"] or 0.0))
