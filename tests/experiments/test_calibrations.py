import numpy as np
import pytest
from experiments.calibrations import compare_methods

from cellcode.database import Database
from cellcode.geography import distance, s2
from cellcode.runs import Run, Validation


@pytest.fixture(scope="module")
def rows(town_run: Run, town_cells: Database) -> dict[str, dict]:
    found = town_run.validation
    halves = (Validation(found.lat_deg[k::2], found.lon_deg[k::2], found.queries[k::2]) for k in (0, 1))
    return {row["method"]: row for row in compare_methods(town_cells, *halves)}


def test_the_rows_of_single_terms_are_what_brute_force_finds(
    rows: dict[str, dict], town_run: Run, town_cells: Database
) -> None:
    photos = town_run.validation
    lat, lon = s2.cell_centers(np.asarray(town_cells.ids))
    apart_m = distance.haversine_m(photos.lat_deg[1::2, None], photos.lon_deg[1::2, None], lat, lon)
    radius_m = 1.5 * s2.mean_edge_m(16)
    asked = apart_m.min(axis=1) <= radius_m
    has, terms = town_cells.facts.has_prototype, town_cells.terms()
    for name, term, cells in (("prototypes", terms[1], has), ("aerial", terms[0], town_cells.facts.has_aerial)):
        assert term is not None
        scores = photos.queries[1::2] @ term.astype(np.float32).T
        best = np.where(cells, scores, -np.inf).argmax(axis=1)
        hits = apart_m[np.arange(len(best)), best] <= radius_m
        visited = has[apart_m.argmin(axis=1)]
        row = rows[f"{name} alone"]["test"]
        assert row["all"] == pytest.approx(hits[asked].mean(), abs=1e-4)
        assert row["with_prototype"] == pytest.approx(hits[asked & visited].mean(), abs=1e-4)
        assert row["without_prototype"] == pytest.approx(hits[asked & ~visited].mean(), abs=1e-4)


def test_more_parameters_explain_the_photos_they_were_fitted_on_better(rows: dict[str, dict]) -> None:
    """Of methods of which one holds the other. With every photo counting the same as the fit had it, up to its ridge."""
    likely = {name: row["validation"]["log_likelihood"] for name, row in rows.items() if row["parameters"]}
    assert len(likely) == 11
    assert all(np.isfinite(value) for value in likely.values())
    assert likely["a factor and a bias a kind"] >= likely["a factor a kind"] - 0.05
    assert likely["fitted kappa"] >= likely["plain sum, kappa 1"] - 0.05
