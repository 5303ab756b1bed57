"""Names of a database's files, and its manifest; docs/formats.md has the schema."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellcode.errors import InputError
from cellcode.files import read_json, recovered
from cellcode.integrity import Kind

KIND = Kind("cellcode-database", 3, unsealed=(2,), advice="copy or build the database again")

MANIFEST, CONFIG, ENCODER, BACKBONE = "manifest.json", "config.yaml", "ground.safetensors", "backbone"
IDS, CELLS = "ids.npy", "cells.parquet"
CODES, COARSE = "codes.npy", "codes_int8.npy"
PACKED, CODEBOOK = "codes_packed.npy", "codebook.safetensors"
FIRST_STAGE, DIRECTIONS, STARTS = "first_stage.faiss", "first_stage_directions.npy", "first_stage_starts.npy"
QUERIES = "queries.npy"
IMPUTATION = "imputation.npy"  # only where prototypes are imputed
# Raw embeddings of tiles, only where `AERIAL` holds smoothed ones.
AERIAL, PROTOTYPES, TILES = "terms/aerial.npy", "terms/prototypes.npy", "terms/tiles.npy"
DIGESTS = "tile_digests.npy"

# Files with one row per cell, in the order of ids: clipping and merging select rows of them.
ROW_FILES = (IDS, CODES, COARSE, PACKED, AERIAL, PROTOTYPES, TILES, DIGESTS)
# Keys of every manifest.
KEYS = (
    "identity", "run", "aerial_encoder", "levels", "dim", "cells", "codes", "search", "imagery", "training_photos", "licences",
    "attributions", "calibration", "bounds", "files",
)  # fmt: skip
# Files that define the answers: their checksums are the identity of the database.
DEFINING = (IDS, CODES, PACKED, CODEBOOK, CONFIG, ENCODER)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a database; InputError in one sentence if there is none, or it is damaged."""
    if not (folder / MANIFEST).is_file() and not recovered(folder):
        raise InputError(f"{folder} is not a cell-code database (no {MANIFEST}); `cellcode build` makes one")
    manifest = KIND.read(folder / MANIFEST)
    if missing := [key for key in KEYS if key not in manifest]:
        raise InputError(f"{folder / MANIFEST} does not say {missing[0]}; {KIND.advice}")
    return manifest


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise InputError unless every file is there and, as far as a quick check shows, as it was written."""
    needed = [IDS, CELLS, CONFIG, ENCODER, QUERIES, *([] if PACKED in manifest["files"] else [CODES, COARSE])]
    if unnamed := [name for name in needed if name not in manifest["files"]]:
        raise InputError(f"{folder / MANIFEST} does not name {unnamed[0]}; {KIND.advice}")
    KIND.check(folder, manifest["files"])


def refuse_to_overwrite(out: Path, sources: Sequence[Path] = ()) -> None:
    """Raise InputError if `out` holds anything but a database, or one that the new database is made from."""
    if out.resolve() in [source.resolve() for source in sources]:
        raise InputError(f"{out} is what the new database is made from; choose another --out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = read_json(out / MANIFEST) if (out / MANIFEST).is_file() else None
    if not isinstance(manifest, dict) or manifest.get("format") != KIND.format:
        raise InputError(f"{out} exists and is no cell-code database, so it is not overwritten; choose another --out")
