"""Which column of a list is what."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cellcode.errors import InputError, UsageError
from cellcode.photos import IngestOptions, PhotoTable, SplitRule, ingest

Write = Callable[..., Path]


@pytest.fixture
def ingest_text(write_photo: Write, tmp_path: Path) -> Callable[..., PhotoTable]:
    """Ingest a CSV that lists a.jpg and b.jpg."""
    for name in "ab":
        write_photo(tmp_path / f"{name}.jpg")

    def run(text: str, **options: Any) -> PhotoTable:
        (tmp_path / "list.csv").write_text(text, encoding="utf-8")
        rule = SplitRule(kind="none")
        return ingest(tmp_path / "list.csv", out=tmp_path / "table", split=rule, options=IngestOptions(**options))

    return run


def test_common_names_are_found_by_themselves(ingest_text: Callable[..., PhotoTable]) -> None:
    text = (
        "Filename,Latitude,LONGITUDE,compass_angle,license,creator,gps_accuracy,source\na.jpg,48,2,90,CC0,Me,4.5,ours\n"
    )
    row = ingest_text(text).rows.to_pylist()[0]
    assert (row["file"], row["lat_deg"], row["lon_deg"], row["heading_deg"]) == ("a.jpg", 48, 2, 90)
    assert (row["licence"], row["attribution"], row["accuracy_m"], row["source"]) == ("CC0", "Me", 4.5, "ours")


def test_the_formats_own_name_comes_before_common_ones(ingest_text: Callable[..., PhotoTable]) -> None:
    assert ingest_text("file,latitude,lat,lon\na.jpg,1,48,2\n").lat_deg.tolist() == [48]


def test_a_name_that_is_given_comes_before_all(ingest_text: Callable[..., PhotoTable]) -> None:
    text = "file,lat,lon,Y,X,author,Richtung\na.jpg,1,1,48,2,Me,90\n"
    asked = ["lat=Y", "lon = X", "attribution=", "heading=Richtung"]
    row = ingest_text(text, columns=asked).rows.to_pylist()[0]
    assert (row["lat_deg"], row["lon_deg"], row["heading_deg"], row["attribution"]) == (48, 2, 90, None)


def test_x_and_y_are_not_taken_for_a_position(ingest_text: Callable[..., PhotoTable]) -> None:
    with pytest.raises(InputError, match=r"the column lat is missing.*It has file, y, x.*--column lat=COLUMN"):
        ingest_text("file,y,x\na.jpg,48,2\n")


def test_several_common_names_of_one_thing_are_not_guessed_among(ingest_text: Callable[..., PhotoTable]) -> None:
    text = "file,latitude,gps_latitude,lon\na.jpg,48,49,2\n"
    with pytest.raises(InputError, match="lat may be the column latitude or gps_latitude; choose one with --column"):
        ingest_text(text)
    assert ingest_text(text, columns={"lat": "gps_latitude"}).lat_deg.tolist() == [49]


def test_a_column_that_is_there_twice_is_refused(ingest_text: Callable[..., PhotoTable]) -> None:
    with pytest.raises(InputError, match="the column lat occurs 2 times"):
        ingest_text("file,lat,lat,lon\na.jpg,48,49,2\n")


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"latt": "lat"}, UsageError, "there is no 'latt'; did you mean 'lat'"),
        ({"lat": "latitud"}, InputError, "no column 'latitud'; did you mean 'latitude'"),
        ({"lat": "qqqq"}, InputError, "no column 'qqqq'; there are file, latitude, lon"),
    ],
)
def test_an_unknown_name_is_an_error_that_tells_the_nearest(
    asked: dict[str, str], error: type[Exception], says: str, ingest_text: Callable[..., PhotoTable]
) -> None:
    with pytest.raises(error, match=says):
        ingest_text("file,latitude,lon\na.jpg,48,2\n", columns=asked)


def test_a_word_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(UsageError, match="write NAME=COLUMN"):
        IngestOptions(columns=["lat"])


def test_a_photo_table_is_a_list_itself(ingest_text: Callable[..., PhotoTable], tmp_path: Path) -> None:
    made = ingest_text("file,lat,lon,heading,fov\na.jpg,48,2,90,60\nb.jpg,48,2,,\n")
    made.save(tmp_path / "copy")
    (tmp_path / "copy/photos.parquet").rename(tmp_path / "photos.parquet")
    again = ingest(tmp_path / "photos.parquet", out=tmp_path / "again")
    assert again.rows.equals(made.rows)
