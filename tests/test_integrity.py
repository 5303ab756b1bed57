import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cellcode import integrity
from cellcode.errors import InputError, OutputError
from cellcode.integrity import Kind, describe
from cellcode.photos.table.photo_table import SCHEMA, PhotoTable

KIND = Kind("some-kind", 2, unsealed=(1,), advice="make it again")
OLD, NEW = {"a.bin": b"old rows", "b.bin": b"old images"}, {"a.bin": b"new rows, more", "b.bin": b"new images"}


def test_any_flipped_bit_of_a_manifest_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    (tmp_path / "a").write_bytes(b"content")
    values = {"kappa": 0.125, "none": None, "name": "Straße", "cells": [1, 2**60], "files": describe(tmp_path, ["a"])}
    written = KIND.write(path, values)
    assert KIND.read(path) == written == {"format": "some-kind", "version": 2, **values, "digest": written["digest"]}
    whole, found = path.read_bytes(), 0
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert KIND.read(path) == written
            except InputError:
                found += 1
    assert found > 0.8 * 8 * len(whole)  # the others change spaces between values
    for size in range(len(whole) - 2):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            KIND.read(path)


def test_a_manifest_is_of_one_kind_and_of_a_version_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for value, said in (
        ([], "is not the manifest of a some-kind; make it again"),
        ({"format": "other"}, "is not the manifest of a some-kind"),
        ({"format": "some-kind"}, "is a some-kind of version None, this program reads version 2; make it again"),
        ({"format": "some-kind", "version": 3}, "of version 3"),
        ({"format": "some-kind", "version": [1]}, r"of version \[1\]"),
        ({"format": "some-kind", "version": True}, "of version True"),
        ({"format": "some-kind", "version": 2}, "was changed or damaged after it was written; make it again"),
        ({"format": "some-kind", "version": 1, "digest": "0"}, "was changed or damaged"),
    ):
        path.write_text(json.dumps(value))
        with pytest.raises(InputError, match=said):
            KIND.read(path)
    path.write_text('{"format": "some-kind", "version": 1}')
    earlier = KIND.read(path)
    assert KIND.write(path, earlier | {"digest": "0", "more": 1})["version"] == 2  # it is written anew
    assert KIND.read(path)["more"] == 1


def test_files_are_those_that_were_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "SMALL_BYTES", 100_000)
    (tmp_path / "sub").mkdir()
    contents = {"small": bytes(100_000), "sub/large": bytes(1_000_000), "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = describe(tmp_path, contents)
    assert [facts["bytes"] for facts in files.values()] == [100_000, 1_000_000, 0]
    for name, content in contents.items():
        path = tmp_path / name
        cases = {"is missing": None, f"is longer than it was written ({len(content) + 1} of": content + b"1"}
        if content:
            cases |= {f"is truncated ({len(content) - 1} of": content[:-1], "is not the file that": b"1" + content[1:]}
        for said, changed in cases.items():
            path.unlink()
            if changed is not None:
                path.write_bytes(changed)
            for look in (KIND.check, KIND.verify):
                with pytest.raises(InputError) as caught:
                    look(tmp_path, files)
                assert str(caught.value).startswith(f"{path} {said}")
                assert str(caught.value).endswith("; make it again")
            path.write_bytes(content)
        for look in (KIND.check, KIND.verify):
            look(tmp_path, files)
    # Where no sample lies: small files are read whole at once, large ones by `verify`.
    for name, sees in (("small", True), ("sub/large", False)):
        content = bytearray(contents[name])
        content[5000 if name == "small" else 20_000] ^= 1
        (tmp_path / name).write_bytes(content)
        if sees:
            with pytest.raises(InputError, match=f"{name} is not the file"):
                KIND.check(tmp_path, files)
        else:
            KIND.check(tmp_path, files)
        with pytest.raises(InputError, match=f"{name} is not the file"):
            KIND.verify(tmp_path, files)
        (tmp_path / name).write_bytes(contents[name])


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", ".."])
def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "folder").mkdir()
    files = {name: {"bytes": 6, "sample": "0", "sha256": "0" * 64}}
    for look in (KIND.check, KIND.verify, KIND.settle):
        with pytest.raises(InputError, match="which is outside the folder; do not use it"):
            look(tmp_path / "folder", files)


def _replace(folder: Path, contents: dict[str, bytes]) -> None:
    values: dict[str, Any] = {"rows": len(contents["a.bin"])}
    with KIND.replacing(folder, "manifest.json", values) as path_of:
        for name, content in contents.items():
            path_of(name).write_bytes(content)
    assert values["files"].keys() == contents.keys()


def _read(folder: Path) -> dict[str, bytes]:
    manifest = KIND.read(folder / "manifest.json")
    KIND.settle(folder, manifest["files"])
    KIND.verify(folder, manifest["files"])
    return {name: (folder / name).read_bytes() for name in manifest["files"]}


def _killed_after(calls: int, rename: Callable[..., None] = os.replace) -> Any:
    numbers = itertools.count()

    def call(*paths: Path) -> None:
        if next(numbers) == calls:
            os._exit(9)
        rename(*paths)

    return call


def test_files_and_manifest_are_replaced_as_one_wherever_the_process_is_killed(tmp_path: Path) -> None:
    seen = []
    for calls in range(8):  # more than there are
        folder = tmp_path / str(calls)
        _replace(folder, OLD)
        if not (child := os.fork()):
            os.replace = _killed_after(calls)
            _replace(folder, NEW)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = _read(folder)
        assert found in (OLD, NEW)
        seen.append((status, found == NEW))
        _replace(folder, OLD)  # ends the matter
        assert _read(folder) == OLD
        left_over = {path.name for path in folder.iterdir()} - {"manifest.json", *OLD}
        assert not [name for name in left_over if name.endswith(".next")]
        assert all(".cellcode-" in name for name in left_over)  # the next holder of the lock removes them
    # Two files wait, the manifest is renamed, which decides; two files take their places.
    assert seen == [(9, False)] * 3 + [(9, True)] * 2 + [(0, True)] * 3


def test_what_cannot_be_replaced_is_as_it_was_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace(tmp_path, OLD)
    names = {path.name for path in tmp_path.iterdir()}

    def refused(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for place in ("write_json", "describe"):
        for error in (refused, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())):
            with monkeypatch.context() as patch:
                patch.setattr(integrity, place, error)
                with pytest.raises((OSError, OutputError, KeyboardInterrupt)):
                    _replace(tmp_path, NEW)
            assert _read(tmp_path) == OLD
            assert {path.name for path in tmp_path.iterdir()} == names
    with pytest.raises(OutputError, match=r"a\.bin: a file is in its place"):
        _replace(tmp_path / "a.bin", NEW)


def _table(root: Path, rows: int) -> PhotoTable:
    values: dict[str, list[Any]] = {name: [None] * rows for name in SCHEMA.names}
    files = [f"{row}.jpg" for row in range(rows)]
    values |= {"file": files, "lat_deg": [48.0] * rows, "lon_deg": [2.0] * rows, "split": ["train"] * rows}
    values |= {"source": ["list"] * rows, "width_px": [4] * rows, "height_px": [3] * rows}
    return PhotoTable(pa.table(values, SCHEMA), root)


def test_a_photo_table_whose_writer_was_killed_after_its_manifest_is_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, new = tmp_path / "table", tmp_path / "new"
    _table(tmp_path, 3).save(folder)
    _table(tmp_path, 5).save(new)
    digest = json.loads((new / "manifest.json").read_text())["files"]["photos.parquet"]["sha256"]
    shutil.copy(new / "photos.parquet", folder / f".photos.parquet.{digest[:16]}.next")
    assert len(PhotoTable.load(folder)) == 3  # killed before the manifest
    shutil.copy(new / "manifest.json", folder)
    assert len(PhotoTable.load(folder)) == 5
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "photos.parquet"]

    def read_only(*_: Any) -> None:
        raise OSError(30, "Read-only file system")  # before it looks whether the file is there

    monkeypatch.setattr(os, "replace", read_only)
    assert len(PhotoTable.load(folder)) == 5


def test_photos_that_belong_to_a_table_are_verified_and_others_are_left_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("table/photos/0.jpg", "table/photos/1.jpg", "2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(rng.bytes(1000))
    files = ["0.jpg", "1.jpg", "../../2.jpg", str(tmp_path / "2.jpg"), "absent.jpg"]
    table = _table(tmp_path / "table" / "photos", 5).with_column("file", files)
    table.save(tmp_path / "table")
    loaded = PhotoTable.load(tmp_path / "table")
    loaded.verify()
    assert loaded.images is not None
    assert loaded.images.column("file").to_pylist() == ["0.jpg", "1.jpg"]
    (tmp_path / "2.jpg").write_bytes(b"")
    loaded.verify()
    (tmp_path / "table/photos/1.jpg").write_bytes(rng.bytes(1000))
    with pytest.raises(
        InputError, match=r"1\.jpg is not the file that its manifest was written for; ingest the photos"
    ):
        loaded.verify()
    (tmp_path / "table/images.parquet").unlink()
    with pytest.raises(InputError, match=r"images\.parquet is missing"):
        PhotoTable.load(tmp_path / "table")
    _table(tmp_path, 2).save(tmp_path / "table")  # photos that lie elsewhere: nothing of the earlier table stays
    assert PhotoTable.load(tmp_path / "table").images is None
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == ["manifest.json", "photos", "photos.parquet"]
