"""`ingest` with an online service: asked for, fetched, resumed, told of what is missing."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cellcode.errors import UsageError
from cellcode.geography import Region
from cellcode.http import Politeness
from cellcode.photos import IngestOptions, PhotoTable, SplitRule, ingest
from cellcode.photos.table.writer import IncompleteError

QUICK = Politeness(requests_per_s=1e6, tries=2, timeout_s=30.0, patience_s=60.0, first_wait_s=0.001)
EVERYWHERE = Region.bbox(2.9, 50.95, 3.1, 51.1)


def _ingest(server: Any, out: Path, **options: Any) -> PhotoTable:
    chosen = IngestOptions(politeness=QUICK, min_width_px=40, **options)
    return ingest(server.spec, out=out, region=EVERYWHERE, split=SplitRule(kind="none"), options=chosen)


@pytest.mark.parametrize("kind", ["mapillary", "panoramax"])
def test_photos_of_a_service_become_a_table(
    kind: str, town: list[dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest, caplog: Any
) -> None:
    server = request.getfixturevalue(kind)(town[:12])
    table = _ingest(server, tmp_path / "table")
    assert len(table) == 12
    assert table.column("source") == [kind] * 12
    assert all(path.is_file() for path in PhotoTable.load(tmp_path / "table").files)
    said = caplog.text
    assert said.index("12 to fetch") < said.index(f"12 photos in {tmp_path}")
    assert "licence " in said


def test_missing_photos_are_the_only_ones_the_next_run_asks_for(
    town: list[dict[str, Any]], tmp_path: Path, panoramax: Callable[..., Any]
) -> None:
    server = panoramax(town[:12])
    server.faults[f"{town[3]['id']}/"] = ("busy_for_long", 1000)
    with pytest.raises(IncompleteError, match=r"1 missing .*run the same command again"):
        _ingest(server, tmp_path / "table")
    assert len(PhotoTable.load(tmp_path / "table")) == 11
    with (tmp_path / "table/rejects.csv").open(newline="") as file:
        (missing,) = csv.DictReader(file)
    assert (missing["file"], missing["missing"]) == (f"panoramax/{town[3]['id']}", "yes")
    server.faults.clear()
    server.asked.clear()
    assert len(_ingest(server, tmp_path / "table")) == 12
    assert server.count(f"/{town[3]['id']}/") >= 1
    assert server.count("/pictures/") <= 5  # that one, and a few to tell the sizes by


def test_much_is_not_fetched_without_a_yes(
    town: list[dict[str, Any]], tmp_path: Path, panoramax: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellcode.photos.sources.consent.FREE_PHOTOS", 5)
    server = panoramax(town[:12])
    with pytest.raises(UsageError, match="nothing was fetched: not confirmed; add --yes"):
        _ingest(server, tmp_path / "table")
    assert not (tmp_path / "table/photos.parquet").exists()
    assert not (tmp_path / "table/images").exists()
    assert len(_ingest(server, tmp_path / "table", max_photos=5)) == 5
    assert len(_ingest(server, tmp_path / "table", confirm=lambda _: True)) == 12
