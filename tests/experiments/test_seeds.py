"""Intervals over photos and seeds, against simulation and against the plain bootstrap."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from experiments import claims, seeds

from cellcode.errors import InputError
from cellcode.evaluation.metrics import interval_95


def test_one_seed_has_the_interval_over_photos(rng: np.random.Generator) -> None:
    hits, place = (rng.random(900) < 0.4).astype(float), rng.integers(0, 300, 900)
    np.testing.assert_allclose(seeds.interval_95(hits[None], place), interval_95(hits, place), atol=0.006)
    # The same training three times: seeds add nothing.
    np.testing.assert_allclose(seeds.interval_95(np.stack([hits] * 3), place), interval_95(hits, place), atol=0.006)


def test_the_interval_is_as_wide_as_photos_and_seeds_vary(rng: np.random.Generator) -> None:
    widths = []
    for _ in range(60):
        chance = np.clip(0.4 + rng.normal(0, 0.03, (3, 1)), 0, 1)
        low, high = seeds.interval_95((rng.random((3, 2000)) < chance).astype(float), np.arange(2000))
        widths.append(((high - low) / 3.92) ** 2)
    truth = 0.03**2 / 3 + 0.24 / 6000
    assert 0.7 * truth < np.mean(widths) < 1.6 * truth


def test_the_t_interval_is_that_of_the_textbook() -> None:
    # Mean 2, deviation 1, n 3: 4.303 / sqrt(3) = 2.484.
    np.testing.assert_allclose(seeds.t_interval_95([1.0, 2.0, 3.0]), (-0.484, 4.484), atol=1e-3)
    assert seeds.t_interval_95([0.5]) == (-np.inf, np.inf)


def test_recall_is_by_group_and_differences_are_of_the_same_photos(tmp_path: Path) -> None:
    lat = np.repeat(np.linspace(48.0, 48.1, 8), 2)
    density = np.array([0] * 4 + [3] * 4 + [20] * 8)
    found = {
        "hybrid-0": (density >= 0, density > 3, density > 0),
        "hybrid-1": (density >= 3, density > 3, density > 0),
        "prototypes-0": (density > 3, None, None),
        "prototypes-1": (density > 3, None, None),
    }
    for name, terms in found.items():
        columns = {"lat_deg": lat, "lon_deg": np.full(16, 9.0), "density": density}
        for term, hit in zip(("hybrid", "prototypes", "aerial"), terms, strict=True):
            if hit is not None:
                columns[f"{term}_error_m"] = np.where(hit, 150.0, 5000.0)
        columns |= {"radius_50_m": np.full(16, 160.0), "radius_90_m": np.full(16, 9000.0)}
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / seeds.PREDICTIONS)
    folders = {kind: [tmp_path / f"{kind}-{seed}" for seed in (0, 1)] for kind in ("hybrid", "prototypes")}
    tested = seeds.load(folders)
    made = seeds.summary(tested, seeds.sparsest_quarter({"0 photos": 0, "1 to 6 photos": 0, "7 to 30 photos": 0}))
    within = made["recall"]["hybrid"]["200"]
    assert within["all"]["by_seed"] == [1.0, 0.75]
    assert within["without_photos"]["mean"] == 0.5
    assert within["sparsest_quarter"]["mean"] == 1.0
    assert made["recall"]["hybrid"]["100"]["all"]["mean"] == 0.0
    assert made["hybrid_above"]["prototypes trained alone"]["200"]["sparsest_quarter"]["mean"] == 1.0
    assert made["inside"]["50"]["mean"] == 0.875
    assert made["photos"] == {"all": 16, "with_photos": 12, "without_photos": 4, "sparsest_quarter": 4}
    judged = {claim["text"]: claim for claim in claims.check({"seeds": {"same": made, "sparsest_quarter": 6}})}
    assert [claim["holds"] for claim in judged.values()] == [True, False, False, True, True, None, None, None, None]
    other = pq.read_table(tmp_path / "prototypes-1" / seeds.PREDICTIONS).slice(1)
    pq.write_table(other, tmp_path / "prototypes-1" / seeds.PREDICTIONS)
    with pytest.raises(InputError, match="other photos"):
        seeds.load(folders)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
