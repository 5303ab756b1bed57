"""manifest.json of packed photos, and what several packed folders are together.

A region whose photo table is too large for one packing is packed in parts: FOLDER/PART/manifest.json for each, and none in
FOLDER itself. FOLDER then stands for all of its photos.
"""

import hashlib
import json
from collections import Counter
from typing import Any

import pyarrow as pa
from pyarrow import fs

from cellcode.errors import InputError

FORMAT, VERSION = "cellcode-shards", 1
MANIFEST, PLAN = "manifest.json", "plan.json"  # PLAN is there while photos are being packed
Manifest = dict[str, Any]
_SAME = {"level": "level of the cells", "size_px": "size of the images", "fit": "fit of the images"}


def read(files: fs.FileSystem, root: str, shown: str) -> Manifest | None:
    """Return the manifest in a folder; None if there is none.

    Raises:
        InputError: it cannot be read, or is of another version.
    """
    try:
        with files.open_input_stream(f"{root}/{MANIFEST}") as stream:
            manifest = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{shown}/{MANIFEST} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise InputError(f"{shown}/{MANIFEST} is not a {FORMAT} of version {VERSION}; pack the photos again")
    return manifest


def read_parts(files: fs.FileSystem, root: str, shown: str) -> dict[str, Manifest]:
    """Return the manifests of the packed folders in a folder by their names, sorted; {} if there are none.

    Raises:
        InputError: some of the folders in it are packed photos and some are not.
    """
    try:
        found = files.get_file_info(fs.FileSelector(root, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown} cannot be read ({str(error).splitlines()[0]})") from None
    names = sorted(each.base_name for each in found if each.type == fs.FileType.Directory)
    names = [name for name in names if not name.startswith(".")]
    manifests = {name: read(files, f"{root}/{name}", f"{shown}/{name}") for name in names}
    parts = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    if parts and len(parts) < len(names):
        missing = next(name for name in names if name not in parts)
        raise InputError(
            f"{shown} holds packed photos in {', '.join(parts)}, and none in {missing}; finish packing it, or move it away"
        )
    return parts


def join(parts: dict[str, Manifest], shown: str) -> Manifest:
    """Return the manifest of several packings as one.

    Raises:
        InputError: they do not go together: places or images are not of one size, or one is there twice.
    """
    (first, one), *others = parts.items()
    of_identity: dict[str, str] = {}
    for name, part in parts.items():
        if (known := of_identity.setdefault(part["identity"], name)) != name:
            raise InputError(f"{shown}/{known} and {shown}/{name} are the same packed photos; remove one of them")
    for name, other in others:
        for key, what in _SAME.items():
            a, b = one["packing"][key], other["packing"][key]
            if a != b:
                raise InputError(
                    f"{shown}/{first} and {shown}/{name} do not go together: the {what} is {a} in one and {b} in the other; "
                    "pack one of them again"
                )
    splits: Counter[str] = Counter()
    for part in parts.values():
        splits.update(part["splits"])
    west, south, east, north = zip(*(part["bounds"] for part in parts.values()), strict=True)
    return {
        "format": FORMAT,
        "version": VERSION,
        "identity": hashlib.sha256("\n".join(of_identity).encode()).hexdigest()[:16],
        "photos": splits.total(),
        "splits": dict(splits),
        "bounds": [min(west), min(south), max(east), max(north)],
        "packing": one["packing"],
        **{
            key: sorted({text for part in parts.values() for text in part[key]}) for key in ("licences", "attributions")
        },
        "rejected": {f"{name}/{file}": why for name, part in parts.items() for file, why in part["rejected"].items()},
        "parts": list(parts),
    }
