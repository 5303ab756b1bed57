"""How recall grows with the number of photos of a place, or along a path; and how sure the joint answers may be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellcode.database import Calibration
from cellcode.evaluation.confidence import calibration_error, reliability
from cellcode.evaluation.metrics import interval_95
from cellcode.geography import distance, s2
from cellcode.search import Locator, Searcher
from cellcode.search.searcher import Hits, probabilities
from cellcode.search.together import EXPONENT, SequenceSearcher, fuse_queries
from cellcode.types import Datetimes, Float32, Float64, Int64

NONE = -1  # group of photos that belong to none


def places(lat_deg: Float64, lon_deg: Float64, level: int = 16) -> Int64:
    """Group photos by the cell that they were taken in; (N,) int64 numbers of groups."""
    return np.asarray(np.unique(s2.cell_ids(lat_deg, lon_deg, level), return_inverse=True)[1], np.int64)


def paths(sequence: Sequence[str | None], captured_at: Datetimes) -> tuple[Int64, Int64]:
    """Group photos by their sequence.

    Returns:
        groups, (N,) int64, `NONE` without a sequence; and the order that brings each group into the order of capture, (N,).
    """
    names = np.array([name or "" for name in sequence])
    groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    groups[names == ""] = NONE
    return groups, np.lexsort((np.arange(len(names)), captured_at, groups)).astype(np.int64)


def recall_by_count(
    locator: Locator,
    queries: Float32,
    lat_deg: Float64,
    lon_deg: Float64,
    groups: Int64,
    *,
    counts: Sequence[int] = (1, 2, 4, 8),
    along: bool = False,
    radius_m: float = 200.0,
    exponent: float = EXPONENT,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Recall@1 of n photos together, of the same photos for every n.

    Of each group with enough photos as many as the largest count are taken, at random or, along a path, the first; for each
    count they are cut into disjoint pieces, and a piece is one query. The truth is the position of its first photo.

    Args:
        queries: (N, D), embeddings of the photos, of one path in the order of capture.
        lat_deg, lon_deg: (N,), where they were taken; along a path they give the motion, as odometry would.
        groups: (N,) int64, number of the place or path of each photo; `NONE`: none.
        counts: numbers of photos; each divides the largest.
        along: the photos of a group lie along a path.
        radius_m: an answer nearer than this counts.

    Returns:
        A row for each count: photos, groups, answers, recall, its 95 % interval over groups, median_error_m, and ece, the mean
        distance between the probability within the radius of the answer and the share of right answers, in ten bins.
    """
    most = max(counts)
    if uneven := [count for count in counts if most % count]:
        raise ValueError(f"{uneven[0]} photos do not divide {most}")
    rng = np.random.default_rng([seed, 30])
    taken = []
    for group in np.unique(groups[groups != NONE]):
        rows = np.flatnonzero(groups == group)
        if len(rows) >= most:
            taken.append(rows[:most] if along else rng.permutation(rows)[:most])
    if not taken:
        return []
    chosen, made = np.stack(taken), []
    for count in counts:
        pieces = chosen.reshape(-1, count)
        hits = _searched(locator, queries, pieces, lat_deg, lon_deg, along, exponent)
        error_m, sure = _judged(hits, locator.database.calibration, lat_deg, lon_deg, pieces[:, 0], radius_m)
        right = (error_m <= radius_m).astype(np.float64)
        made.append(
            {
                "photos": count,
                "groups": len(chosen),
                "answers": len(pieces),
                "recall": float(right.mean()),
                "interval_95": list(interval_95(right, groups[pieces[:, 0]])),
                "median_error_m": float(np.median(error_m)),
                "ece": calibration_error(reliability(sure, right > 0)),
            }
        )
    return made


def _searched(
    locator: Locator, queries: Float32, pieces: Int64, lat_deg: Float64, lon_deg: Float64, along: bool, exponent: float
) -> list[Hits]:
    """Search each piece, (P, n) rows of photos."""
    database, temperature = locator.database, locator.database.calibration.temperature
    k = min(1000, locator.searcher.count())
    if not along:
        fused = np.stack([fuse_queries(queries[rows], exponent) for rows in pieces])
        return [locator.searcher.search(query[None], k, None, temperature) for query in fused]
    made = []
    for rows in pieces:
        moved = distance.local_m(lat_deg[rows[0]], lon_deg[rows[0]], lat_deg[rows], lon_deg[rows])
        searcher: Searcher = SequenceSearcher(database, locator.searcher, np.stack(moved, axis=1), exponent)
        made.append(searcher.search(queries[rows].reshape(1, -1), k, None, temperature))
    return made


def _judged(
    found: list[Hits], calibration: Calibration, lat_deg: Float64, lon_deg: Float64, truth: Int64, radius_m: float
) -> tuple[Float64, Float64]:
    """Return how far each answer is from the truth in metres, and the probability within the radius of the answer."""
    error_m, sure = [], []
    for hits, row in zip(found, truth, strict=True):
        lat, lon = s2.cell_centers(hits.cell_ids[0])
        error_m.append(float(distance.haversine_m(lat[0], lon[0], lat_deg[row], lon_deg[row])))
        near = distance.haversine_m(lat[0], lon[0], lat, lon) <= radius_m
        sure.append(float(probabilities(hits, calibration.temperature)[0][near].sum()))
    return np.array(error_m), np.array(sure)
