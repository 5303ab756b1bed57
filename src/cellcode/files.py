"""Writing that leaves nothing half made, wherever it is stopped, and JSON as every artefact of the system spells it.

What is unfinished lies beside its target under a name with `.cellcode-` in it. Whoever holds the lock of the target knows
that the process which made it has ended, and removes it.
"""

import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cellcode.errors import MEMORY, CellcodeError, InputError, OutputError, storage_cause

# What is unfinished, and a folder that is being replaced, which has this name between two renames.
_TEMPORARY = re.compile(r"\.(?P<of>.+?)\.cellcode-((?P<retired>old)|[0-9a-f]{8}(\..*)?)")
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
        if cause.endswith(MEMORY):  # which has nothing to do with the file
            raise OutputError(cause) from error
        named = getattr(error, "filename", None)
        named = named if isinstance(named, str | Path) else path
        named = path if _TEMPORARY.search(str(named)) or str(named).endswith(LOCK) else named
        shown = re.sub(r"\.([^/]+?)\.cellcode-[0-9a-f]{8}[^/]*", r"\1", str(named))  # in a folder that is not finished
        raise OutputError(f"{shown}: {cause}") from error


@contextmanager
def written_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for the block to write and to rename; removed when it ends, if it is there.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = _temporary(path)
    try:
        with writing(path):  # it looks at the space that is left while the file is there
            path.parent.mkdir(parents=True, exist_ok=True)
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


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file, atomically.

    Images come this way too: Pillow takes a file whose end did not fit on the disk for written.

    Raises:
        OutputError: it cannot be written; `path` is as it was.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


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
    retired = _retired(path)
    if path.exists():
        remove_folder(retired, path)
        os.replace(path, retired)
    os.replace(made, path)
    remove_folder(retired, path)


def remove_folder(path: Path, owner: Path | None = None) -> None:
    """Remove a folder, if there is one: renamed first, so that no process ever meets one that is half removed.

    What is left of it by a killed process is removed by the next one that holds the lock of `owner`, by default of `path`.
    """
    if path.is_dir():
        doomed = _temporary(owner or path)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def recovered(path: Path) -> bool:
    """Put a folder back that a killed process had set aside to replace it; return True if there was one.

    Raises:
        InputError: another process is replacing it now.
    """
    if path.exists() or not _retired(path).exists():
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
    path = path.absolute()  # "." has no name
    with _held(path.with_name(f".{path.name}{LOCK}"), path) as first, writing(path):
        if first:
            for found in list(path.parent.glob(f".{glob.escape(path.name)}.cellcode-*")):
                _settle(found)
        yield


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a folder that is written in place and hold its lock, a file in it; remove temporaries anywhere below it.

    What another process writes below it stays. A folder that was made and is empty at the end is removed. See `locked`.

    Raises:
        InputError: another process holds it.
    """
    made = not folder.exists()
    try:
        with _held(folder / LOCK, folder) as first, writing(folder):
            if first:
                for found in list(folder.rglob(".*.cellcode-*")):
                    if not _in_use(found, folder):
                        _settle(found)
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
    with locked(path):
        try:
            with writing(path):
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


_HOLDERS: dict[Path, int] = {}  # threads of this process that hold locks


@contextmanager
def _held(lock: Path, what: Path) -> Iterator[bool]:
    """Yield False if this thread holds the lock already."""
    lock = lock.parent.resolve() / lock.name
    if _HOLDERS.get(lock) == threading.get_ident():
        yield False
        return
    with ExitStack() as stack:
        with writing(what):
            lock.parent.mkdir(parents=True, exist_ok=True)
            while not _acquired(stack.enter_context(lock.open("a+b", buffering=0)), lock, what):
                pass
        _HOLDERS[lock] = threading.get_ident()
        try:
            yield True
        finally:
            del _HOLDERS[lock]
            with suppress(OSError):
                lock.unlink(missing_ok=True)


def _acquired(file: IO[bytes], lock: Path, what: Path) -> bool:
    """Lock an open file; return False if its last holder has removed it since it was opened."""
    if not _flocked(file):
        file.seek(0)
        by = f" ({number})" if (number := file.read(20).decode("ascii", "replace")) else ""
        raise InputError(f"another process{by} is writing {what}; wait for it, or choose another --out")
    try:
        if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
            return False
    except FileNotFoundError:
        return False
    file.truncate(0)
    with suppress(OSError):  # a full disk: the number is for the reader of a message
        file.write(str(os.getpid()).encode())
    return True


def _flocked(file: IO[bytes]) -> bool:
    """Lock an open file; return False if another process, or another thread, has locked it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, and file systems without locks: two writers are not distinguished
        pass
    return True


def _in_use(temporary: Path, folder: Path) -> bool:
    """Return True if another process holds a lock that covers a temporary file below `folder`."""
    match = _TEMPORARY.fullmatch(temporary.name)
    own = [temporary.with_name(f".{match['of']}{LOCK}")] if match is not None else []
    between = itertools.takewhile(lambda each: each != folder, temporary.parents)
    for lock in [*own, *(each / LOCK for each in between)]:
        with suppress(OSError), lock.open("rb") as file:
            if not _flocked(file):
                return True
    return False


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.cellcode-old")


def _temporary(path: Path) -> Path:
    # The suffix of a file stays last: several writers (GDAL, PIL, numpy) look at it.
    return path.with_name(f".{path.name}.cellcode-{uuid.uuid4().hex[:8]}{path.suffix}")


def _settle(found: Path) -> None:
    """Remove what a killed process left, or put it back if it is the folder that was to be replaced."""
    match = _TEMPORARY.fullmatch(found.name)
    if match is None:
        return
    if match["retired"] is not None and not (place := found.with_name(match["of"])).exists():
        os.replace(found, place)
    elif found.is_dir() and not found.is_symlink():
        shutil.rmtree(found, ignore_errors=True)
    else:
        with suppress(OSError):
            found.unlink(missing_ok=True)


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
