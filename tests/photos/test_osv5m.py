"""OSV-5M on disk and at a hub."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import pytest

from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.photos import IngestOptions, PhotoTable, ingest

Write = Callable[..., Path]
COLUMNS = ["id", "latitude", "longitude", "thumb_original_url", "sequence", "captured_at", "creator_username"]
HERE = Region.bbox(2, 48, 3, 49)


class Hub:
    """What Hugging Face answers about a data set: its files with their sizes, and parts of them.

    Attributes:
        sent: bytes of each file that were sent.
    """

    def __init__(self, folder: Path) -> None:
        self.sent = Counter[str]()
        hub, files = self, {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                file = re.fullmatch(r"/datasets/osv5m/osv5m/resolve/[^/]+/(.*)", path)
                if file:
                    self.part(file[1])
                elif "/tree/" in path:
                    facts = [
                        {"type": "file", "path": name, "size": p.stat().st_size, "oid": "a"}
                        for name, p in files.items()
                    ]
                    self.answer(json.dumps(facts).encode())
                else:
                    self.answer(json.dumps({"id": "osv5m/osv5m", "sha": "b" * 40, "siblings": []}).encode())

            do_HEAD = do_GET

            def part(self, name: str) -> None:
                content = files[name].read_bytes()
                span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                first, last = (int(span[1]), int(span[2] or len(content) - 1)) if span else (0, len(content) - 1)
                body = content[first : last + 1]
                if self.command == "GET":
                    hub.sent[name] += len(body)
                where = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if span else {}
                self.answer(body, 206 if span else 200, {"ETag": f'"{name}"', "X-Repo-Commit": "b" * 40, **where})

            def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for field, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(field, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _lines(split: str, count: int) -> list[list[Any]]:
    """Every second photo lies outside the region."""
    first = {"train": 100, "test": 900}[split]
    return [
        [
            first + n,
            48.5 if n % 2 == 0 else -20,
            2.5,
            "https://x/y?z",
            f"s{n // 4}",
            1_715_000_000_000 + n,
            f"person{n}",
        ]
        for n in range(count)
    ]


def _write_csv(path: Path, lines: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])


@pytest.fixture
def dataset(write_photo: Write, tmp_path: Path) -> Path:
    """train.csv and test.csv, photos of train in two zips, those of test in a folder."""
    folder = tmp_path / "osv"
    photo = write_photo(tmp_path / "photo.jpg")
    (folder / "images/train").mkdir(parents=True)
    train, test = _lines("train", 8), _lines("test", 4)
    train[2][5:] = ["", ""]  # many cells of the real one are empty
    _write_csv(folder / "train.csv", train)
    _write_csv(folder / "test.csv", test)
    for number in range(2):
        with zipfile.ZipFile(folder / f"images/train/0{number}.zip", "w") as archive:
            for line in train[number::2][:4]:
                archive.write(photo, f"0{number}/{line[0]}.jpg")
    with zipfile.ZipFile(folder / "images/train/01.zip", "a") as archive:
        for line in train[0:8:4]:
            archive.write(photo, f"{line[0]}.jpg")
    for line in test:
        write_photo(folder / f"images/test/00/{line[0]}.jpg", None, size=(64, 48))
    return folder


def _ingest(dataset: Path, tmp_path: Path, **options: Any) -> PhotoTable:
    table = tmp_path / "table"
    return ingest(f"osv5m:{dataset}", out=table, region=HERE, options=IngestOptions(**options))


def _unpacked(tmp_path: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in (tmp_path / "table/images").rglob("*.jpg"))


def test_only_the_photos_of_the_region_are_unpacked(dataset: Path, tmp_path: Path) -> None:
    table = _ingest(dataset, tmp_path)
    assert _unpacked(tmp_path) == ["100", "102", "104", "106"]
    assert len(table) == 6
    assert all(path.is_file() for path in PhotoTable.load(tmp_path / "table").files)
    rows = {Path(row["file"]).name.split(".")[0]: row for row in table.rows.to_pylist()}
    assert rows.keys() == {"100", "102", "104", "106", "900", "902"}
    assert {row["licence"] for row in rows.values()} == {"CC-BY-SA-4.0"}
    assert {row["source"] for row in rows.values()} == {"osv5m"}
    assert (rows["100"]["attribution"], rows["102"]["attribution"]) == ("person0, Mapillary", "Mapillary")
    assert rows["100"]["sequence"] == "s0"
    assert (rows["100"]["width_px"], rows["900"]["width_px"]) == (48, 64)
    assert np.datetime64(rows["104"]["captured_at"], "ms").astype(int) == 1_715_000_000_004
    assert rows["102"]["captured_at"] is None


def test_its_own_split_is_kept_where_both_lists_are_there(dataset: Path, tmp_path: Path) -> None:
    table = _ingest(dataset, tmp_path)
    assert {
        Path(file).name.split(".")[0]: split for file, split in zip(table.column("file"), table.split, strict=True)
    } == {**dict.fromkeys(("100", "102", "104", "106"), "train"), **dict.fromkeys(("900", "902"), "test")}
    (dataset / "test.csv").unlink()
    notes = _ingest(dataset, tmp_path).notes
    assert notes is not None
    assert notes["split_rule"]["kind"] == "position"


def test_an_interrupted_run_goes_on_where_it_was(dataset: Path, tmp_path: Path) -> None:
    _ingest(dataset, tmp_path)
    files = sorted((tmp_path / "table/images").rglob("*.jpg"))
    files[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in files[1:]}
    assert len(_ingest(dataset, tmp_path)) == 6
    assert files[0].is_file()
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == times


def test_photos_that_are_damaged_or_not_there_are_told_by_name(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "images/train/00.zip"
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("00/104.jpg").header_offset + 400
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    with zipfile.ZipFile(dataset / "images/train/01.zip", "w"):
        pass  # 104 is there no second time
    lines = [*_lines("train", 8), [777, 48.5, 2.5, "", "", "", ""], ["778", "x", 2.5, "", "", "", ""]]
    _write_csv(dataset / "train.csv", lines)
    table = _ingest(dataset, tmp_path)
    assert len(table) == 5
    with (tmp_path / "table/rejects.csv").open(newline="") as file:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"104", "777", "778"}
    assert "damaged in images/train/00.zip" in reasons["104"]
    assert reasons["777"] == "not among the photos that are there"
    assert reasons["778"] == "lat is 'x', not a number"


def test_a_choice_of_photos_is_made_before_anything_is_unpacked(dataset: Path, tmp_path: Path) -> None:
    table = _ingest(dataset, tmp_path, max_photos=2)
    assert len(table) == 2
    assert len(_unpacked(tmp_path)) <= 2
    assert _ingest(dataset, tmp_path, max_photos=2).column("file") == table.column("file")


def test_a_zip_that_is_half_fetched_stops_the_run(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "images/train/01.zip"
    path.write_bytes(path.read_bytes()[:500])
    (dataset / "images/train/00.zip").unlink()
    with pytest.raises(InputError, match=r"01\.zip cannot be read .*fetch it again"):
        _ingest(dataset, tmp_path)


def test_a_folder_that_is_not_the_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither train\.csv nor test\.csv"):
        _ingest(tmp_path / "nothing", tmp_path)
    (dataset / "train.csv").write_text("id,lat\n1,2\n")
    with pytest.raises(InputError, match="lacks the column latitude"):
        _ingest(dataset, tmp_path)
    with pytest.raises(UsageError, match="choose header"):
        _ingest(dataset, tmp_path, check="none")


def test_the_hub_is_asked_only_with_consent_and_only_for_what_is_wanted(dataset: Path, tmp_path: Path) -> None:
    """The real client of the hub asks a server on loopback that answers as the hub does."""
    shutil.rmtree(dataset / "images/test")
    with zipfile.ZipFile(
        dataset / "images/train/00.zip", "a"
    ) as archive:  # unwanted, in front of its table of contents
        archive.writestr("00/1.jpg", np.random.default_rng(0).bytes(5_000_000))
    with Hub(dataset) as hub:
        command = [str(Path(sys.executable).with_name("cellcode")), "ingest", "osv5m:hub", "--region", "2,48,3,49"]
        command += ["--out", str(tmp_path / "table")]
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
        refused = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert refused.returncode == 2
        assert "CC-BY-SA-4.0: test.csv (0.0 MB), train.csv (0.0 MB)" in refused.stderr
        assert hub.sent == {}
        done = subprocess.run([*command, "--yes"], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert _unpacked(tmp_path) == ["100", "102", "104", "106"]
    assert hub.sent["images/train/00.zip"] < 2_000_000
