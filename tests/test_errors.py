import errno
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from cellcode.errors import InputError, OutputError, UsageError, sentence, storage_cause

FULL = "the disk is full; make room and run the same command again"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "not permitted"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOMEM, "ulimit -v"),
        (errno.EIO, "input/output error"),
        (errno.ENAMETOOLONG, "the name is too long"),
    ],
)
def test_the_cause_is_told_by_the_error_number_and_by_its_text(code: int, said: str) -> None:
    by_number = storage_cause(OSError(code, "whatever"))
    assert by_number is not None
    assert said in by_number
    if code != errno.EPERM:  # too common a text
        assert storage_cause(RuntimeError(f"somewhere: {os.strerror(code)} (os error {code})")) == by_number


def test_the_cause_is_told_by_the_text_of_libraries() -> None:
    for error, said in (
        (
            OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
            FULL,
        ),  # pyarrow
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), FULL),  # safetensors
        (sqlite3.OperationalError("database or disk is full"), FULL),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only"),
        (sqlite3.OperationalError("disk I/O error"), "input/output error"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: Error code 12 (Cannot allocate memory)"),
            "ulimit -v",
        ),
        (MemoryError(), "ulimit -v"),
    ):
        assert said in str(storage_cause(error)), error
    for other in (ValueError("no"), FileNotFoundError(errno.ENOENT, "absent"), OSError("no number"), KeyError("full")):
        assert storage_cause(other, Path()) is None, other


def test_what_numpy_leaves_out_is_told_by_the_space_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("1000 requested and 7 written")
    assert storage_cause(error) is None  # nobody knows where
    for free, said in ((4096, FULL), (1 << 30, "only a part of it could be written")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert said in str(storage_cause(error, tmp_path))
    monkeypatch.undo()
    assert "only a part" in str(storage_cause(error, tmp_path / "absent"))


def _raised(error: Exception, during: Exception, *, hidden: bool = False, because: bool = False) -> Exception:
    try:
        try:
            raise during
        except Exception as first:
            if hidden:
                raise error from None
            if because:
                raise error from first
            raise error  # noqa: B904
    except Exception as last:
        return last


def test_the_cause_of_a_cause_counts_unless_it_was_dealt_with() -> None:
    full = OSError(errno.ENOSPC, "full")
    assert storage_cause(_raised(RuntimeError("a"), full)) == FULL
    assert storage_cause(_raised(RuntimeError("a"), full, because=True)) == FULL
    assert storage_cause(_raised(RuntimeError("a"), full, hidden=True)) is None


def test_every_error_is_one_sentence() -> None:
    for error, said in (
        (InputError("a.jpg is no photo"), "a.jpg is no photo"),
        (OutputError("a.json: no room"), "a.json: no room"),
        (KeyboardInterrupt(), "interrupted"),
        (OSError(errno.ENOSPC, "No space left", "out/a.npy"), f"out/a.npy: {FULL}"),
        (RuntimeError("No space left on device"), FULL),
        (RuntimeError("first\nsecond"), "unexpected RuntimeError (first); run again with --debug and report it"),
        (RuntimeError(), "unexpected RuntimeError (no message); run again with --debug and report it"),
    ):
        assert sentence(error) == said
    assert (OutputError.exit_code, UsageError.exit_code) == (1, 2)
