"""How plausible is a claimed place? Rank and mass of its cell, and a verdict in one sentence.

All of this is ours. The posterior is calibrated, so the mass of the claimed place over its share of the cells says how many
times more likely the photo makes it; a verdict needs that and the circle that holds nine photos of ten to agree.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from cellcode.database import Database
from cellcode.geography import distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.search import Answer, Locator
from cellcode.search.searcher import Searcher
from cellcode.types import Float32

Verdict = Literal["plausible", "implausible", "outside_database", "not_sure"]
SUPPORT = 3.0  # times more (or less) likely, the least that is called evidence (Jeffreys: substantial)
RANKED = 4_000_000  # cells that a rank is counted among; of more, evenly spaced ones tell the percentile alone
BLOCK = 65_536


def claim(locator: Locator, query: Float32, lat_deg: float, lon_deg: float) -> dict[str, Any]:
    """Return what the photo says of a place among all cells of the database; `schemas.Claim`.

    Args:
        query: (D,) float32.
    """
    database = locator.database
    own = s2.cell_ids([lat_deg], [lon_deg], database.level)
    facts: dict[str, Any] = {"lat": lat_deg, "lon": lon_deg, "cell": None}
    facts |= dict.fromkeys(("score", "rank", "percentile", "probability", "support"))
    if (row := rows_of_ids(database.ids, own)[0]) < 0:
        return facts
    score = float(_scores(database, query, np.array([row]))[0])
    rows = np.unique(np.linspace(0, len(database.ids) - 1, min(RANKED, len(database.ids))).astype(np.int64))
    better, worse = _compared(database, query, rows, score)
    around = np.unique(np.append(s2.all_neighbors(own), own))
    near = rows_of_ids(database.ids, around)
    near = near[near >= 0]
    temperature = database.calibration.temperature
    log_mass = _log_mass(locator.searcher, query, temperature)
    mass = np.exp(_scores(database, query, near).astype(np.float64) / temperature - log_mass)
    return facts | {
        "cell": s2.tokens(own)[0],
        "score": score,
        "rank": better + 1 if len(rows) == len(database.ids) else None,
        "percentile": round(100 * worse / max(len(rows) - 1, 1), 3),
        "probability": min(1.0, float(np.exp(score / temperature - log_mass))),
        "support": float(mass.sum() / (len(near) / len(database.ids))),
    }


def judge(claimed: dict[str, Any], answer: Answer, distance_m: float) -> tuple[Verdict, str]:
    """Return the verdict and its reason."""
    if claimed["cell"] is None:
        return "outside_database", "No cell of the database holds the claimed place, so nothing can be said of it."
    if answer.in_region is False:
        return "not_sure", "The photo does not look like one taken in the region, or cannot be located in it."
    times, within = claimed["support"], distance_m <= answer.radius_90_m
    if times >= SUPPORT and within:
        return "plausible", f"The photo makes the claimed place {times:.1f} times more likely than it was."
    if times <= 1 / SUPPORT and not within:
        return "implausible", (
            f"The claimed place is {distance_m:.0f} m from the answer, outside the circle that holds 90 % of such photos, and "
            f"the photo makes it {1 / max(times, 1e-9):.1f} times less likely."
        )
    return "not_sure", "The photo speaks neither clearly for the claimed place nor clearly against it."


def within(answer: Answer, distance_m: float) -> Literal["50", "90"] | None:
    """Return the smallest circle of the answer that holds a place at this distance."""
    return "50" if distance_m <= answer.radius_50_m else "90" if distance_m <= answer.radius_90_m else None


def apart_m(answer: Answer, lat_deg: float, lon_deg: float) -> list[float]:
    """Return the distance of a place from each candidate, in metres."""
    lat, lon = (np.array([getattr(each, name) for each in answer.candidates]) for name in ("lat", "lon"))
    return [float(value) for value in distance.haversine_m(lat_deg, lon_deg, lat, lon)]


def _scores(database: Database, query: Float32, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Float32:
    return np.asarray(np.asarray(database.codes[rows], np.float32) @ query, np.float32)


def _compared(
    database: Database, query: Float32, rows: np.ndarray[Any, np.dtype[np.int64]], score: float
) -> tuple[int, int]:
    """Count rows that score better, and worse."""
    better = worse = 0
    for first in range(0, len(rows), BLOCK):
        scores = _scores(database, query, rows[first : first + BLOCK])
        better, worse = better + int((scores > score).sum()), worse + int((scores < score).sum())
    return better, worse


def _log_mass(searcher: Searcher, query: Float32, temperature: float) -> float:
    hits = searcher.search(query[None], 1, None, temperature)
    assert hits.log_mass is not None
    return float(hits.log_mass[0])
