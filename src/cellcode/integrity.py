"""Manifests that protect what they describe: sizes and digests of all files, and a digest of the manifest itself.

Opening an artefact checks that every file is there and as long as it was written; files up to `SMALL_BYTES` whole, larger ones
in a few places. Verifying reads all of it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellcode.errors import InputError
from cellcode.files import read_json, sampled_digest, sha256, write_json, writing, written_path
from cellcode.progress import Meter

SMALL_BYTES = 1 << 20
LONG_MB = 1024  # from which on progress is shown
DIGEST = "digest"
WAITING_HEX = 16  # digits of its digest in the name of a file that waits to be renamed
Files = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of artefact.

    Attributes:
        format: value of the key `format` of its manifests.
        version: that is written now, with a digest.
        unsealed: versions of earlier releases, whose manifests have no digest; their files are checked as far as stated.
        advice: what to do where one is damaged.
    """

    format: str
    version: int
    unsealed: Collection[int]
    advice: str

    def write(self, path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write a manifest with format, version and its digest, atomically, and return it."""
        head = {"format": self.format, "version": self.version}
        manifest = head | dict(values) | head  # values that were read from an earlier version have both, too
        manifest[DIGEST] = _digest(manifest)
        write_json(path, manifest)
        return manifest

    @contextmanager
    def replacing(self, folder: Path, name: str, values: dict[str, Any]) -> Iterator[Callable[[str], Path]]:
        """Replace the manifest called `name` in a folder and files beside it, as if all were renamed at once.

        Yields a function from a file's name to the path where it is to be written. Written files wait under names of their
        digests; renaming the manifest, which has the same digests, decides; `settle` ends what a killed process began.
        `values` gets the digests as `files`.
        """
        made = dict[str, Path]()
        try:
            with ExitStack() as stack:
                yield lambda file: made.setdefault(file, stack.enter_context(written_path(folder / file)))
                facts = {file: describe(path.parent, [path.name])[path.name] for file, path in made.items()}
                for file, path in made.items():
                    os.replace(path, _waiting(folder, file, facts[file]))
            values["files"] = facts
            self.write(folder / name, values)
        finally:  # whichever manifest is there now decides
            with suppress(InputError):
                self.settle(folder, self.read(folder / name).get("files", {}))
            for path in folder.glob(f".*.{'[0-9a-f]' * WAITING_HEX}.next"):
                path.unlink(missing_ok=True)

    def settle(self, folder: Path, files: Files) -> None:
        """Rename files that wait for it, because the process that wrote their manifest was killed before it did."""
        for name, facts in files.items():
            path, waiting = inside(folder, name), _waiting(folder, name, facts)
            if waiting.exists():  # asked first: a read-only file system refuses to rename what is not there
                with suppress(FileNotFoundError), writing(path):  # another process has done it
                    os.replace(waiting, path)

    def read(self, path: Path) -> dict[str, Any]:
        """Read a manifest.

        Raises:
            InputError: it is none of this kind, is of another version, or was changed after it was written.
        """
        return self.checked(read_json(path), path)

    def checked(self, manifest: Any, path: Path | str) -> dict[str, Any]:
        """Return a manifest that was read from `path`; see `read`."""
        if not isinstance(manifest, dict) or manifest.get("format") != self.format:
            raise InputError(f"{path} is not the manifest of a {self.format}; {self.advice}")
        version = manifest.get("version")
        if isinstance(version, bool) or version not in (self.version, *self.unsealed):
            raise InputError(
                f"{path} is a {self.format} of version {version}, this program reads version {self.version}; {self.advice}"
            )
        # A digest counts whatever the version says: one changed digit does not make a manifest an old one.
        if (DIGEST in manifest or version == self.version) and manifest.get(DIGEST) != _digest(manifest):
            raise InputError(f"{path} was changed or damaged after it was written; {self.advice}")
        return manifest

    def check(self, folder: Path, files: Files) -> None:
        """Check quickly that files are those that were described; InputError names the first that is not."""
        for name, facts in files.items():
            path = self._sized(folder, name, facts)
            small = facts["bytes"] <= SMALL_BYTES
            if (sha256(path) != facts["sha256"]) if small else (sampled_digest(path) != facts["sample"]):
                raise self._changed(path)

    def verify(self, folder: Path, files: Files) -> None:
        """Read files whole and compare their digests; InputError names the first that differs."""
        megabytes = sum(facts["bytes"] for facts in files.values()) >> 20
        with Meter(f"verifying MB of {folder}", megabytes) if megabytes > LONG_MB else nullcontext() as meter:
            for name, facts in files.items():
                path = self._sized(folder, name, facts)
                if sha256(path) != facts["sha256"]:
                    raise self._changed(path)
                if meter is not None:
                    meter.advance(facts["bytes"] >> 20)

    def _sized(self, folder: Path, name: str, facts: Mapping[str, Any]) -> Path:
        path = inside(folder, name)
        if not path.is_file():
            raise InputError(f"{path} is missing; {self.advice}")
        if (size := path.stat().st_size) != facts["bytes"]:
            kind = "truncated" if size < facts["bytes"] else "longer than it was written"
            raise InputError(f"{path} is {kind} ({size} of {facts['bytes']} bytes); {self.advice}")
        return path

    def _changed(self, path: Path) -> InputError:
        return InputError(f"{path} is not the file that its manifest was written for; {self.advice}")


def describe(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return sizes and digests of files for a manifest: `bytes`, `sample` of evenly spaced parts, `sha256`."""
    paths = {name: folder / name for name in names}
    return {
        name: {"bytes": path.stat().st_size, "sample": sampled_digest(path), "sha256": sha256(path)}
        for name, path in paths.items()
    }


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a manifest names; InputError if it would lie outside the manifest's folder."""
    if not is_inside(name):
        raise InputError(f"{folder}: its manifest names {name}, which is outside the folder; do not use it")
    return folder / name


def is_inside(name: str) -> bool:
    """Return True if a name, joined to a folder, lies in it."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _waiting(folder: Path, name: str, facts: Mapping[str, Any]) -> Path:
    return folder / f".{name}.{str(facts['sha256'])[:WAITING_HEX]}.next"


def _digest(manifest: Mapping[str, Any]) -> str:
    """Digest of what a manifest says, however it is spelled."""
    said = json.loads(json.dumps({key: value for key, value in manifest.items() if key != DIGEST}))  # keys as texts
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
