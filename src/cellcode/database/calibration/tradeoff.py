"""Recall of a calibration for photos of cells with and without a prototype, and of other ways to combine the terms."""

from typing import Any

import numpy as np

from cellcode.database.calibration.similarity import Similarities
from cellcode.types import Bools, Float32

CURVE_KAPPAS = tuple(float(2.0**e) for e in np.arange(-3, 3.01, 0.5))
CURVE_FACTORS = tuple(float(2.0**e) for e in np.arange(-1, 2.01, 0.25))


def top_scores(similarities: Similarities, scores: Float32) -> Float32:
    """Return the best score of each photo, (V,)."""
    return _best(scores, similarities, slice(None))[0]


def recall(similarities: Similarities, scores: Float32) -> dict[str, float | None]:
    """Return recall@1 of all photos, of those whose nearest cell has a prototype, and of the others.

    Args:
        scores: (V, M).
    """
    return _shares(_best(scores, similarities, slice(None))[1], similarities.visited)


def singles(similarities: Similarities) -> dict[str, dict[str, float | None]]:
    """Return the recall of each term alone, among the cells that have it."""
    s, ways = similarities, {}
    for name, scores, cells in (("prototypes", s.prototypes, s.has_prototype), ("aerial", s.aerial, s.has_aerial)):
        if s.photos and cells.any():
            ways[name] = _shares(_best(scores, s, cells)[1], s.visited)
    return ways


def report(similarities: Similarities, scores: Float32, prototype_only: float, radius_m: float) -> dict[str, Any]:
    """Return recall@1 within the radius, for photos whose nearest cell has a prototype and for the others.

    Args:
        scores: (V, M), as calibrated.
        prototype_only: the factor of cells without imagery along the curve.

    Returns:
        `photos` (counts), `cells` (of the database and compared with), `recall` of each way to combine, and `curve`:
        recall over `kappa` x `aerial_only`, two nested lists.
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
