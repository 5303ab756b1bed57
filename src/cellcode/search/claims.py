"""How plausible is a claimed place? Rank and mass of its cell, and a verdict in one sentence.

All of this is ours. The posterior is calibrated, so the mass of the claimed place over its share of the cells says how many
times better the photo fits it than an average place; a verdict needs that and the 90 % circle to agree.
"""

import math
from typing import Literal

import numpy as np

from cellcode.client.answers import Answer, Claim, Source, Verification, name_of
from cellcode.database import Database
from cellcode.errors import UsageError
from cellcode.geography import distance, s2
from cellcode.geography.numbers import parse_number
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.search.locator import Locator, Where
from cellcode.types import Float32, Int64

Verdict = Literal["plausible", "implausible", "outside_database", "not_sure"]
SUPPORT = 3.0  # times more (or less) likely, the least that is called evidence (Jeffreys: substantial)
RANKED = 4_000_000  # cells that a rank is counted among; of more, evenly spaced ones give the percentile alone
BLOCK = 65_536


def parse_claim(text: str) -> tuple[float, float]:
    """Return the latitude and longitude of "LAT,LON" in degrees; UsageError if they are none."""
    try:
        lat_deg, lon_deg = (parse_number(part) for part in text.split(","))
    except ValueError:
        lat_deg = lon_deg = math.nan
    if not (abs(lat_deg) <= 90 and abs(lon_deg) <= 180):
        raise UsageError(f"the claim {text} is no place; give LAT,LON in degrees, such as 51.05,3.72")
    return lat_deg, lon_deg


def verify(
    locator: Locator, photo: Source, lat_deg: float, lon_deg: float, *, top: int = 5, region: Where = None
) -> Verification:
    """Return how plausible it is that a photo was taken at a place; `top`, `region` and errors are of `Locator.locate`.

    The claim is compared with all cells.
    """
    query = locator.embed_one(photo)
    answer = locator.answers([name_of(photo)], query[None], top, region)[0]
    return verification(locator, answer, query, lat_deg, lon_deg)


def verification(locator: Locator, answer: Answer, query: Float32, lat_deg: float, lon_deg: float) -> Verification:
    """Return how plausible it is that a photo with this answer and embedding, (D,) float32, was taken at a place."""
    claimed = claim(locator, query, lat_deg, lon_deg)
    apart = apart_m(answer, lat_deg, lon_deg)
    verdict, reason = judge(claimed, answer, apart[0])
    circles = (("50", answer.radius_50_m), ("90", answer.radius_90_m))
    within = next((name for name, radius_m in circles if radius_m is not None and apart[0] <= radius_m), None)
    return Verification(verdict, reason, claimed, apart[0], within, tuple(apart), answer)


def claim(locator: Locator, query: Float32, lat_deg: float, lon_deg: float) -> Claim:
    """Compare a place with all cells of the database, as the photo with this embedding, (D,) float32, sees them."""
    database = locator.database
    own = s2.cell_ids([lat_deg], [lon_deg], database.level)
    if (row := rows_of_ids(database.ids, own)[0]) < 0:
        return Claim(lat_deg, lon_deg, *[None] * 6)
    score = float(_scores(database, query, np.array([row]))[0])
    rows = np.unique(np.linspace(0, len(database.ids) - 1, min(RANKED, len(database.ids))).astype(np.int64))
    better, worse = _compared(database, query, rows, score)
    near = rows_of_ids(database.ids, np.unique(np.append(s2.all_neighbors(own), own)))
    near = near[near >= 0]
    temperature = database.calibration.temperature
    log_mass = locator.searcher.search(query[None], 1, None, temperature).log_mass
    assert log_mass is not None
    mass = np.exp(_scores(database, query, near).astype(np.float64) / temperature - log_mass[0])
    return Claim(
        lat=lat_deg,
        lon=lon_deg,
        cell=s2.tokens(own)[0],
        score=score,
        rank=better + 1 if len(rows) == len(database.ids) else None,
        percentile=round(100 * worse / max(len(rows) - 1, 1), 3),
        probability=min(1.0, float(np.exp(score / temperature - log_mass[0]))),
        support=float(mass.sum() / (len(near) / len(database.ids))),
    )


def judge(claimed: Claim, answer: Answer, distance_m: float) -> tuple[Verdict, str]:
    """Return the verdict and its reason."""
    if claimed.support is None:
        return "outside_database", "No cell of the database holds the claimed place, so nothing can be said of it."
    if answer.in_region is False:
        return "not_sure", "The photo does not look like one taken in the region, or cannot be located in it."
    if answer.radius_90_m is None:
        return "not_sure", "The database was built with too few validation photos to say how far off its answers are."
    times, inside = claimed.support, distance_m <= answer.radius_90_m
    if times >= SUPPORT and inside:
        return "plausible", f"The photo fits the claimed place {times:.1f} times better than an average place."
    if times <= 1 / SUPPORT and not inside:
        return "implausible", (
            f"The claimed place is {distance_m:.0f} m from the answer, outside the circle that holds 90 % of such photos, and "
            f"the photo fits it {1 / max(times, 1e-9):.1f} times worse than an average place."
        )
    return "not_sure", "The photo speaks neither clearly for the claimed place nor clearly against it."


def apart_m(answer: Answer, lat_deg: float, lon_deg: float) -> list[float]:
    """Return the distance of a place from each candidate, in metres."""
    lat, lon = (np.array([getattr(each, name) for each in answer.candidates]) for name in ("lat", "lon"))
    return [float(value) for value in distance.haversine_m(lat_deg, lon_deg, lat, lon)]


def _scores(database: Database, query: Float32, rows: Int64) -> Float32:
    return np.asarray(np.asarray(database.codes[rows], np.float32) @ query, np.float32)


def _compared(database: Database, query: Float32, rows: Int64, score: float) -> tuple[int, int]:
    """Count rows that score better, and worse."""
    better = worse = 0
    for first in range(0, len(rows), BLOCK):
        scores = _scores(database, query, rows[first : first + BLOCK])
        better, worse = better + int((scores > score).sum()), worse + int((scores < score).sum())
    return better, worse
