"""What the machine refuses is told from damage, whichever library meets it, and where it can be told."""

import errno
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors import SafetensorError

from cellcode import __main__ as start
from cellcode import log
from cellcode.cli import main
from cellcode.database.store import database
from cellcode.errors import InputError, OutputError, sentence
from cellcode.files import writing
from cellcode.photos.reading import image
from cellcode.photos.table.photo_table import readable
from cellcode.runs import run as runs

NO_MEMORY = OSError(errno.ENOMEM, "Cannot allocate memory")


def _read_codes(path: Path) -> None:
    database.mapped(path, (1,), np.float32)


def _read_weights(path: Path) -> None:
    runs._side_file(path, runs.load_file)


def _read_rows(path: Path) -> None:
    with readable(path):
        pa.memory_map("never called")


@pytest.mark.parametrize(
    ("read", "where", "error"),
    [
        (_read_codes, (np, "load"), NO_MEMORY),
        (_read_weights, (runs, "load_file"), SafetensorError("I/O error: Cannot allocate memory (os error 12)")),
        (_read_rows, (pa, "memory_map"), pa.ArrowMemoryError("malloc of size 64 failed")),
        (_read_rows, (pa, "memory_map"), OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_too_little_memory_is_no_damage(
    read: Callable[[Path], None],
    where: tuple[object, str],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(*where, fail)
    with pytest.raises(OutputError, match=r"a\.file: (there is not enough memory|too many files)"):
        read(tmp_path / "a.file")
    monkeypatch.setattr(*where, lambda *_, **__: (_ for _ in ()).throw(OSError("magic string is not correct")))
    with pytest.raises(InputError, match=r"a\.file (is|cannot)"):
        read(tmp_path / "a.file")


def test_too_few_file_descriptors_are_no_fault_of_a_photo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "a.jpg")

    monkeypatch.setattr(image, "_open", fail)
    (tmp_path / "a.jpg").write_bytes(b"photo")
    with pytest.raises(OutputError, match=r"a\.jpg: too many files are open"):
        image.open_photo(tmp_path / "a.jpg")
    monkeypatch.undo()
    monkeypatch.setattr(image, "_loaded", fail)  # which reads a JPEG a second time
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    with pytest.raises(OutputError, match=r"a\.jpg: too many files are open"):
        image.read_image(tmp_path / "a.jpg")


def test_memory_is_named_without_a_file_and_temporary_folders_by_what_they_become(tmp_path: Path) -> None:
    for error in (MemoryError(), RuntimeError("can't start new thread"), RuntimeError("std::bad_alloc"), NO_MEMORY):
        with (
            pytest.raises(OutputError, match=r"^(no thread can be started: )?there is not enough memory"),
            writing(tmp_path),
        ):
            raise error
    inner = tmp_path / ".out.cellcode-0123abcd/ids.npy"
    with pytest.raises(OutputError) as caught, writing(inner):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value).startswith(f"{tmp_path / 'out/ids.npy'}: the disk is full")


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


class _FullAtTheEnd(io.StringIO):
    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stream", [_Full, _FullAtTheEnd])
def test_results_that_cannot_be_written_end_the_command_in_one_sentence(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", stream())
    with pytest.raises(SystemExit) as stop:
        main(["presets"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("cellcode: standard output, or a temporary file: the disk is full")


def test_a_command_works_with_closed_streams_and_without_room_for_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", None)
    with pytest.raises(SystemExit) as stop:
        main(["presets"])
    assert stop.value.code == 0
    monkeypatch.setattr("sys.stderr", _Full())
    with log.installed():
        logging.getLogger("cellcode").info("lost")


def test_an_error_of_another_cause_is_reported_as_such() -> None:
    assert sentence(RuntimeError("shapes differ")).startswith("unexpected RuntimeError (shapes differ)")


def test_too_little_memory_to_import_the_command_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "cellcode.cli":
                raise ImportError("libarrow.so: failed to map segment from shared object")

    monkeypatch.delitem(sys.modules, "cellcode.cli")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(SystemExit, match=r"^cellcode: there is not enough memory"):
        start.main()
