"""cellcode grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellcode.cli import main
from cellcode.database import Database
from cellcode.photos import PhotoTable


def test_grow_adds_photos_and_imagery(
    town_cells: Database, town_photos: PhotoTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = town_cells.folder.parent, tmp_path / "table"
    town_photos.with_column("split", ["train"] * len(town_photos)).save(table)
    with pytest.raises(SystemExit) as ended:
        main(["grow", str(town_cells.folder), "--photos", str(table), "--out", str(tmp_path / "one")])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "one")
    assert "gained a prototype" in said.err
    assert "s per cell" in said.err
    lit = ["--run", str(folder / "run"), "--aerial", str(folder / "aerial.tif")]
    with pytest.raises(SystemExit) as ended:
        main(["grow", str(tmp_path / "one"), *lit, "--out", str(tmp_path / "two")])
    assert ended.value.code == 0
    assert Database.open(tmp_path / "two").ids.tolist() == town_cells.ids.tolist()


def test_grow_asks_for_photos_or_imagery(
    town_cells: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grow", str(town_cells.folder), "--out", str(tmp_path / "no")])
    assert ended.value.code == 2
    assert "--photos" in capsys.readouterr().err
