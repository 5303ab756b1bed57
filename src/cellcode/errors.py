"""Errors that a user can act on: one sentence that names the file or field, what is wrong and what to do."""

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

MEMORY = "there is not enough memory, or the process may not use more of it (ulimit -v)"
# What the machine refuses, and what to do.
_STORAGE = {
    errno.ENOSPC: "the disk is full; make room and run the same command again",
    errno.EDQUOT: "the disk quota is used up; make room and run the same command again",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose another place, or change its permissions",
    errno.EPERM: "the operation is not permitted; choose another place, or change its permissions",
    errno.EFBIG: "the file would be larger than the limit of the file system or of the process (ulimit -f)",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk reports an input/output error; check it",
    errno.ENOMEM: MEMORY,
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "a file is in its place",
    errno.ESTALE: "the network file system has lost the file; try again",
}
_TEXTS = {
    os.strerror(code).lower(): reason for code, reason in _STORAGE.items() if code not in (errno.EPERM, errno.EEXIST)
}
_TEXTS |= {
    "database or disk is full": _STORAGE[errno.ENOSPC],
    "readonly database": _STORAGE[errno.EROFS],
    "disk i/o error": _STORAGE[errno.EIO],
    "failed to map segment": MEMORY,  # of a library
    "bad_alloc": MEMORY,
    "out of memory": MEMORY,
    "can't start new thread": f"no thread can be started: {MEMORY}",
    "failed to launch worker thread": f"no thread can be started: {MEMORY}",
    "could not create a primitive": MEMORY,  # oneDNN
    "cannot find proj.db": "too many files are open (raise ulimit -n), or rasterio's data are missing (install it again)",
}
_PARTLY = re.compile(r"\d+ requested and \d+ written")  # numpy, which drops the error number


class CellcodeError(Exception):
    """Base of every error raised on purpose; the command line prints its sentence and exits with 1."""

    exit_code = 1


class UsageError(CellcodeError):
    """The request itself cannot be understood (an unknown key, a malformed region); exit status 2."""

    exit_code = 2


class InputError(CellcodeError):
    """A file or value given by the user cannot be used; the sentence names it."""


class OutputError(CellcodeError):
    """The machine refuses to write or to read a file; the sentence names it and the cause, such as a full disk."""


class PluginError(InputError):
    """A plug-in cannot be used; the sentence names it, and what was expected."""


class EmptyRegionError(InputError):
    """No cell of the level that is asked for has its centre in a region."""


class MissingExtraError(CellcodeError):
    """A package, which an extra of cellcode brings, is needed for a purpose (a noun phrase) and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: pip install 'cellcode[{extra}]'"
        )


def unreadable(path: Path, error: BaseException, otherwise: str) -> CellcodeError:
    """Return what to raise where a library cannot read a file: what the machine refuses, or else, of the file, `otherwise`."""
    cause = storage_cause(error)
    return InputError(otherwise) if cause is None else OutputError(f"{path}: {cause}")


def storage_cause(error: BaseException, folder: Path | None = None) -> str | None:
    """Return why the machine refused to read or write, and what to do; None if the error has another cause.

    Libraries pass the system's reason on as an error number, as text, or (numpy) not at all: then a full disk is recognised
    by the space that is left in `folder`.
    """
    if isinstance(error, MemoryError):
        return _STORAGE[errno.ENOMEM]
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return _STORAGE[error.errno]
    text = str(error).lower()
    for known, reason in _TEXTS.items():
        if known in text:
            return reason
    if isinstance(error, OSError) and error.errno is None and folder is not None:
        with suppress(OSError):
            if shutil.disk_usage(folder).free < 1 << 16:
                return _STORAGE[errno.ENOSPC]
        if _PARTLY.fullmatch(text):
            return "only a part of it could be written; check the free space, the quota and the file size limit (ulimit -f)"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return storage_cause(cause, folder) if cause is not None else None


def sentence(error: BaseException) -> str:
    """Return what the command line says of an error."""
    if isinstance(error, CellcodeError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if (cause := storage_cause(error)) is not None:
        named = getattr(error, "filename", None)
        if named is None and isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            named = "standard output, or a temporary file"  # other files are named where they are written
        return f"{named}: {cause}" if named is not None else cause
    text = str(error).splitlines()[0] if str(error) else "no message"
    return f"unexpected {type(error).__name__} ({text}); run again with --debug and report it"
