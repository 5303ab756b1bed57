"""Images that are made of others, unpacked or cut out: the version of what they are made of is part of their names.

So an image is never replaced under its name while the photo table that lists it is there.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

FOLDERS = ("images", "cuts")
_VERSION = re.compile(r"\.v[0-9a-f]{8}(?=\.[^./]+$)")


def versioned(name: str, version: str) -> str:
    """Return the name of a file with a digest of `version`, any text: NAME.v01234567.jpg."""
    path = PurePosixPath(name)
    return path.with_suffix(f".v{hashlib.sha256(version.encode()).hexdigest()[:8]}{path.suffix}").as_posix()


def remove_superseded(out: Path, files: Iterable[Path]) -> None:
    """Remove other versions of the images in `out` that a table lists; unversioned names are those of earlier releases."""
    kept = {path for file in files if _VERSION.search(path := os.path.abspath(file))}
    replaced = {_VERSION.sub("", path) for path in kept}
    for folder in FOLDERS if kept else ():
        for found in list((out / folder).rglob("*.*")):
            if (path := os.path.abspath(found)) not in kept and _VERSION.sub("", path) in replaced:
                found.unlink(missing_ok=True)
