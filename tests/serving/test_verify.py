"""POST /v1/verify: rank and mass of a claimed place against brute force, and verdicts that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from cellcode.client import Claim
from cellcode.geography import distance, s2
from cellcode.search import Locator, claims
from cellcode.search.searcher import probabilities

Photos = list[tuple[str, bytes]]


def test_the_claim_is_ranked_among_all_cells(server, photos: Photos, locator: Locator) -> None:
    database = locator.database
    query = locator.embed_one(photos[0][1])[None]
    temperature = database.calibration.temperature
    hits = locator.searcher.search(query, len(database.ids), None, temperature)
    share = probabilities(hits, temperature)[0]
    for rank in (1, 7, len(database.ids)):
        cell = hits.cell_ids[0, rank - 1]
        lat, lon = (float(value[0]) for value in s2.cell_centers([cell]))
        said = server.post("/v1/verify", photos[:1], lat=lat, lon=lon).json()
        assert said["claim"]["cell"] == s2.tokens([cell])[0]
        assert abs(said["claim"]["rank"] - rank) <= 1  # scores that are equal but for rounding
        step = 100 / (len(share) - 1)
        assert said["claim"]["percentile"] == pytest.approx(100 - step * (rank - 1), abs=1.01 * step)
        assert said["claim"]["probability"] == pytest.approx(share[rank - 1], rel=0.02)
        around = np.append(s2.all_neighbors([cell]), cell)
        mass, near = share[np.isin(hits.cell_ids[0], around)].sum(), np.isin(database.ids, around).sum()
        assert said["claim"]["support"] == pytest.approx(mass / (near / len(share)), rel=0.02)
        best = said["answer"]
        assert said["distance_m"] == pytest.approx(distance.haversine_m(lat, lon, best["lat"], best["lon"]), abs=0.1)
        assert said["distances_m"][0] == said["distance_m"]


def test_a_place_without_a_cell_is_outside(server, photos: Photos) -> None:
    said = server.post("/v1/verify", photos[:1], lat=-33.9, lon=18.4).json()
    assert said["verdict"] == "outside_database"
    assert said["claim"]["rank"] is None
    assert said["aerial"]["claim"] is None
    assert said["distance_m"] > 9e6


@dataclass
class _Answer:
    radius_50_m: float = 200.0
    radius_90_m: float = 900.0
    in_region: bool | None = True


@pytest.mark.parametrize(
    ("support", "apart_m", "in_region", "verdict"),
    [
        (40.0, 100.0, True, "plausible"),
        (40.0, 100.0, None, "plausible"),
        (40.0, 2000.0, True, "not_sure"),
        (0.01, 2000.0, True, "implausible"),
        (0.01, 500.0, True, "not_sure"),
        (1.0, 100.0, True, "not_sure"),
        (40.0, 100.0, False, "not_sure"),
    ],
)
def test_a_verdict_needs_circle_and_mass_to_agree(
    support: float, apart_m: float, in_region: bool | None, verdict: str
) -> None:
    said, reason = claims.judge(Claim(0, 0, "x", 0, 1, 1, 1, support), _Answer(in_region=in_region), apart_m)  # type: ignore[arg-type]
    assert said == verdict
    assert reason.endswith(".")


@pytest.mark.parametrize("fields", [{"lat": "91", "lon": "0"}, {"lat": "52"}, {"lat": "nan", "lon": "3"}, {}])
def test_a_claim_must_be_on_the_globe(server, photos: Photos, fields: dict[str, str]) -> None:
    answer = server.post("/v1/verify", photos[:1], **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(("lat", "lon"))
