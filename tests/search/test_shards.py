"""A folder of shards in place of a database: locate, evaluate, verify, serve and export give what the whole gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode import Locator, evaluate, locate
from cellcode.cli import main
from cellcode.database import Database, split
from cellcode.errors import UsageError
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.search import ShardedSearcher, claims, together
from cellcode.search.searcher import DatabaseSearcher


@pytest.fixture(scope="module")
def folder(town_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("split") / "shards"
    split(town_cells, 2, out=out)
    return out


@pytest.fixture(scope="module")
def files(town_photos: PhotoTable) -> list[Path]:
    return list(town_photos.of_split("test").files[:12])


@pytest.mark.parametrize("region", [None, "part"])
def test_answers_are_those_of_the_whole_bit_for_bit(
    town_cells: Database, folder: Path, files: list[Path], region: str | None
) -> None:
    """All candidates with their probabilities, radii and all else, as JSON."""
    west, south, east, north = town_cells.region_bounds
    where = f"{west},{south},{(west + east) / 2},{north}" if region else None
    whole, shards = Locator.open(town_cells), Locator.open(folder)
    top = whole.searcher.count(None if where is None else _region(where))
    for one, other in zip(
        whole.locate_many(files, top=top, region=where), shards.locate_many(files, top=top, region=where), strict=True
    ):
        assert json.dumps(one.to_json()) == json.dumps(other.to_json())
    assert locate(folder, files[0]) == locate(town_cells, files[0])


def _region(text: str) -> Any:
    from cellcode.geography import Region

    return Region.parse(text)


def test_photos_together_and_claims_are_those_of_the_whole(
    town_cells: Database, folder: Path, files: list[Path]
) -> None:
    whole, shards = Locator.open(town_cells), Locator.open(folder)
    motion = np.array([[0, 0], [40, 0], [80, 10]])
    for motion_m in (None, motion):
        one, other = (together.locate(each, files[:3], motion_m=motion_m) for each in (whole, shards))
        assert one == other
    lat, lon = (float(value[0]) for value in s2.cell_centers(town_cells.ids[7:8]))
    assert claims.verify(shards, files[0], lat, lon) == claims.verify(whole, files[0], lat, lon)


def test_the_report_is_that_of_the_whole(
    town_cells: Database, town_photos: PhotoTable, folder: Path, tmp_path: Path
) -> None:
    one = evaluate(town_cells, town_photos, out=tmp_path / "whole")
    other = evaluate(folder, town_photos, out=tmp_path / "shards")
    assert _untimed(one.values) == _untimed(other.values)
    pictures = [sorted(each.name for each in (tmp_path / name / "figures").iterdir()) for name in ("whole", "shards")]
    assert pictures[0] == pictures[1]


def _untimed(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _untimed(value) for name, value in values.items() if name != "ms_per_query"}
    return values


def test_shards_with_a_first_stage_are_searched_one_by_one(wide_cells: Database, tmp_path: Path) -> None:
    split(wide_cells, 2, out=tmp_path / "shards")
    with Locator.open(tmp_path / "shards") as locator:
        assert isinstance(locator.searcher, ShardedSearcher)
        found = locator.searcher.search(wide_cells.queries[:5], 1)
        exact = DatabaseSearcher(wide_cells, "exact").search(wide_cells.queries[:5], 1)
    assert (found.cell_ids == exact.cell_ids).mean() > 0.7


def test_a_cluster_needs_shards(town_cells: Database) -> None:
    with pytest.raises(UsageError, match="single database"):
        Locator.open(town_cells, cluster="auto")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_commands_take_the_folder(
    town_cells: Database, folder: Path, files: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one = run(capsys, "locate", town_cells.folder, *files[:3], "--json", "--top", 50)
    other = run(capsys, "locate", folder, *files[:3], "--json", "--top", 50)
    assert one[0] == 0
    assert one[:2] == other[:2]
    lat, lon = (float(value[0]) for value in s2.cell_centers(town_cells.ids[7:8]))
    one = run(capsys, "verify", town_cells.folder, files[0], "--claim", f"{lat},{lon}", "--json")
    other = run(capsys, "verify", folder, files[0], "--claim", f"{lat},{lon}", "--json")
    assert one[0] == 0
    assert one[:2] == other[:2]
    (tmp_path / "empty").mkdir()
    status, out, err = run(capsys, "locate", tmp_path / "empty", files[0])
    assert (status, out) == (1, "")
    assert "the folder is empty" in err
    assert len(err.splitlines()) == 1
