"""The whole page, in small: every stage runs as in the full plan, twice, the second time without work."""

import json
from pathlib import Path
from typing import Any

import pytest
from experiments import recipe, results
from experiments.plan import FULL, QUICK
from experiments.scaling import AXES
from experiments.stages import Stage, with_needs

from cellcode import config as configuration
from cellcode.errors import CellcodeError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("results")
    return out, results.run(out / "stages", out / "docs", plan="quick")


def test_the_page_has_every_table_and_says_what_it_is(made: tuple[Path, dict[str, Any]]) -> None:
    out, values = made
    page = (out / "docs" / "results.md").read_text(encoding="utf-8")
    assert not values["failed"]
    assert "a rehearsal whose numbers mean nothing" in page
    titles = (
        "Same area",
        "Cross area",
        "Another country",
        "Over seeds",
        "Slices",
        "Ablations",
        "Confidence",
        "Growing",
    )
    for title in (*titles, "Verdicts", "What more buys", "What would my region need"):
        assert f"# {title}" in page
    for row in (
        "hybrid",
        "the paper, as far as it is known",
        "symmetric InfoNCE",
        "hierarchical softmax",
        "PIGEON",
        "oracle",
        "chance",
    ):
        assert page.count(row) >= 2
    assert "{{" not in page
    assert all(claim["holds"] is not None for claim in values["claims"])


def test_every_number_is_in_the_json_and_every_figure_on_the_page_is_a_file(made: tuple[Path, dict[str, Any]]) -> None:
    out, values = made
    kept = json.loads((out / "docs" / "results.json").read_text(encoding="utf-8"))
    assert [row["system"] for row in kept["same_area"]] == [row["system"] for row in values["same_area"]]
    assert len(kept["claims"]) == 9
    assert {"same_area", "cross_area", "confidence", "strangers", "claims"} <= kept.keys()
    assert "parts" not in kept
    assert len(kept["ablations"]) == len(QUICK.ablations)
    assert [axis["name"] for axis in kept["scaling"]["axes"]] == list(QUICK.scaling)
    assert all(point["cpu_seconds"] > 0 for axis in kept["scaling"]["axes"] for point in axis["points"])
    assert kept["seeds"]["count"] == {"hybrid": 2, "prototypes": 2, "aerial": 2}
    page = (out / "docs" / "results.md").read_text(encoding="utf-8")
    shown = [part.split(")")[0] for part in page.split("](figures/")[1:]]
    assert len(shown) >= 10
    assert "scaling.webp" in shown
    for name in shown:
        assert (out / "docs" / "figures" / name).is_file()


def test_a_second_run_finds_everything_made(
    made: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    out, values = made
    again = results.run(out / "stages", out / "docs", plan="quick")
    assert again["seconds"] == values["seconds"]
    assert f"{len(values['seconds'])} stages had finished before" in caplog.text
    listed = results.table(out / "stages", plan="quick").splitlines()
    assert len(listed) == len(values["seconds"]) + 1
    assert all(" done " in line for line in listed[:-1])


def test_some_stages_are_made_with_what_they_need_and_the_docs_are_left_until_all_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(wanted: list[Stage], out: Path) -> dict[str, Any]:
        return {stage.name: "asked for" for stage in with_needs(wanted).values()}

    monkeypatch.setattr(results.running, "run", in_this_process)
    with pytest.raises(
        CellcodeError, match=r"3 of \d+ stages failed.*region: asked for; train-base: asked for; ablation-b"
    ):
        results.run(tmp_path / "stages", tmp_path / "docs", plan="quick", only=["ablation-base"])
    page = (tmp_path / "stages" / "results.md").read_text(encoding="utf-8")
    assert not (tmp_path / "docs").exists()
    assert "\n- region: asked for" in page
    assert "\n- same-area: not made yet, and not asked for (--only)" in page
    assert page.count("not measured: a stage is missing") == 13
    with pytest.raises(UsageError, match="no stage is called 'train-hibrid'; the nearest names: train-hybrid"):
        results.run(tmp_path / "stages", tmp_path / "docs", plan="quick", only=["train-hibrid"])
    with pytest.raises(
        UsageError, match="holds the stages of the plan 'quick'; choose another --out for the plan 'full'"
    ):
        results.run(tmp_path / "stages", tmp_path / "docs", plan="full")


def test_what_the_benchmark_is_configured_by_decides_what_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> dict[str, str]:
        return {name: stage.key for name, stage in with_needs([*results.all_stages(QUICK, None).values()]).items()}

    def changed(before: dict[str, str]) -> set[str]:
        return {name for name, key in keys().items() if key != before.get(name)}

    before, load = keys(), configuration.load
    assert keys() == before
    worlds = set(QUICK.worlds)
    trained = {name for name in before if name.startswith("train-")}
    monkeypatch.setattr(configuration, "load", lambda name, more: load(name, ["build.kappa=2", *more]))
    assert not changed(before) & (worlds | trained)
    assert {"build-hybrid", "same-area", "other-country", "hierarchy", "growing", "scale-epochs-1"} <= changed(before)
    monkeypatch.setattr(configuration, "load", lambda name, more: load(name, ["photo.width_px=80", *more]))
    assert before.keys() - changed(before) == worlds
    monkeypatch.setattr(configuration, "load", load)
    for name, value in (("WORLD_VERSION", 99), ("code_digest", lambda module: "another survey")):
        with monkeypatch.context() as patch:
            patch.setattr(recipe, name, value)
            assert changed(before) == before.keys()


def test_the_full_plan_is_as_large_as_the_page_says() -> None:
    world = FULL.worlds["region"]
    assert world["size_km"] ** 2 >= 64
    assert FULL.scaling.keys() == AXES.keys()
    groups = {ablation.group for ablation in FULL.ablations}
    assert {"loss pairs", "prototype labels", "levels", "tile", "tile movement", "batches", "build"} <= groups
    assert {"photos per place", "aggregation", "negatives", "loss"} <= groups
    stages = with_needs([*results.all_stages(FULL, None).values()])
    assert len({ablation.slug for ablation in FULL.ablations}) == len(FULL.ablations)
    for kind in (
        "train-hybrid-seed-2",
        "train-prototypes-seed-2",
        "train-aerial-seed-2",
        "strangers-seed-2",
        "areas-paper",
    ):
        assert kind in stages
    assert {name.rsplit("-", 1)[0] for name in stages if name.startswith("scale-")} == {
        f"scale-{axis}" for axis in AXES
    }
