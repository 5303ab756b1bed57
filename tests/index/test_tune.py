from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from cellcode.index import exact, first_stage, tune, two_stage
from cellcode.index.codeset import CodeSet
from cellcode.index.first_stage import FirstStage
from cellcode.index.tune import Settings


def filled(world: Any, over: str, dims: int, levels: int) -> FirstStage:
    codes = world.exact.astype(np.float32)
    starts = first_stage.parent_starts(world.parents) if over == "parents" else None
    builder = first_stage.train(codes, world.tuning, dims, levels)
    builder.add(codes if starts is None else first_stage.means(codes, starts))
    return builder.made(starts)


@pytest.fixture(scope="module", params=[("cells", 32, 1), ("cells", 16, 2), ("parents", 32, 1)], ids=str)
def stage(request: pytest.FixtureRequest, world: Any) -> FirstStage:
    return filled(world, *request.param)


@pytest.fixture(scope="module")
def settings(world: Any, stage: FirstStage) -> Settings:
    return tune.check(stage, world.checking, tune.brute_force(world.codes, world.checking))


def share_kept(world: Any, stage: FirstStage, queries: Any, k: int, entries: int) -> float:
    """Share of brute force's k best among the rows that the first stage brings forward."""
    best = np.argpartition(-world.scores(queries), k, axis=1)[:, :k]
    kept = [np.isin(rows, mine).mean() for rows, mine in zip(best, stage.search(queries, entries), strict=True)]
    return float(np.mean(kept))


def test_the_truth_is_brute_force(world: Any) -> None:
    truth = tune.brute_force(world.codes, world.checking)
    order = np.argsort(-world.scores(world.checking).astype(np.float32), axis=1, kind="stable")[:, :1000]
    np.testing.assert_array_equal(truth.rows, order)
    few = CodeSet(world.codes.ids[:30], world.exact[:30])
    assert tune.brute_force(few, world.checking[:3]).rows.shape == (3, 30)
    np.testing.assert_array_equal(tune.brute_force(world.codes, world.checking, 2).rows, order[:, :2])


def test_the_chosen_entries_keep_the_share_they_promise(world: Any, stage: FirstStage, settings: Settings) -> None:
    assert set(settings.entries) == set(settings.kept)
    assert 1 in settings.entries
    for k, entries in settings.entries.items():
        counted = share_kept(world, stage, world.checking, k, entries)
        assert settings.kept[k] == pytest.approx(counted, abs=1e-9)
        assert counted >= tune.TARGETS[k]
        assert entries in (*tune.LADDER, stage.entries)
    assert (settings.over, settings.stage_entries, settings.queries) == (stage.over, stage.entries, len(world.checking))


def test_the_choice_is_the_first_step_that_is_enough_and_one_more(
    world: Any, stage: FirstStage, settings: Settings
) -> None:
    for k, entries in settings.entries.items():
        enough = entries // 2 if entries in tune.LADDER else max(step for step in tune.LADDER if step <= stage.entries)
        assert share_kept(world, stage, world.checking, k, enough) >= tune.TARGETS[k]
        if enough > tune.LADDER[0]:
            assert share_kept(world, stage, world.checking, k, enough // 2) < tune.TARGETS[k]


def test_photos_that_the_check_never_saw_agree_as_promised(world: Any, stage: FirstStage, settings: Settings) -> None:
    for k, entries in settings.entries.items():
        rows = two_stage.candidates(stage, world.tuning, k, entries, world.codes.everything)
        assert rows is not None
        found = two_stage.among(world.codes, rows, world.tuning, k)
        truth = exact.scan(world.codes, world.tuning, k, world.codes.everything)
        same = np.mean([np.isin(one, other).mean() for one, other in zip(truth.rows, found.rows, strict=True)])
        assert same >= tune.TARGETS[k] - 0.005


def test_a_stage_that_cannot_keep_the_best_is_left_out(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes of a code, and hardly any candidates."""
    monkeypatch.setattr(tune, "LADDER", (2, 4, 8))
    poor = filled(world, "cells", 4, 1)
    settings = tune.check(poor, world.checking, tune.brute_force(world.codes, world.checking))
    assert settings.entries == settings.kept == {}
    assert settings.entries_for(1) is None
    assert math.isinf(tune.cost(settings, settings.entries_for(1), len(world.codes)))


def test_entries_never_fall_with_k(world: Any, stage: FirstStage, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = tune.brute_force(world.codes, world.checking)
    monkeypatch.setattr(tune, "TARGETS", {1: 0.995, 100: 0.5, 1000: 0.1})
    settings = tune.check(stage, world.checking, truth)
    entries = [settings.entries[k] for k in sorted(settings.entries)]
    assert entries == sorted(entries)
    assert len(entries) == 3
    for k, count in settings.entries.items():  # entries that look the same may come in another order
        assert settings.kept[k] == pytest.approx(share_kept(world, stage, world.checking, k, count), abs=1e-3)


def test_settings_know_the_bytes_of_an_entry() -> None:
    settings = Settings("cells", 64, 2, 10_000, {}, {}, 300)
    assert (settings.components, settings.levels) == (64, 2)
    assert settings.entry_bytes == 32


def test_a_k_beyond_what_was_checked_has_no_number_of_entries() -> None:
    settings = Settings("cells", 64, 2, 10_000, {1: 100, 100: 800}, {1: 0.999, 100: 0.995}, 300)
    assert [settings.entries_for(k) for k in (1, 2, 100, 101)] == [100, 800, 800, None]


def test_settings_survive_a_manifest() -> None:
    settings = Settings("parents", 64, 2, 10_000, {1: 100, 100: 800}, {1: 0.999, 100: 0.995}, 300)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_a_part_of_the_cells_costs_more_candidates_but_less_to_scan() -> None:
    settings = Settings("cells", 128, 2, 1_000_000, {1: 100}, {1: 1.0}, 300)
    whole, half = (tune.cost(settings, 100, 1_000_000, share) for share in (1.0, 0.5))
    assert whole == 64e6 + 100 * tune.BYTES_A_ROW
    assert half == 64e6 + 200 * tune.BYTES_A_ROW
    assert tune.exact_cost(1_000_000, 256, 1) == 256e6
    assert tune.exact_cost(500_000, 256, 1) == 128e6
    assert tune.exact_cost(1_000_000, 256, 64) == tune.exact_cost(1_000_000, 256, 8) == 32e6
