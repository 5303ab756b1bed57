"""The first stage that a build makes, or does not make."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.config import BuildConfig
from cellcode.database import Database
from cellcode.database.building import first_stage, writer
from cellcode.index import tune
from cellcode.index.codeset import CodeSet

CELLS = 3000


def made(database: Database, folder: Path, queries: Any = None, **rule: Any) -> tune.Settings | None:
    folder.mkdir(exist_ok=True)
    asked = database.queries if queries is None else queries
    settings = BuildConfig(**{"first_stage_min_cells": 1000, **rule})
    return first_stage.make(few(database, CELLS), asked, settings, folder, 16, 0)


def few(database: Database, count: int) -> CodeSet:
    """The first cells of a database."""
    whole = database.code_set
    return CodeSet(whole.ids[:count], whole.exact[:count], None, longest=whole.longest)


@pytest.mark.parametrize(("over", "files"), [("cells", 2), ("parents", 3)])
def test_a_stage_over_what_is_asked_for_is_written(wide_cells: Database, tmp_path: Path, over: Any, files: int) -> None:
    settings = made(wide_cells, tmp_path, first_stage=over)
    assert settings is not None
    assert settings.over == over
    assert len(list(tmp_path.iterdir())) == files
    assert settings.queries == len(wide_cells.queries) // 2
    for k, share in settings.kept.items():
        assert share >= tune.TARGETS[k]


def test_of_all_stages_the_cheapest_is_taken(wide_cells: Database, tmp_path: Path) -> None:
    prices = {}
    for over in ("auto", "cells", "parents"):
        settings = made(wide_cells, tmp_path / over, first_stage=over)
        assert settings is not None
        prices[over] = tune.cost(settings, settings.entries_for(100), CELLS)
    assert prices["auto"] == min(prices.values())


def test_small_databases_and_those_told_so_have_none(wide_cells: Database, tmp_path: Path) -> None:
    assert made(wide_cells, tmp_path, first_stage="none") is None
    assert made(wide_cells, tmp_path, first_stage_min_cells=CELLS + 1) is None
    assert not list(tmp_path.iterdir())


def test_too_few_photos_check_nothing_and_it_is_said(
    wide_cells: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fewest = 2 * first_stage.MIN_QUERIES
    assert made(wide_cells, tmp_path, wide_cells.queries[: fewest - 1]) is None
    said = f"{fewest - 1} validation photos cannot make and check a first stage (at least {fewest})"
    assert said in caplog.text
    assert not list(tmp_path.iterdir())


def test_codes_that_no_stage_can_tell_apart_are_searched_exactly(
    wide_cells: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "LADDER", (1, 2))
    assert made(wide_cells, tmp_path) is None
    assert "no first stage keeps what brute force finds" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cells", [1, 3, 20, 99])
def test_a_database_of_a_few_cells_has_none_even_if_asked_for(wide_cells: Database, tmp_path: Path, cells: int) -> None:
    rule, asked = BuildConfig(first_stage_min_cells=1), wide_cells.queries
    assert first_stage.make(few(wide_cells, cells), asked, rule, tmp_path, 16, 0) is None
    assert not list(tmp_path.iterdir())


def test_int8_codes_keep_their_bound(wide_cells: Database, tmp_path: Path) -> None:
    codes = np.asarray(wide_cells.codes)
    coarse = writer.write_coarse(codes, tmp_path)
    apart = np.linalg.norm(
        codes.astype(float) - coarse["int8_step"] * np.load(tmp_path / "codes_int8.npy").astype(float), axis=1
    )
    assert apart.max() <= coarse["int8_error"] < 1.001 * apart.max()


def test_the_identity_changes_with_the_calibration_alone(mixed: Database, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mixed.folder, tmp_path / "copy"))
    values = {name: mixed.manifest[name] for name in ("run", "levels", "dim", "cells", "codes")}
    seen = []
    for calibration in (mixed.calibration, replace(mixed.calibration, temperature=1.0)):
        (copy / "manifest.json").unlink()
        writer.write_manifest(copy, np.asarray(mixed.ids), calibration, values)
        seen.append(json.loads((copy / "manifest.json").read_text())["identity"])
    assert seen[0] == mixed.identity != seen[1]
