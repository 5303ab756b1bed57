import csv
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellcode.errors import InputError
from cellcode.geography import Region
from cellcode.photos import PhotoTable, SplitRule, ingest
from cellcode.photos.table.photo_table import SCHEMA

Write = Callable[..., Path]
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def folder(write_photo: Write, tmp_path: Path) -> Path:
    """Photos a.jpg to f.jpg, whose EXIF position must not matter."""
    for name in "abcdef":
        write_photo(tmp_path / f"list/photos/{name}.jpg", -10, -10, size=(48, 32))
    return tmp_path / "list"


def _csv(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def _ingest(path: Path, **options: Any) -> PhotoTable:
    return ingest(path, out=path.parent.parent / "table", **options)


def _rejects(path: Path) -> list[tuple[str, str, str]]:
    with (path.parent.parent / "table/rejects.csv").open(newline="", encoding="utf-8") as file:
        return [(row["file"], row["line"], row["reason"]) for row in csv.DictReader(file)]


def test_bad_lines_are_rejected_with_number_and_reason_and_the_others_are_kept(folder: Path) -> None:
    (folder / "photos/broken.jpg").write_bytes(b"no photo")
    path = _csv(
        folder,
        "file,lat,lon,heading,captured_at,split\n"
        "photos/a.jpg,48.1,2.3,,,train\n"  # line 2
        "photos/b.jpg,nan,2.3,,,train\n"
        "photos/missing.jpg,48.1,2.3,,,train\n"
        "photos/a.jpg,48.2,2.4,,,train\n"
        "photos/c.jpg,91,2.3,,,train\n"
        "photos/c.jpg,48.1,181,,,train\n"
        "photos/c.jpg,north,2.3,,,train\n"
        "photos/c.jpg,48.1\n"
        ",48.1,2.3,,,train\n"
        "photos/broken.jpg,48.1,2.3,,,train\n"
        "photos/c.jpg,48.1,2.3,east,,train\n"
        "photos/c.jpg,48.1,2.3,,yesterday,train\n"
        "photos/c.jpg,48.1,2.3,,,holdout\n"
        "photos/d.jpg,inf,2.3,,,train\n"
        "photos/./../photos/d.jpg,48.3,2.3,,,test\n"  # line 16: the first usable line of this photo
        "photos/d.jpg,48.4,2.3,,,test\n",
    )
    table = _ingest(path)
    assert table.column("file")[0] == "photos/a.jpg"
    assert table.lat_deg.tolist() == [48.1, 48.3]
    assert table.split.tolist() == ["train", "test"]
    expected = [
        ("photos/b.jpg", 3, "lat is nan"),
        ("photos/missing.jpg", 4, "the file does not exist"),
        ("photos/a.jpg", 5, "duplicate of line 2"),
        ("photos/c.jpg", 6, "lat is 91.0, not in -90..90"),
        ("photos/c.jpg", 7, "lon is 181.0, not in -180..180"),
        ("photos/c.jpg", 8, "lat is 'north', not a number"),
        ("photos/c.jpg", 9, "lon is None, not a number"),
        ("", 10, "no file"),
        ("photos/broken.jpg", 11, "not an image"),
        ("photos/c.jpg", 12, "heading is 'east', not a number"),
        ("photos/c.jpg", 13, "captured_at is 'yesterday', not an ISO 8601 date"),
        ("photos/c.jpg", 14, "split is 'holdout', not one of train, validation, test, none"),
        ("photos/d.jpg", 15, "lat is 'inf', not a number"),
        ("photos/d.jpg", 17, "duplicate of line 16"),
    ]
    got = _rejects(path)
    assert [(file, int(line)) for file, line, _ in got] == [(file, line) for file, line, _ in expected]
    for (_, _, reason), (_, _, part) in zip(got, expected, strict=True):
        assert part in reason
        assert str(folder) not in reason


@pytest.mark.parametrize("missing", ["file", "lat", "lon"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_column_is_named(missing: str, suffix: str, folder: Path) -> None:
    columns = {name: value for name, value in {"file": "photos/a.jpg", "lat": 48, "lon": 2}.items() if name != missing}
    path = folder / f"list{suffix}"
    if suffix == ".csv":
        path.write_text(",".join(columns) + "\n" + ",".join(map(str, columns.values())) + "\n")
    else:
        pq.write_table(pa.table({name: [value] for name, value in columns.items()}), path)
    with pytest.raises(InputError, match=f"the column {missing} is missing; needed are file, lat, lon") as caught:
        _ingest(path)
    assert str(path) in str(caught.value)
    assert not (folder.parent / "table").exists()


def test_all_columns_are_taken_over(folder: Path) -> None:
    path = _csv(
        folder,
        "file,lat,lon,heading,fov,captured_at,sequence,device,licence,attribution,split,comment\n"
        "photos/a.jpg,-48.1,-2.3,-90,65.5,2024-05-06T07:08:09,s1,Phone,CC0,Ä. Person,test,ignored\n"
        "photos/b.jpg,48.1,2.3,,,,,,,,,\n",
    )
    rows = _ingest(path).rows.to_pylist()
    assert rows[0] == {
        "file": "photos/a.jpg",
        "lat_deg": -48.1,
        "lon_deg": -2.3,
        "heading_deg": 270.0,
        "fov_deg": 65.5,
        "captured_at": datetime(2024, 5, 6, 7, 8, 9),
        "sequence": "s1",
        "device": "Phone",
        "split": "test",
        "licence": "CC0",
        "attribution": "Ä. Person",
        "source": "list",
        "width_px": 48,
        "height_px": 32,
        "accuracy_m": None,
        "land_use": None,
    }
    kept = ("file", "lat_deg", "lon_deg", "split", "source", "width_px", "height_px")
    assert {name for name, value in rows[1].items() if value is not None} == set(kept)
    assert rows[1]["split"] == "train"


def test_split_column_is_kept_unless_a_rule_is_given(folder: Path) -> None:
    path = _csv(
        folder,
        "file,lat,lon,split\n"
        + "".join(
            f"photos/{name}.jpg,48.{k},2.3,{('train', 'test', 'none')[k % 3]}\n" for k, name in enumerate("abcdef")
        ),
    )
    kept = _ingest(path)
    assert kept.split.tolist() == ["train", "test", "none"] * 2
    assert kept.notes is not None
    assert "split_rule" not in kept.notes
    ruled = _ingest(path, split=SplitRule(kind="position", test_share=1.0))
    assert (ruled.split == "test").all()


def test_list_without_split_column_is_split_by_position(folder: Path) -> None:
    path = _csv(folder, "file,lat,lon\n" + "".join(f"photos/{name}.jpg,48.{k},2\n" for k, name in enumerate("abcdef")))
    table = _ingest(path)
    assert table.notes is not None
    assert table.notes["split_rule"]["kind"] == "position"
    assert (table.split == "test").sum() == 1


def test_paths_are_relative_to_the_list_wherever_it_is_read_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absolute = folder / "photos/b.jpg"
    path = _csv(folder, f"file,lat,lon\nphotos/a.jpg,48,2\n../list/photos/c.jpg,48,2\n{absolute},48,2\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ingest(Path("../list/list.csv"), out=Path("../table"))
    loaded = PhotoTable.load(tmp_path / "table")
    assert [file.resolve().name for file in loaded.files] == ["a.jpg", "c.jpg", "b.jpg"]
    assert all(file.is_file() for file in loaded.files)
    assert _rejects(path) == []


def test_spreadsheet_habits_are_understood(folder: Path) -> None:
    """A byte order mark, Windows line ends, spaces after commas, quotes, an empty last line."""
    path = folder / "list.csv"
    text = 'file, lat, lon, device\r\n"photos/a.jpg", 48.5, 2.5, "Maker, One"\r\n\r\nphotos/b.jpg,x,2,\r\n\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    table = _ingest(path)
    assert table.column("file") == ["photos/a.jpg"]
    assert table.column("device") == ["Maker, One"]
    assert table.lat_deg.tolist() == [48.5]
    assert [(file, line) for file, line, _ in _rejects(path)] == [("photos/b.jpg", "4")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-06", datetime(2024, 5, 6)),
        ("2024-05-06 07:08", datetime(2024, 5, 6, 7, 8)),
        ("2024-05-06T07:08:09Z", datetime(2024, 5, 6, 7, 8, 9)),
        ("2024-05-06T01:30:00+02:00", datetime(2024, 5, 5, 23, 30)),
    ],
)
def test_dates_with_a_zone_become_utc_and_others_stay(text: str, expected: datetime, folder: Path) -> None:
    table = _ingest(_csv(folder, f"file,lat,lon,captured_at\nphotos/a.jpg,48,2,{text}\n"))
    assert table.column("captured_at") == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1714521600", datetime(2024, 5, 1)),
        ("1714521600123", datetime(2024, 5, 1, 0, 0, 0, 123_000)),
        ("1.714521600123e12", datetime(2024, 5, 1, 0, 0, 0, 123_000)),
        ("1714521600.5", datetime(2024, 5, 1, 0, 0, 0, 500_000)),
        ("1714521600123456", datetime(2024, 5, 1, 0, 0, 0, 123_000)),
        ("20240501", datetime(2024, 5, 1)),
        ("20240501T070809Z", datetime(2024, 5, 1, 7, 8, 9)),
        ("2024:05:01 07:08:09+02:00", datetime(2024, 5, 1, 5, 8, 9)),
        ("2016-12-31 23:59:60Z", datetime(2017, 1, 1)),
        ("0", None),
        ("1970-01-01T00:00:00Z", None),
        ("", None),
        *(
            (text, "rejected")
            for text in (
                "-1",
                "45413",
                "2024",
                "0001-01-01",
                "2999-01-01",
                "4102444800000",
                "1e999",
                "12:30",
                "1_714_521_600",
            )
        ),
    ],
)
def test_numbers_since_1970_are_dates_and_impossible_dates_are_not(text: str, expected: object, folder: Path) -> None:
    path = _csv(folder, f"file,lat,lon,captured_at\nphotos/b.jpg,48,2,\nphotos/a.jpg,48,2,{text}\n")
    table = _ingest(path)
    if expected == "rejected":
        assert table.column("file") == ["photos/b.jpg"]
        assert f"captured_at is '{text}', not an ISO 8601 date up to today" in _rejects(path)[0][2]
    else:
        assert table.column("captured_at") == [None, expected]


def test_impossible_dates_of_parquet_are_rejected_too(folder: Path) -> None:
    moments = [datetime(2024, 5, 1), datetime(1970, 1, 1), datetime(2999, 1, 1), None]
    for values, kind in ((moments, pa.timestamp("us")), ([1714521600000, 0, 4102444800000, None], pa.int64())):
        columns = {"file": [f"photos/{name}.jpg" for name in "abcd"], "lat": [48.0] * 4, "lon": [2.0] * 4}
        pq.write_table(pa.table({**columns, "captured_at": pa.array(values, kind)}), folder / "list.parquet")
        table = _ingest(folder / "list.parquet")
        assert table.column("captured_at") == [datetime(2024, 5, 1), None, None]
        assert [file for file, _, _ in _rejects(folder / "list.parquet")] == ["photos/c.jpg"]


def test_numbers_that_nobody_means_and_the_position_0_0_are_rejected(folder: Path) -> None:
    odd = (
        "1_0",
        "1e-400",
        "1e400",
        "\u0661\u0662",
        "0x10",
        "inf",
        "-Infinity",
        "NaN",
        "48.1N",
        "\u221248",
        "4 8",
        "+-4",
        "",
    )
    lines = [f"photos/a.jpg,{text},2" for text in odd] + [f"photos/b.jpg,2,{text}" for text in odd]
    zeros = ["photos/c.jpg,0,0", "photos/c.jpg,-0.0,0e3", 'photos/c.jpg,"48,1",2']
    good = ["photos/d.jpg, +48.5 ,.5", "photos/e.jpg,4.85e1,-0.0", "photos/f.jpg,48.,1E-5"]
    table = _ingest(_csv(folder, "\n".join(["file,lat,lon", *lines, *zeros, *good])))
    assert table.column("file") == [f"photos/{name}.jpg" for name in "def"]
    assert table.lat_deg.tolist() == [48.5, 48.5, 48]
    rejects = _rejects(folder / "list.csv")
    assert len(rejects) == len(lines) + len(zeros)
    assert sum("exactly 0, 0" in reason for _, _, reason in rejects) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("mark", [";", "\t", "sep=;", "sep=,"])
def test_lists_of_spreadsheets_are_read(mark: str, encoding: str, folder: Path) -> None:
    """Windows in Europe: semicolons with decimal commas, tabs, `sep=` as first line, UTF-16; and backslashes."""
    separator, point = mark[-1], "." if mark[-1] == "," else ","
    head = f"{mark}\n" if "=" in mark else ""
    rows = [
        ["file", "lat", "lon", "device"],
        ["photos\\a.jpg", f"48{point}5", "-2", "x"],
        ["photos\\b.jpg", "91", "2", "y"],
    ]
    text = head + "".join(separator.join(row) + "\r\n" for row in rows)
    (folder / "list.csv").write_bytes(text.encode(encoding))
    table = _ingest(folder / "list.csv")
    assert (table.column("file"), table.lat_deg.tolist(), table.column("device")) == (["photos/a.jpg"], [48.5], ["x"])
    assert [(line, reason) for _, line, reason in _rejects(folder / "list.csv")] == [
        ("4" if head else "3", "lat is 91.0, not in -90..90")
    ]


def test_names_are_found_however_accents_and_folders_are_spelled(folder: Path, write_photo: Write) -> None:
    files, lines = [], ["file,lat,lon"]
    for disk, other in (("NFD", "NFC"), ("NFC", "NFD")):
        name = normalize(disk, f"Z\u00fcrich{disk}/") + normalize(other, "caf\u00e9.jpg")
        files.append(write_photo(folder / name).relative_to(folder).as_posix())
        lines.append(f"{normalize(other, name)},48,2")
        lines.append(f"{normalize(disk, name)},48,2".replace("/", "\\"))  # the same photo again
    path = _csv(folder, "\n".join(lines))
    table = _ingest(path)
    assert table.column("file") == files
    assert all(file.is_file() for file in table.files)
    assert [reason for _, _, reason in _rejects(path)] == ["duplicate of line 2", "duplicate of line 4"]


def test_parquet_list_gives_the_same_table_and_rejects_as_csv(folder: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"file": "photos/a.jpg", "lat": 48.125, "lon": 2.5, "heading": 350.5, "captured_at": datetime(2024, 5, 6, 7)},
        {"file": "photos/b.jpg", "lat": NAN, "lon": 2.5},
        {"file": "photos/c.jpg", "lat": 48.25, "lon": -2.5, "split": "test", "device": "Phone"},
        {"file": "photos/missing.jpg", "lat": 48.0, "lon": 2.0},
        {"file": "photos/a.jpg", "lat": 48.0, "lon": 2.0},
        {"file": "photos/d.jpg", "lat": None, "lon": 2.0},
        {"file": "photos/e.jpg", "lat": 48.5, "lon": 2.0, "split": "none"},
    ]
    names = ("file", "lat", "lon", "heading", "captured_at", "split", "device")
    rows = [{name: line.get(name) for name in names} for line in lines]
    pq.write_table(pa.Table.from_pylist(rows), folder / "list.parquet")
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    from_csv = _ingest(folder / "list.csv")
    csv_rejects = _rejects(folder / "list.csv")
    from_parquet = _ingest(folder / "list.parquet")
    parquet_rejects = _rejects(folder / "list.parquet")
    assert from_parquet.rows.equals(from_csv.rows)
    assert from_parquet.rows.schema.equals(SCHEMA)
    assert len(from_parquet) == 3
    # A Parquet file has no header line: its first row is 1.
    assert [(name, int(line) + 1) for name, line, _ in parquet_rejects] == [
        (n, int(line)) for n, line, _ in csv_rejects
    ]
    assert [line for _, line, _ in csv_rejects] == ["3", "5", "6", "7"]


def test_parquet_dates_of_other_types_are_understood(folder: Path) -> None:
    columns = {"file": ["photos/a.jpg"], "lat": [48.0], "lon": [2.0]}
    moment = datetime(2024, 5, 6, 7, tzinfo=UTC)
    for value, kind in (
        (moment, pa.timestamp("us", "UTC")),
        (date(2024, 5, 6), pa.date32()),
        ("2024-05-06", pa.string()),
    ):
        pq.write_table(pa.table({**columns, "captured_at": pa.array([value], kind)}), folder / "list.parquet")
        assert _ingest(folder / "list.parquet").column("captured_at")[0].date() == date(2024, 5, 6)


def test_photos_outside_the_region_are_left_out(folder: Path) -> None:
    path = _csv(folder, "file,lat,lon,split\nphotos/a.jpg,48,2,test\nphotos/b.jpg,50,2,train\n")
    table = _ingest(path, region=Region.bbox(1, 47, 3, 49))
    assert table.column("file") == ["photos/a.jpg"]
    assert table.split.tolist() == ["test"]
    assert _rejects(path) == []


@pytest.mark.parametrize("fov", ["-60", "0"])
def test_field_of_view_of_nothing_is_rejected(fov: str, folder: Path) -> None:
    path = _csv(folder, f"file,lat,lon,fov\nphotos/a.jpg,48,2,{fov}\nphotos/b.jpg,48,2,60\n")
    assert _ingest(path).column("file") == ["photos/b.jpg"]


def test_list_of_nothing_usable_is_refused_with_the_reasons(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none of 2 photos can be used \(.*lat is 91"):
        _ingest(_csv(folder, "file,lat,lon\nphotos/a.jpg,91,2\nphotos/x.jpg,48,2\n"))
    with pytest.raises(InputError, match="none of 0 photos"):
        _ingest(_csv(folder, "file,lat,lon\n"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "column file is missing"),
        ("a.csv", b"file|lat|lon\nphotos/a.jpg|48|2\n", "column file is missing"),
        ("a.csv", "file,lat,lon\nphotos/ä.jpg,48,2\n".encode("latin-1"), "not a CSV file in UTF-8"),
        ("a.parquet", b"PAR1 not really", "cannot be read"),
        ("a.parquet", b"", "cannot be read"),
    ],
)
def test_file_that_is_no_list_is_refused_in_a_sentence(name: str, content: bytes, says: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        _ingest(folder / name)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.csv", "nothing.parquet"])
def test_missing_list_is_named(name: str, folder: Path) -> None:
    with pytest.raises(InputError, match=name):
        _ingest(folder / name)
