"""A folder of tar shards."""

import csv
import errno
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from cellcode.errors import InputError, OutputError
from cellcode.geography import Region
from cellcode.photos import IngestOptions, PhotoTable, SplitRule, ingest
from cellcode.photos.sources import archives, webdataset

Write = Callable[..., Path]


@pytest.fixture
def photo(write_photo: Write, tmp_path: Path) -> bytes:
    return write_photo(tmp_path / "photo.jpg", None).read_bytes()


def _shard(path: Path, members: dict[str, bytes | dict[str, Any]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _ingest(source: Path | str, tmp_path: Path, **options: Any) -> PhotoTable:
    rule = SplitRule(kind="none")
    return ingest(source, out=tmp_path / "table", split=rule, options=IngestOptions(**options))


def _plain(names: Iterable[str]) -> list[str]:
    """Names without the version of the archive."""
    return [re.sub(r"\.v[0-9a-f]{8}(?=\.)", "", name) for name in names]


def _rejects(tmp_path: Path) -> dict[str, str]:
    with (tmp_path / "table/rejects.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("form", ["{folder}", "webdataset:{folder}"])
def test_photos_and_their_json_become_rows(form: str, photo: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    first = {"lat": 48.5, "lon": 2.5, "heading": 90, "license": "CC0", "caption": {"en": "a street"}}
    _shard(folder / "00000.tar", {"k1.jpg": photo, "k1.json": first, "k1.cls": b"3"})
    _shard(folder / "deep/00001.tar.gz", {"s/k1.json": {"lat": -33.0, "lon": 18}, "s/k1.jpg": photo}, "w:gz")
    table = _ingest(form.format(folder=folder), tmp_path)
    assert _plain(table.column("file")) == ["images/00000/k1.jpg", "images/deep/00001/s/k1.jpg"]
    assert table.lat_deg.tolist() == [48.5, -33]
    assert (table.column("heading_deg"), table.column("licence")) == ([90, None], ["CC0", None])
    assert table.column("source") == ["webdataset"] * 2
    assert all(path.read_bytes() == photo for path in PhotoTable.load(tmp_path / "table").files)


def test_columns_of_the_json_can_be_named(photo: bytes, tmp_path: Path) -> None:
    _shard(tmp_path / "s/0.tar", {"a.jpg": photo, "a.json": {"LAT": 1, "gps_lat": 48, "gps_lon": 2}})
    table = _ingest(tmp_path / "s", tmp_path, columns={"lat": "gps_lat", "lon": "gps_lon"})
    assert table.lat_deg.tolist() == [48]


def test_bad_members_are_rejected_by_name_and_the_others_kept(photo: bytes, tmp_path: Path) -> None:
    place = {"lat": 48, "lon": 2}
    _shard(
        tmp_path / "s/0.tar",
        {
            "good.jpg": photo,
            "good.json": place,
            "alone.jpg": photo,
            "bare.json": place,
            "torn.jpg": photo[: len(photo) // 2],
            "torn.json": place,
            "odd.jpg": photo,
            "odd.json": b"{",
            "list.jpg": photo,
            "list.json": b"[1]",
            "twice.jpg": photo,
            "twice.png": photo,
            "twice.json": place,
            "no.position.jpg": photo,
            "../../out.jpg": photo,
            "nan.jpg": photo,
            "nan.json": {"lat": None, "lon": 2},
        },
    )
    table = _ingest(tmp_path / "s", tmp_path)
    assert _plain(table.column("file")) == ["images/0/good.jpg"]
    rejects = _rejects(tmp_path)
    reasons = dict(zip(_plain(rejects), rejects.values(), strict=True))
    expected = {
        "0/alone": "no JSON beside the photo",
        "0/bare": "no photo beside its JSON",
        "images/0/torn.jpg": "damaged",
        "0/odd": "its JSON is damaged",
        "0/list": "its JSON is no object",
        "0/twice": "two photos under one key",
        "0/no.position.jpg": "its name has a further dot",
        "0/../../out.jpg": "its name leads out of its folder",
        "0/nan": "lat is None, not a number",
    }
    assert reasons.keys() == expected.keys()
    assert all(part in reasons[name] for name, part in expected.items())
    assert not list(tmp_path.rglob("out.jpg"))


def test_what_comes_before_the_cut_of_a_shard_is_used(photo: bytes, tmp_path: Path) -> None:
    members: dict[str, bytes | dict[str, Any]] = {}
    for name in "abc":
        members |= {f"{name}.json": {"lat": 48, "lon": 2}, f"{name}.jpg": photo}
    path = _shard(tmp_path / "s/0.tar", members)
    with tarfile.open(path) as tar:
        end = tar.getmember("c.jpg").offset_data + 100
    path.write_bytes(path.read_bytes()[:end])
    table = _ingest(tmp_path / "s", tmp_path)
    assert _plain(table.column("file")) == ["images/0/a.jpg", "images/0/b.jpg"]
    assert "the shard is damaged" in _rejects(tmp_path)["0.tar"]


def test_only_what_is_in_the_region_is_unpacked_and_only_once(photo: bytes, tmp_path: Path) -> None:
    here, there = {"lat": 48, "lon": 2}, {"lat": 10, "lon": 2}
    _shard(tmp_path / "s/0.tar", {"a.jpg": photo, "a.json": here, "b.jpg": photo, "b.json": there})
    written = set()
    for _ in range(2):
        ingest(tmp_path / "s", out=tmp_path / "table", region=Region.bbox(1, 47, 3, 49))
        (file,) = (tmp_path / "table/images").rglob("*.jpg")
        written.add((file.name, file.stat().st_mtime_ns))
    assert len(written) == 1


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no shards"):
        _ingest(f"webdataset:{tmp_path}", tmp_path)


def test_names_that_are_not_utf_8_odd_json_and_photos_beyond_the_limit_are_rejects(
    photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", len(photo))
    monkeypatch.setattr(webdataset, "_MAX_JSON_BYTES", 5_000)
    here: dict[str, Any] = {"lat": 48, "lon": 2}
    members: dict[str, bytes | dict[str, Any]] = {"caf\udce9.jpg": photo, "caf\udce9.json": here, "ok.json": here}
    members |= {"big.jpg": photo + b"0", "big.json": here, "ok.jfif": photo, "a.txt": b"", "b.mp4": b"", "c.txt": b""}
    members |= {"long.jpg": photo, "long.json": {**here, "x": "y" * 5_000}, "x" * 201 + ".jpg": photo}
    members |= {"half.jpg": photo, "half.json": {**here, "device": "\ud800", "heading": 10**400}}
    members |= {"deep.jpg": photo, "deep.json": b"[" * 4_900}
    _shard(tmp_path / "s/0.tar", members)
    assert _plain(_ingest(tmp_path / "s", tmp_path).column("file")) == ["images/0/ok.jfif"]
    rejects = _rejects(tmp_path)
    assert rejects == {
        "0/caf\\udce9.jpg": "its name is not UTF-8; rename it",
        "0/caf\\udce9.json": "its name is not UTF-8; rename it",
        "0/big": "over the limit of 512 MB for a photo in an archive",
        "0/long": "its JSON is over the limit of 0 MB",
        f"0/{'x' * 201}.jpg": "its name is too long",
        "0/half": rejects["0/half"],
        "0/deep": "its JSON is damaged",
    }
    assert "heading" in rejects["0/half"]
    assert "3 files in shards passed over: 2 .txt, 1 .mp4" in caplog.text
    assert _plain(path.name for path in (tmp_path / "table/images").rglob("*.*")) == ["ok.jfif"]


def test_a_disk_that_is_full_is_no_fault_of_the_archive(
    photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _shard(tmp_path / "s/0.tar", {"a.jpg": photo, "a.json": {"lat": 48, "lon": 2}})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives, "atomic_path", full)
    with pytest.raises(OutputError, match="the disk is full"):
        _ingest(tmp_path / "s", tmp_path)


def test_another_archive_never_changes_the_images_of_a_table(
    photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"lat": 48, "lon": 2}
    images = [photo + b"A", photo + b"B"]  # as long as each other
    _shard(tmp_path / "s/0.tar", {"k.jpg": images[0], "k.json": facts})
    before = _ingest(tmp_path / "s", tmp_path)
    _shard(tmp_path / "s/0.tar", {"k.jpg": images[1], "k.json": facts})
    with monkeypatch.context() as context:  # killed after it has unpacked
        context.setattr(import_module("cellcode.photos.ingest"), "write", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _ingest(tmp_path / "s", tmp_path)
    PhotoTable.load(tmp_path / "table").verify()
    assert before.files[0].read_bytes() == images[0]
    after = _ingest(tmp_path / "s", tmp_path)
    assert after.files[0].read_bytes() == images[1]
    assert [*(tmp_path / "table/images").rglob("*.jpg")] == after.files  # what nothing lists any more is removed
