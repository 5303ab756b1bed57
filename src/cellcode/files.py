"""Writing that leaves nothing half made, wherever it is stopped, and JSON as every artefact of the system spells it.

What is unfinished lies beside its target under a name with `.cellcode-` in it. Whoever holds the lock of the target knows
that the process which made it has ended, and removes it.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from cellcode.errors import CellcodeError, InputError, OutputError, storage_cause

_TEMPORARY = re.compile(r"\..+\.cellcode-[0-9a-f]{8}(\.[^/]*)?")
_RETIRED = "cellcode-old"  # what a folder that is being replaced is called between two renames
LOCK = ".lock"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk and its like into an OutputError that names the file, whichever library meets it in the block.

    What has no name, or a temporary one, is called `path`.
    """
    try:
        yield
    except CellcodeError:
        raise
    except Exception as error:
        if (cause := storage_cause(error, path.parent)) is None:
            raise
        named = getattr(error, "filename", None)
        named = path if named is None or _TEMPORARY.search(str(named)) or str(named).endswith(LOCK) else named
        raise OutputError(f"{named}: {cause}") from error


@contextmanager
def written_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for the block to write and to rename; removed when it ends, if it is there.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = _temporary(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends without an error.

    Raises:
        OutputError: it cannot be written; `path` is as it was.
    """
    with written_path(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Lock `path` and yield a temporary folder beside it, which replaces it (if it is there) when the block ends well.

    Raises:
        InputError: another process writes `path`.
        OutputError: it cannot be written; `path` is as it was.
    """
    with temporary_folder(path) as temporary:
        yield temporary
        replace_folder(temporary, path.resolve())


def replace_folder(made: Path, path: Path) -> None:
    """Put a finished folder in the place of `path`, on the same file system; what was there is removed.

    A process that is killed between the two renames leaves the earlier folder aside; see `recovered`.
    """
    retired = path.with_name(f".{path.name}.{_RETIRED}")
    if path.exists():
        remove_folder(retired)
        os.replace(path, retired)
    os.replace(made, path)
    remove_folder(retired)


def remove_folder(path: Path) -> None:
    """Remove a folder, if there is one: renamed first, so that no process ever meets one that is half removed."""
    if path.is_dir():
        doomed = _temporary(path)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def recovered(path: Path) -> bool:
    """Put a folder back that a killed process had set aside to replace it; return True if there was one.

    Raises:
        InputError: another process is replacing it now.
    """
    retired = path.with_name(f".{path.name}.{_RETIRED}")
    if path.exists() or not retired.exists():
        return False
    with locked(path):
        return path.exists()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that is written, a file beside it; remove what killed processes left there.

    The system lets go of the lock when its process ends, however it ends. A thread may hold it several times.

    Raises:
        InputError: another process holds it.
    """
    with _held(path.with_name(f".{path.name}{LOCK}"), path) as first:
        if first:
            retired = path.with_name(f".{path.name}.{_RETIRED}")
            if retired.exists() and not path.exists():
                os.replace(retired, path)
            remove_folder(retired)
            for name in {path.name, path.stem}:
                _remove_temporaries(path.parent.glob(f".{glob.escape(name)}.cellcode-*"))
        yield


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a folder that is written in place and hold its lock, a file in it; remove temporaries anywhere below it.

    A folder that was made and is empty at the end is removed. See `locked`.

    Raises:
        InputError: another process holds it.
    """
    made = not folder.exists()
    try:
        with _held(folder / LOCK, folder) as first:
            if first:
                _remove_temporaries(folder.rglob(".*.cellcode-*"))
            yield
    finally:
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Lock `path` and yield a folder beside it for what is needed to make it, which is removed at the end."""
    path = path.resolve()
    folder = _temporary(path)
    with locked(path), writing(path):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


_HOLDERS: dict[Path, int] = {}  # threads of this process that hold locks


@contextmanager
def _held(lock: Path, what: Path) -> Iterator[bool]:
    """Yield False if this thread holds the lock already."""
    lock = lock.absolute()
    if _HOLDERS.get(lock) == threading.get_ident():
        yield False
        return
    with ExitStack() as stack:
        with writing(what):
            lock.parent.mkdir(parents=True, exist_ok=True)
            while not _acquired(stack.enter_context(lock.open("a+", encoding="utf-8")), lock, what):
                pass
        _HOLDERS[lock] = threading.get_ident()
        try:
            yield True
        finally:
            del _HOLDERS[lock]
            with suppress(OSError):
                lock.unlink(missing_ok=True)


def _acquired(file: TextIO, lock: Path, what: Path) -> bool:
    """Lock an open file; return False if its last holder has removed it since it was opened."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        by = f" ({number})" if (number := file.read(20)) else ""
        raise InputError(f"another process{by} is writing {what}; wait for it, or choose another --out") from None
    except (ImportError, OSError):  # Windows, and file systems without locks: two writers are not told apart
        pass
    if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
        return False
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return True


def _temporary(path: Path) -> Path:
    # The suffix of a file stays last: several writers (GDAL, PIL, numpy) look at it.
    return path.with_name(f".{path.stem}.cellcode-{uuid.uuid4().hex[:8]}{path.suffix}")


def _remove_temporaries(found: Iterator[Path]) -> None:
    for path in [each for each in found if _TEMPORARY.fullmatch(each.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def new_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Make a numpy file and map it for writing; its space on the disk is taken now.

    Without that a disk which is full later kills the process (SIGBUS) when a mapped page cannot be written.

    Raises:
        OutputError: there is no room.
    """
    with writing(path):
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        with path.open("r+b") as file, suppress(AttributeError):  # macOS and Windows have no such call
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: it is not JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; `InputError` names the file when it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); it may be damaged, make it again") from None


def sampled_digest(path: Path, samples: int = 16, sample_bytes: int = 4096) -> str:
    """Return a digest of a file's size and of evenly spaced parts of it: quick, and other for a file of other rows."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(samples):
            file.seek(max(0, size - sample_bytes) * number // (samples - 1))
            digest.update(file.read(sample_bytes))
    return digest.hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
