"""cellcode verify: the claim that the service would judge, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cellcode.cli import main
from cellcode.database import Database
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.search import Locator, claims


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *map(str, arguments)])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_the_verdict_is_printed_for_people_and_as_json(
    town_cells: Database, town_photos: PhotoTable, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = town_photos.files[0]
    lat, lon = (float(value[0]) for value in s2.cell_centers(town_cells.ids[:1]))
    expected = claims.verify(Locator(town_cells), photo, lat, lon)
    status, out, _ = run(capsys, town_cells.folder, photo, "--claim", f"{lat},{lon}", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(json.dumps(expected.to_json()))
    status, out, _ = run(capsys, town_cells.folder, photo, "--claim", f"{lat},{lon}")
    assert status == 0
    assert expected.reason in out
    assert str(expected.claim.cell) in out


def test_a_place_without_a_cell(
    town_cells: Database, town_photos: PhotoTable, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, town_cells.folder, town_photos.files[0], "--claim", "-33.9,18.4")
    assert status == 0
    assert "outside database" in out


@pytest.mark.parametrize("claim", ["52", "52,x", "91,0", "0,181", "nan,3", "1,2,3"])
def test_a_claim_that_is_no_place_is_bad_usage(
    town_cells: Database, capsys: pytest.CaptureFixture[str], claim: str
) -> None:
    status, out, err = run(capsys, town_cells.folder, "a.jpg", f"--claim={claim}")
    assert (status, out) == (2, "")
    assert "LAT,LON" in err


def test_a_photo_that_cannot_be_read_is_one_sentence(
    town_cells: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_text("no photo")
    status, out, err = run(capsys, town_cells.folder, tmp_path / "bad.jpg", "--claim", "52,3")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
