"""The whole page, in small: every stage runs as in the full plan, twice, the second time without work."""

import json
from pathlib import Path
from typing import Any

import pytest
from experiments import results
from experiments.plan import FULL, QUICK


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("results")
    return out, results.run(out / "stages", out / "docs", quick=True)


def test_the_page_has_every_table_and_says_what_it_is(made: tuple[Path, dict[str, Any]]) -> None:
    out, values = made
    page = (out / "docs" / "results.md").read_text(encoding="utf-8")
    assert not values["failed"]
    assert "a rehearsal whose numbers mean nothing" in page
    for title in ("Same area", "Cross area", "Another country", "Slices", "Ablations", "Confidence", "Growing"):
        assert f"# {title}" in page
    for row in ("hybrid", "symmetric InfoNCE", "hierarchical softmax", "PIGEON", "oracle", "chance"):
        assert page.count(row) >= 2
    assert "{{" not in page
    assert all(claim["holds"] is not None for claim in values["claims"])


def test_every_number_is_in_the_json_and_every_figure_on_the_page_is_a_file(made: tuple[Path, dict[str, Any]]) -> None:
    out, values = made
    kept = json.loads((out / "docs" / "results.json").read_text(encoding="utf-8"))
    assert [row["system"] for row in kept["same_area"]] == [row["system"] for row in values["same_area"]]
    assert len(kept["claims"]) == 7
    assert {"same_area", "cross_area", "confidence", "strangers", "claims"} <= kept.keys()
    assert "parts" not in kept
    assert len(kept["ablations"]) == len(QUICK.ablations)
    page = (out / "docs" / "results.md").read_text(encoding="utf-8")
    shown = [part.split(")")[0] for part in page.split("](figures/")[1:]]
    assert len(shown) >= 10
    for name in shown:
        assert (out / "docs" / "figures" / name).is_file()


def test_a_second_run_finds_everything_made(
    made: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    out, values = made
    again = results.run(out / "stages", out / "docs", quick=True)
    assert again["seconds"] == values["seconds"]
    assert f"{len(values['seconds'])} stages had finished before" in caplog.text


def test_the_full_plan_is_as_large_as_the_page_says() -> None:
    world = FULL.worlds["region"]
    assert world["size_km"] ** 2 >= 64
    groups = {ablation.group for ablation in FULL.ablations}
    assert {"loss pairs", "prototype labels", "levels", "tile", "tile movement", "dimension", "build"} <= groups
    assert {"photos per place", "aggregation", "negatives", "loss"} <= groups
    assert len({ablation.slug for ablation in FULL.ablations}) == len(FULL.ablations)
