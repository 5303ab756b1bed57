import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import reseal, unseal

from cellcode.errors import InputError
from cellcode.photos.table.photo_table import SCHEMA, PhotoTable

FULL: dict[str, Any] = {
    "file": "a/ä b.jpg",
    "lat_deg": 48.123456789012345,
    "lon_deg": -0.1,
    "heading_deg": 12.5,
    "fov_deg": 65.0,
    "captured_at": datetime(2024, 5, 6, 7, 8, 9, 123_000),
    "sequence": "s1",
    "device": "Maker One",
    "split": "train",
    "licence": "CC-BY-4.0",
    "attribution": "A. Person",
    "source": "list",
    "width_px": 4000,
    "height_px": 3000,
    "accuracy_m": 4.5,
    "land_use": "town",
}
REQUIRED = {"file", "lat_deg", "lon_deg", "split", "source", "width_px", "height_px"}


def _table(root: Path, rows: int = 3) -> PhotoTable:
    bare = {name: FULL[name] if name in REQUIRED else None for name in FULL}
    values = [FULL] + [{**bare, "file": f"{row}.jpg", "lat_deg": 48.0 + row, "split": "test"} for row in range(1, rows)]
    return PhotoTable(pa.Table.from_pylist(values, SCHEMA), root)


def test_columns_are_those_of_the_format() -> None:
    """The names and types of docs/formats.md; a change that is more than a further column needs a new version."""
    assert [(field.name, str(field.type), field.nullable) for field in SCHEMA] == [
        ("file", "string", False),
        ("lat_deg", "double", False),
        ("lon_deg", "double", False),
        ("heading_deg", "float", True),
        ("fov_deg", "float", True),
        ("captured_at", "timestamp[ms]", True),
        ("sequence", "string", True),
        ("device", "string", True),
        ("split", "string", False),
        ("licence", "string", True),
        ("attribution", "string", True),
        ("source", "string", False),
        ("width_px", "int32", False),
        ("height_px", "int32", False),
        ("accuracy_m", "float", True),
        ("land_use", "string", True),
    ]


def test_saved_table_loads_as_it_was(tmp_path: Path) -> None:
    made = _table(tmp_path / "photos")
    made = PhotoTable(made.rows, made.root, {"rejected": {"no GPS": 3}, "split_rule": {"kind": "date"}})
    assert made.save(tmp_path / "table") is made
    loaded = PhotoTable.load(tmp_path / "table")
    assert loaded.rows.equals(made.rows)
    assert loaded.rows.to_pylist()[0] == FULL
    assert loaded.notes == made.notes
    assert [path.resolve() for path in loaded.files] == [path.resolve() for path in made.files]
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == ["manifest.json", "photos.parquet"]


def test_manifest_says_what_the_table_holds(tmp_path: Path) -> None:
    _table(tmp_path / "photos").save(tmp_path / "deep/table")
    manifest = json.loads((tmp_path / "deep/table/manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["photos"]) == ("cellcode-photos", 2, 3)
    assert manifest["splits"] == {"train": 1, "test": 2}
    assert manifest["bounds"] == [-0.1, 48.123456789012345, -0.1, 50.0]
    assert manifest["licences"] == ["CC-BY-4.0"]
    assert manifest["attributions"] == ["A. Person"]
    assert not Path(manifest["root"]).is_absolute()


def test_table_and_photos_can_move_together(tmp_path: Path) -> None:
    (tmp_path / "here/photos/a").mkdir(parents=True)
    (tmp_path / "here/photos" / FULL["file"]).write_bytes(b"photo")
    _table(tmp_path / "here/photos").save(tmp_path / "here/table")
    (tmp_path / "here").rename(tmp_path / "there")
    assert PhotoTable.load(tmp_path / "there/table").files[0].read_bytes() == b"photo"


def test_properties_are_arrays_with_gaps_marked(tmp_path: Path) -> None:
    table = _table(tmp_path)
    assert len(table) == 3
    np.testing.assert_array_equal(table.lat_deg, [48.123456789012345, 49, 50])
    assert (table.lat_deg.dtype, table.lon_deg.dtype) == (np.float64, np.float64)
    np.testing.assert_array_equal(table.heading_deg, np.array([12.5, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(table.fov_deg, np.array([65, np.nan, np.nan], np.float32))
    expected = np.array(["2024-05-06T07:08:09.123", "NaT", "NaT"], "datetime64[ms]")
    np.testing.assert_array_equal(table.captured_at, expected)
    assert table.captured_at.dtype == np.dtype("datetime64[ms]")
    assert table.split.tolist() == ["train", "test", "test"]
    assert table.column("device") == ["Maker One", None, None]


def test_photos_are_selected_by_mask_index_and_split(tmp_path: Path) -> None:
    table = _table(tmp_path, 5)
    assert table.select(np.array([False, True, False, False, True])).column("file") == ["1.jpg", "4.jpg"]
    assert table.select(np.array([4, 0])).column("file") == ["4.jpg", FULL["file"]]
    assert table.of_split("test").column("file") == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert len(table.of_split("none")) == 0
    assert table.of_split("none").lat_deg.shape == (0,)


def test_empty_table_can_be_saved_and_loaded(tmp_path: Path) -> None:
    _table(tmp_path).of_split("none").save(tmp_path / "table")
    assert len(PhotoTable.load(tmp_path / "table")) == 0
    assert json.loads((tmp_path / "table/manifest.json").read_text())["bounds"] is None


def test_replaced_column_leaves_the_others_and_the_schema(tmp_path: Path) -> None:
    table = _table(tmp_path)
    changed = table.with_column("split", ["none", "none", "train"])
    assert changed.split.tolist() == ["none", "none", "train"]
    assert changed.rows.schema.equals(SCHEMA)
    assert changed.rows.drop(["split"]).equals(table.rows.drop(["split"]))
    assert table.split.tolist() == ["train", "test", "test"]


def test_folder_that_is_no_table_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a photo table .*cellcode ingest"):
        PhotoTable.load(tmp_path)
    with pytest.raises(InputError, match="is not a photo table"):
        PhotoTable.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 3}, "is a cellcode-photos of version 3, this program reads version 2; ingest the photos again"),
        ({"version": None}, "is a cellcode-photos of version None"),
        ({"format": "cellcode-run"}, "is not the manifest of a cellcode-photos"),
        ({"format": None}, "is not the manifest of a cellcode-photos"),
        ({"version": 1}, "was changed or damaged after it was written"),
        ({"bounds": None}, "was changed or damaged after it was written"),
    ],
    ids=str,
)
def test_other_format_or_version_is_refused_in_a_sentence(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    _table(tmp_path).save(tmp_path / "table")
    path = tmp_path / "table/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=said):
        PhotoTable.load(tmp_path / "table")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    _table(tmp_path).save(folder)
    whole = (folder / "photos.parquet").read_bytes()
    for sealed in (True, False):
        if not sealed:
            (folder / "photos.parquet").write_bytes(whole)
            unseal(folder, 1, "files")
            assert len(PhotoTable.load(folder)) == 3
        (folder / "photos.parquet").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            InputError, match=r"photos\.parquet is truncated" if sealed else r"photos\.parquet cannot be"
        ):
            PhotoTable.load(folder)
        (folder / "photos.parquet").unlink()
        with pytest.raises(InputError, match=r"photos\.parquet is missing" if sealed else r"photos\.parquet cannot be"):
            PhotoTable.load(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json is not valid JSON"):
        PhotoTable.load(folder)


def test_a_table_of_two_halves_is_refused(tmp_path: Path) -> None:
    """The photos of one run beside the manifest of another."""
    folder = tmp_path / "table"
    _table(tmp_path).save(folder)
    pq.write_table(_table(tmp_path, 5).rows, folder / "photos.parquet")
    with pytest.raises(InputError, match=r"photos\.parquet is longer than it was written"):
        PhotoTable.load(folder)
    reseal(folder)
    with pytest.raises(InputError, match="has 5 photos, its manifest another number"):
        PhotoTable.load(folder)


def test_manifest_that_is_no_object_is_refused_in_a_sentence(tmp_path: Path) -> None:
    _table(tmp_path).save(tmp_path / "table")
    (tmp_path / "table/manifest.json").write_text("[]")
    with pytest.raises(InputError, match=r"manifest\.json"):
        PhotoTable.load(tmp_path / "table")


def test_parquet_with_other_columns_is_refused(tmp_path: Path) -> None:
    _table(tmp_path).save(tmp_path / "table")
    path = tmp_path / "table/photos.parquet"
    rows = pq.read_table(path)
    for other in (
        rows.drop(["device"]),
        rows.append_column("more", pa.array([1, 2, 3])),
        rows.rename_columns(["name", *rows.column_names[1:]]),
    ):
        pq.write_table(other, path)
        reseal(path.parent)
        with pytest.raises(InputError, match="does not have the columns"):
            PhotoTable.load(tmp_path / "table")


def test_a_table_of_an_older_release_lacks_what_is_newer(tmp_path: Path) -> None:
    """Its land use is unknown; everything else is as it was."""
    folder = tmp_path / "table"
    table = _table(tmp_path).save(folder)
    pq.write_table(table.rows.drop_columns(["land_use"]), folder / "photos.parquet")
    unseal(folder, 1, "files")
    old = PhotoTable.load(folder)
    assert old.column("land_use") == [None] * len(table)
    assert old.column("file") == table.column("file")
