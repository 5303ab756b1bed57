import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cellcode.errors import InputError
from cellcode.files import (
    atomic_folder,
    atomic_path,
    locked,
    read_json,
    replace_folder,
    sampled_digest,
    sha256,
    write_json,
)


def test_atomic_path_replaces_the_file_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.txt"
    for text in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_atomic_path_shows_nothing_before_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npy"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_atomic_path_keeps_the_old_file_and_leaves_no_litter_when_the_block_raises(
    tmp_path: Path, existed: bool, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    if existed:
        path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == (["a.txt"] if existed else [])
    if existed:
        assert path.read_text() == "old"


def test_atomic_folder_replaces_the_whole_folder(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for name in ("one", "two"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name)
        assert [p.name for p in path.iterdir()] == [name]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_atomic_folder_keeps_the_old_folder_and_leaves_no_litter_when_the_block_raises(
    tmp_path: Path, existed: bool, error: type[BaseException]
) -> None:
    path = tmp_path / "state"
    if existed:
        path.mkdir()
        (path / "old").write_text("old")

    def interrupted() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "new").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == (["state"] if existed else [])
    if existed:
        assert [p.name for p in path.iterdir()] == ["old"]
        assert (path / "old").read_text() == "old"


def test_json_survives_writing_and_reading(tmp_path: Path) -> None:
    value = {"name": "Straße", "share": 0.1, "ids": [1, 2**60], "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"nonsense"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json is not valid JSON") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_sampled_digest_covers_a_small_file_and_some_of_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def digest(size: int, *flipped: int) -> str:
        content = bytearray(size)
        for place in flipped:
            content[place] = 1
        path.write_bytes(content)
        return sampled_digest(path)

    for size in (1, 4096, 60_000):
        assert (
            len({digest(size), *(digest(size, place) for place in (0, size // 3, size - 1))})
            == len({0, size // 3, size - 1}) + 1
        )
    large = 16_000_000
    assert len({digest(large), digest(large, 0), digest(large, large - 1), digest(large + 1)}) == 4
    assert digest(large) == digest(large, 5000)  # between two samples
    assert digest(0) == digest(0)


def test_a_finished_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / name).touch()
        replace_folder(tmp_path / "made", tmp_path / "state")
        assert [path.name for path in tmp_path.rglob("*")] == ["state", name]


def test_a_folder_is_replaced_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(tmp_path / "state")
    with atomic_folder(Path()) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["state", "new"]


def test_a_lock_is_held_by_one_and_free_afterwards_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        locked(path),
        pytest.raises(InputError, match=r"another process is writing .*choose another --out"),
        locked(path),
    ):
        pass
    with pytest.raises(KeyboardInterrupt), locked(path):
        raise KeyboardInterrupt
    code = f"import os, pathlib, cellcode.files as f; c = f.locked(pathlib.Path({str(path)!r})); c.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9  # killed while it held it
    with locked(path):
        pass
