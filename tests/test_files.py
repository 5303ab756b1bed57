import errno
import hashlib
import json
import os
import resource
import shutil
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.conftest import locked_elsewhere

from cellcode.errors import InputError, OutputError
from cellcode.files import (
    LOCK,
    atomic_folder,
    atomic_path,
    locked,
    locked_folder,
    new_array,
    read_json,
    recovered,
    remove_folder,
    replace_folder,
    sampled_digest,
    sha256,
    write_json,
    writing,
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


def test_a_lock_is_held_by_one_thread_of_one_process_and_free_afterwards_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "town.cells"
    with locked(path), locked(path), atomic_folder(path) as temporary:  # a thread may hold it several times
        (temporary / "new").touch()
        assert (tmp_path / ".town.cells.lock").read_text() == str(os.getpid())
    with locked_elsewhere(path), pytest.raises(InputError) as caught, locked(path):
        pass
    assert str(caught.value) == (
        f"another process ({os.getpid()}) is writing {path}; wait for it, or choose another --out"
    )
    with pytest.raises(KeyboardInterrupt), locked(path):
        raise KeyboardInterrupt
    (tmp_path / ".town.cells.lock").write_text("1")  # of a process that was killed: no one holds it
    with locked(path):
        pass
    assert [each.name for each in tmp_path.rglob("*")] == ["town.cells", "new"]


def test_a_lock_of_another_process_names_it_and_ends_with_it(tmp_path: Path) -> None:
    path, (said, says) = tmp_path / "out", os.pipe()
    child = os.fork()
    if not child:
        held = locked_folder(path)
        held.__enter__()
        (path / ".a.npy.cellcode-01234567.npy").touch()
        os.write(says, b"held")
        signal.pause()
    try:
        assert os.read(said, 4) == b"held"
        with (
            pytest.raises(InputError, match=rf"another process \({child}\) is writing {path}; wait"),
            locked_folder(path),
        ):
            pass
        with locked_folder(tmp_path):  # a folder above: what another process writes below it stays
            assert (path / ".a.npy.cellcode-01234567.npy").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(said)
        os.close(says)
    with locked_folder(path):
        assert [each.name for each in path.iterdir()] == [LOCK]
    assert not any(path.iterdir())


def test_a_folder_that_was_made_for_a_lock_is_removed_if_nothing_was_written(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for folder in (tmp_path / "made", kept):
        with pytest.raises(ZeroDivisionError), locked_folder(folder):
            _ = 1 / 0
    assert list(tmp_path.rglob("*")) == [kept]
    with locked_folder(tmp_path / "made"):
        (tmp_path / "made" / "a").touch()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["a"]


def test_the_next_holder_of_a_lock_removes_what_a_killed_process_left_of_its_target_alone(tmp_path: Path) -> None:
    left = (".a.csv.cellcode-00000001.csv", ".a.csv.cellcode-0000abcd", ".a.csv.cellcode-old")
    of_others = (
        ".a.parquet.cellcode-00000001.parquet", ".a.cellcode-00000001", ".ab.csv.cellcode-00000001.csv",
        ".a.csv.cellcode-notes", ".b.cellcode-old",
    )  # fmt: skip
    for name in (*left, *of_others, "a.csv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with locked(tmp_path / "a.csv"):
        assert {path.name for path in tmp_path.iterdir()} == {*of_others, "a.csv", ".a.csv.lock"}
    with locked_elsewhere(tmp_path / "a"):
        (tmp_path / ".a.cellcode-00000002").mkdir()
        with locked_folder(tmp_path):
            names = {path.name for path in tmp_path.iterdir()}
    assert names == {".a.cellcode-00000002", ".a.csv.cellcode-notes", "a.csv", "b", ".a.lock", LOCK}


def test_what_removing_a_folder_leaves_when_it_is_killed_is_of_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, working = tmp_path / "town.cells", tmp_path / ".town.cells.building"
    for folder in (out, working, tmp_path / "made"):
        folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if it had been killed before
        remove_folder(working, out)
        replace_folder(tmp_path / "made", out)
    assert len(list(tmp_path.iterdir())) == 3
    assert not working.exists()
    with locked(out):
        pass
    assert list(tmp_path.iterdir()) == [out]
    remove_folder(tmp_path / "absent")


def test_a_folder_set_aside_by_a_killed_process_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made, replace = tmp_path / "town.cells", tmp_path / "made", os.replace
    for folder in (path, made):
        folder.mkdir()
        (folder / folder.name).touch()

    def killed(source: Path, target: Path) -> None:
        if source == made:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            replace_folder(made, path)
    assert not path.exists()
    with locked_elsewhere(tmp_path / "other"):
        assert recovered(path)
    assert (path / "town.cells").exists()
    assert not recovered(path)
    assert not recovered(tmp_path / "absent")
    assert {each.name for each in tmp_path.iterdir()} == {"made", "town.cells"}


def test_writing_names_the_file_and_the_cause_and_lets_other_errors_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def stopped(made: AbstractContextManager[Path], error: Exception) -> None:
        with made as temporary:
            (temporary / "half" if temporary.is_dir() else temporary).touch()
            raise error

    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"/file: a file is in its place$"):
        write_json(tmp_path / "file" / "a.json", 1)
    path = tmp_path / "a.npy"
    for error, named in (
        (OSError(errno.ENOSPC, "No space left on device"), path),
        (OSError(errno.ENOSPC, "No space left on device", str(tmp_path / ".a.npy.cellcode-01234567.npy")), path),
        (OSError(errno.ENOSPC, "No space left on device", "b.npy"), "b.npy"),
        (OSError(errno.ENOSPC, "No space left on device", 3), path),
        (RuntimeError("I/O error: No space left on device (os error 28)"), path),
    ):
        with pytest.raises(OutputError) as caught:
            stopped(atomic_path(path), error)
        assert str(caught.value) == f"{named}: the disk is full; make room and run the same command again"
    for other in (ValueError("no"), InputError("photo.jpg: permission denied"), FileNotFoundError(2, "absent", "b")):
        with pytest.raises(type(other)) as passed, writing(path):
            raise other
        assert passed.value is other
    # numpy has no error number: the space is looked at before what was written is removed
    free = lambda folder: SimpleNamespace(free=0 if any(folder.iterdir()) else 1 << 30)  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", free)
    (tmp_path / "file").unlink()
    for make in (atomic_path, atomic_folder):
        with pytest.raises(OutputError, match="the disk is full"):
            stopped(make(path), OSError("1000 requested and 7 written"))
    assert not any(tmp_path.iterdir())


def test_a_new_array_takes_its_space_at_once(tmp_path: Path) -> None:
    array = new_array(tmp_path / "a.npy", (300, 1000), np.float32)
    facts = (tmp_path / "a.npy").stat()
    assert facts.st_blocks * 512 >= facts.st_size > 1_200_000
    array[299] = 7
    array.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[298:, 0], [0, 7])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match=r"b\.npy: the file would be larger than the limit"):
            new_array(tmp_path / "b.npy", (300, 1000), np.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
