"""cellcode locate --together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cellcode.cli import main
from cellcode.database import Database


def test_one_answer_for_several_photos(
    town_cells: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = sorted(town_cells.folder.parent.glob("photos/*.jpg"))[:3]
    motion = tmp_path / "motion.csv"
    motion.write_text("file,east_m,north_m\n" + "".join(f"{each.name},{30 * n},0\n" for n, each in enumerate(photos)))
    asked = ["locate", str(town_cells.folder), *map(str, photos), "--together", "--top", "2"]
    for more in ([], ["--motion", str(motion)]):
        with pytest.raises(SystemExit) as ended:
            main([*asked, *more, "--json"])
        assert ended.value.code == 0
        value = json.loads(capsys.readouterr().out)
        assert value["files"] == [str(each) for each in photos]
        assert len(value["candidates"]) == 2
    with pytest.raises(SystemExit):
        main(asked)
    said = capsys.readouterr().out
    assert "3 photos together" in said
    assert "measured on single photos" in said
    missing = tmp_path / "missing.jpg"
    with pytest.raises(SystemExit) as ended:
        main([*asked, str(missing)])
    assert ended.value.code == 1
    assert "missing.jpg" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["locate", str(town_cells.folder), str(missing), "--together", "--json"])
    assert ended.value.code == 1
    value = json.loads(capsys.readouterr().out)
    assert value["files"] == [str(missing)]
    assert "missing.jpg" in value["error"]


def test_motion_needs_together(town_cells: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["locate", str(town_cells.folder), "a.jpg", "--motion", str(tmp_path / "motion.csv")])
    assert ended.value.code == 2
    assert "--together" in capsys.readouterr().err
