"""Files of answers are read back with other libraries: shapely, csv, pyarrow."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import shapely

from cellcode import Locator
from cellcode.database import Database
from cellcode.errors import InputError, UsageError
from cellcode.photos import PhotoTable
from cellcode.search import Answer, Failure, answer_files, together

BAD = "not a photo"


@pytest.fixture(scope="module")
def locator(town_cells: Database) -> Locator:
    return Locator.open(town_cells.folder)


@pytest.fixture(scope="module")
def some(town_photos: PhotoTable, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three photos, and in their middle a file that is none and has an awkward name."""
    bad = tmp_path_factory.mktemp("photos") / 'a, "b"\n.jpg'
    bad.write_text(BAD)
    good = town_photos.of_split("test").files[:3]
    return [good[0], bad, *good[1:]]


@pytest.fixture(scope="module")
def rows(locator: Locator, some: list[Path]) -> list[dict[str, Any]]:
    return [each.to_json() for each in locator.locate_many(some, top=3)]


def test_geojson_has_a_point_of_each_answer_with_all_facts(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    answer_files.write(tmp_path / "out.geojson", rows, top=3)
    value = json.loads((tmp_path / "out.geojson").read_text(encoding="utf-8"))
    assert value["type"] == "FeatureCollection"
    assert [each["properties"] for each in value["features"]] == rows
    for feature, row in zip(value["features"], rows, strict=True):
        if "error" in row:
            assert feature["geometry"] is None
        else:
            point = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert (point.y, point.x) == (row["lat"], row["lon"])


def test_csv_has_one_line_a_photo_and_its_columns_follow_from_top(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    answer_files.write(tmp_path / "out.csv", rows, top=4)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    assert reader.fieldnames == answer_files.csv_columns(4)
    assert [line["file"] for line in lines] == [row["file"] for row in rows]
    assert lines[1]["error"] == rows[1]["error"]
    assert set(lines[1].values()) == {"", lines[1]["file"], lines[1]["error"]}
    for line, row in zip(lines, rows, strict=True):
        if "error" not in row:
            assert float(line["lat"]) == row["lat"]
            assert float(line["radius_90_m"]) == row["radius_90_m"]
            assert line["in_region"] == str(row["in_region"]).lower()
            assert line["search_method"] == row["search"]["method"]
            assert (line["cell_3"], float(line["score_3"])) == (
                row["candidates"][2]["cell"],
                row["candidates"][2]["score"],
            )
            assert line["cell_4"] == ""


def test_parquet_holds_the_objects_that_json_does(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_files, "GROUP_ROWS", 3)
    answer_files.write(tmp_path / "out.parquet", iter(rows * 2), top=3)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert file.metadata.num_row_groups == 3  # of at most three rows: a long table is never whole in memory
    for read, row in zip(file.read().to_pylist(), rows * 2, strict=True):
        assert {name: value for name, value in read.items() if value is not None} == {
            name: value for name, value in row.items() if value is not None
        }


@pytest.mark.parametrize("ending", [".geojson", ".csv", ".parquet"])
def test_several_photos_of_one_place_are_one_row(
    locator: Locator, some: list[Path], tmp_path: Path, ending: str
) -> None:
    answer = together.locate(locator, some, top=2)
    out = tmp_path / f"out{ending}"
    answer_files.write(out, [answer.to_json(), *(each.to_json() for each in answer.unreadable)], top=2)
    if ending == ".geojson":
        first, second = (each["properties"] for each in json.loads(out.read_text(encoding="utf-8"))["features"])
        assert first == answer.to_json()
    elif ending == ".csv":
        with out.open(newline="", encoding="utf-8") as file:
            first, second = csv.DictReader(file)
        assert first["file"] == "; ".join(answer.files)
    else:
        first, second = pq.read_table(out).to_pylist()
        assert (first["file"], first["files"]) == (answer.files[0], list(answer.files))
    assert second["file"] == str(some[1])


def test_names_that_are_no_utf8_do_not_stop_the_others(tmp_path: Path) -> None:
    odd = Failure("caf\udce9.jpg", "caf\udce9.jpg: the file is empty").to_json()
    for ending in (".geojson", ".csv", ".parquet"):
        answer_files.write(tmp_path / f"out{ending}", [odd], top=1)
        assert b"caf\\udce9.jpg" in (tmp_path / f"out{ending}").read_bytes().replace(b"\\\\", b"\\")


def test_another_ending_or_a_folder_is_refused(tmp_path: Path) -> None:
    for name in ("out.json", "out", "out.shp"):
        with pytest.raises(UsageError, match=r"must end in \.geojson, \.csv or \.parquet"):
            answer_files.check(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        answer_files.check(tmp_path / "folder.csv")


class Cut(Locator):
    """Is interrupted behind the second photo, and remembers what it was asked for."""

    after, asked = 2, ()

    def locate_many(self, photos: Any, **options: Any) -> Any:
        self.asked = tuple(photos)
        for number, result in enumerate(super().locate_many(photos, **options)):
            if number == self.after:
                raise KeyboardInterrupt
            yield result


@pytest.fixture
def cut(town_cells: Database) -> Cut:
    return Cut(town_cells)


def test_an_interrupted_call_goes_on_where_it_was(cut: Cut, some: list[Path], tmp_path: Path) -> None:
    """The file is that of a call that was never interrupted, and only what has no answer yet is located."""
    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_files.locate_to(out, cut, some, top=2)
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    with partial.open("ab") as file:
        file.write(b'{"bytes": 12, "chang')  # killed while it wrote
    cut.after = len(some)
    assert answer_files.locate_to(out, cut, some, top=2) == (3, 1)
    assert cut.asked == (some[1], some[2], some[3])  # the first has an answer; the second could not be read
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert answer_files.locate_to(tmp_path / "whole.csv", cut, some, top=2) == (3, 1)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_photo_whose_kept_answer_is_damaged_is_located_again(cut: Cut, some: list[Path], tmp_path: Path) -> None:
    """One flipped bit in a digit of an answer: another number, and valid JSON all the same."""
    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial.jsonl"
    answer_files.locate_to(tmp_path / "whole.csv", cut_off := Cut(cut.database), some[:1])
    assert cut_off.asked == (some[0],)
    with pytest.raises(KeyboardInterrupt):
        answer_files.locate_to(out, cut, some)
    kept = partial.read_bytes()
    place = kept.index(b'"lat": ') + 8
    partial.write_bytes(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
    cut.after = len(some)
    answer_files.locate_to(out, cut, some)
    assert cut.asked == tuple(some)
    assert out.read_bytes().startswith((tmp_path / "whole.csv").read_bytes())


def test_a_photo_that_changed_is_located_again(cut: Cut, town_photos: PhotoTable, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    for file, source in zip(files, town_photos.files[:3], strict=True):
        file.write_bytes(source.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        answer_files.locate_to(tmp_path / "out.csv", cut, files)
    files[0].write_bytes(town_photos.files[5].read_bytes())
    cut.after = len(files)
    answer_files.locate_to(tmp_path / "out.csv", cut, files)
    assert cut.asked == (files[0], files[2])


def test_answers_to_another_question_are_not_mixed_in(cut: Cut, some: list[Path], tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    box = [[[-20, -60], [20, -60], [20, 60], [-20, 60], [-20, -60]]]
    area.write_text(json.dumps({"type": "Polygon", "coordinates": box}))
    out = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        answer_files.locate_to(out, cut, some, region=str(area))
    box[0][0][0] = box[0][4][0] = -21
    for region in (None, str(area)):
        with pytest.raises(InputError, match="another database, --top or --region"):
            answer_files.locate_to(out, cut, some, region=region)
        area.write_text(json.dumps({"type": "Polygon", "coordinates": box}))
    assert not out.exists()


def test_a_call_that_cannot_start_leaves_nothing(locator: Locator, some: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        answer_files.locate_to(tmp_path / "out.csv", locator, some, region="10,10,11,11")
    assert not list(tmp_path.iterdir())


def test_an_old_file_stays_until_the_new_one_is_complete(cut: Cut, some: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        answer_files.locate_to(out, cut, some)
    assert out.read_text() == "old"


def test_answers_are_not_rounded_on_the_way(locator: Locator, some: list[Path], tmp_path: Path) -> None:
    answer_files.locate_to(tmp_path / "out.parquet", locator, some, top=3)
    read = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for row, result in zip(read, locator.locate_many(some, top=3), strict=True):
        if isinstance(result, Answer):
            assert row["candidates"] == [vars(each) for each in result.candidates]
            assert row["radius_50_m"] == result.radius_50_m
