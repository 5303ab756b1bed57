"""What every source has in common: choice, checks, consent, missing photos, and the one writer."""

import csv
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.photos import IngestOptions, PhotoTable, SplitRule, ingest
from cellcode.photos.sources.consent import require_consent
from cellcode.photos.table.item import Batch, Reject
from cellcode.photos.table.photo_table import SCHEMA
from cellcode.photos.table.writer import IncompleteError, collect, write

Item = dict[str, Any] | Reject
Write = Callable[..., Path]
ALL = SplitRule(kind="none")


@pytest.fixture
def photos(write_photo: Write, tmp_path: Path) -> Path:
    """list.csv with ten photos, one a day of May 2024; the first has no date."""
    lines = ["file,lat,lon,captured_at"]
    for number in range(10):
        write_photo(tmp_path / f"{number}.jpg", size=(48, 32))
        lines.append(f"{number}.jpg,48.{number},2,{f'2024-05-{number + 1:02}T12:00' if number else ''}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    return tmp_path


def _ingest(folder: Path, source: str = "list.csv", **options: Any) -> PhotoTable:
    return ingest(folder / source, out=folder / "table", split=ALL, options=IngestOptions(**options))


def _row(number: int) -> dict[str, Any]:
    size = {"width_px": 48, "height_px": 32, "split": "train", "source": "test"}
    return {
        **dict.fromkeys(SCHEMA.names),
        "file": f"{number}.jpg",
        "lat_deg": 48.0,
        "lon_deg": 2.0,
        "split": "train",
        "source": "test",
        **size,
    }


def _fill(folder: Path, items: list[Item], **options: Any) -> PhotoTable:
    rows = pa.Table.from_pylist([item for item in items if isinstance(item, dict)], SCHEMA)
    photos = collect([Batch(rows, [item for item in items if isinstance(item, Reject)])])
    return write(photos, root=folder, source="test", out=folder / "table", rule=ALL, **options)


def _rejects(folder: Path) -> list[dict[str, str]]:
    with (folder / "table/rejects.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_dates_bound_what_is_taken_and_undated_photos_are_left_out(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = _ingest(photos, since=datetime(2024, 5, 3), until=datetime(2024, 5, 5, 12))
    assert table.column("file") == ["2.jpg", "3.jpg", "4.jpg"]
    assert "6 outside the dates, 1 without a capture date" in caplog.text
    with pytest.raises(UsageError, match="is after until"):
        _ingest(photos, since=datetime(2024, 5, 3), until=datetime(2024, 5, 2))


def test_a_random_choice_is_the_same_in_any_order_of_the_list(photos: Path) -> None:
    chosen = _ingest(photos, max_photos=4).column("file")
    assert len(chosen) == 4
    head, *lines = (photos / "list.csv").read_text().split("\n")
    (photos / "list.csv").write_text("\n".join([head, *reversed(lines)]))
    assert sorted(_ingest(photos, max_photos=4).column("file")) == sorted(chosen)
    with pytest.raises(UsageError, match="max_photos is 0"):
        _ingest(photos, max_photos=0)


def test_a_choice_of_a_folder_is_one_of_the_usable_photos(photos: Path) -> None:
    table = ingest(photos, out=photos / "table", split=ALL, options=IngestOptions(max_photos=3))
    assert len(table) == 3


def test_photos_can_be_looked_at_less(photos: Path) -> None:
    """A photo that is cut off has a whole header; one that is no photo has none."""
    whole = (photos / "0.jpg").read_bytes()
    (photos / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "1.jpg").write_bytes(b"no photo")
    assert len(_ingest(photos)) == 8
    assert len(_ingest(photos, check="header")) == 9
    with pytest.raises(InputError, match=r"--check none needs the columns width and height, which line 2 lacks"):
        _ingest(photos, check="none")
    lines = (photos / "list.csv").read_text().split("\n")
    (photos / "list.csv").write_text(
        "\n".join(f"{line},{'64,48' if n else 'width,height'}" for n, line in enumerate(lines))
    )
    table = _ingest(photos, check="none")
    assert (len(table), set(table.column("width_px")), set(table.column("height_px"))) == (10, {64}, {48})
    assert set(_ingest(photos, check="header").column("width_px")) == {48}
    with pytest.raises(UsageError, match="check is 'all': input should be 'decode', 'header' or 'none'"):
        _ingest(photos, check="all")


def test_a_header_gives_the_upright_size(write_photo: Write, tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg", size=(48, 32), tags={0x0112: 6})
    (tmp_path / "list.csv").write_text("file,lat,lon\na.jpg,48,2\n")
    sizes = [_ingest(tmp_path, check=check).rows.select(["width_px", "height_px"]) for check in ("decode", "header")]
    assert sizes[0].to_pylist() == sizes[1].to_pylist() == [{"width_px": 32, "height_px": 48}]


@pytest.mark.parametrize(
    ("source", "options"),
    [("", {"columns": {"lat": "y"}}), ("", {"check": "none"}), ("list.csv", {"gpx": (Path("a"),)})],
    ids=str,
)
def test_an_option_without_meaning_for_a_source_is_refused(photos: Path, source: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} is set, which has no meaning for"):
        _ingest(photos, source, **options)


def test_options_are_keyword_arguments_or_one_object_which_they_change(photos: Path) -> None:
    source, out = photos / "list.csv", photos / "table"
    dates = IngestOptions(since="2024-05-03", until="2024-05-05")
    assert ingest(source, out=out, options=dates).column("file") == ["2.jpg", "3.jpg", "4.jpg"]
    assert ingest(source, out=out, options=dates, until="2024-05-03").column("file") == ["2.jpg"]
    table = ingest(source, out=out, region="1,48,3,48.35", split="none", since="2024-05-03")
    assert table.column("file") == ["2.jpg", "3.jpg"]
    assert set(table.split) == {"train"}
    with pytest.raises(UsageError, match="unknown option max_photo; the nearest known one is max_photos"):
        ingest(source, out=out, max_photo=3)
    with pytest.raises(
        UsageError, match="split: kind is 'random': input should be 'position', 'date', 'both' or 'none'"
    ):
        ingest(source, out=out, split="random")


def test_missing_photos_fail_the_run_after_the_table_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items: list[Item] = [_row(1), Reject("a", None, "too small"), *(_row(n) for n in range(2, 4))]
    items += [Reject("b", None, "not fetched: timeout", transient=True)]
    with pytest.raises(
        IncompleteError, match=r"1 missing \(1 not fetched: timeout\); run the same command again"
    ) as caught:
        _fill(tmp_path, items)
    assert caught.value.exit_code == 1
    assert "3 photos" in (said := caplog.text)
    assert "1 rejected: 1 too small; 1 missing: 1 not fetched: timeout" in said
    table = PhotoTable.load(tmp_path / "table")
    assert len(table) == 3
    assert table.notes is not None
    assert (table.notes["rejected"], table.notes["missing"]) == ({"too small": 1}, {"not fetched: timeout": 1})
    assert [(row["file"], row["missing"]) for row in _rejects(tmp_path)] == [("a", ""), ("b", "yes")]
    with pytest.raises(IncompleteError):
        _fill(tmp_path, items, allow_missing=0.24)
    assert len(_fill(tmp_path, items, allow_missing=0.25)) == 3


def test_a_run_without_photos_leaves_an_earlier_table_as_it_was(tmp_path: Path) -> None:
    _fill(tmp_path, [_row(1)])
    with pytest.raises(InputError, match=r"none of 1 photos can be used \(1 timeout\)"):
        _fill(tmp_path, [Reject("a", None, "timeout", transient=True)])
    assert len(PhotoTable.load(tmp_path / "table")) == 1


def test_reasons_are_counted_by_kind_and_the_rarest_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rejects = [Reject(f"{n}", n, f"lat is {n + 91}.0, not in -90..90", kind="lat not in -90..90") for n in range(60)]
    rejects += [Reject(f"x{n}", 100 + n, f"reason {n}") for n in range(60)]
    _fill(tmp_path, [_row(1), *rejects])
    said = caplog.text
    assert "120 rejected: 60 lat not in -90..90" in said
    assert len(said) < 500
    counted = json.loads((tmp_path / "table/manifest.json").read_text())["rejected"]
    assert (counted["lat not in -90..90"], counted["other reasons"], sum(counted.values())) == (60, 11, 120)
    assert len(_rejects(tmp_path)) == 120


def test_much_is_only_done_with_consent(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    require_consent(no, "few: 2,000 photos", 2_000, 1_000_000)
    require_consent(no, "none: of an unknown size", 0, None)
    assert asked == []
    assert "few: 2,000 photos" in caplog.text
    for photos, size in ((2_001, 1), (1, 500_000_001), (1, None)):
        with pytest.raises(UsageError, match=r"nothing was fetched: not confirmed; add --yes"):
            require_consent(no, "much", photos, size)
    assert len(asked) == 3
    require_consent(lambda _: True, "much", 10**9, None)


def test_region_and_list_are_chosen_from_before_photos_are_read(photos: Path) -> None:
    """A photo outside the region need not even be there."""
    (photos / "9.jpg").unlink()
    table = ingest(photos / "list.csv", out=photos / "table", split=ALL, region=Region.bbox(1, 48, 3, 48.85))
    assert len(table) == 9
    assert _rejects(photos) == []
