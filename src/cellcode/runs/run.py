"""The run folder.

RUN/run.json                  format, version, identity, licences, attributions, counts; sizes and digests of the files
RUN/config.yaml               the resolved configuration
RUN/model.safetensors         ground.*, aerial.*, prototypes.weight
RUN/prototype_ids.npy         uint64 (P,), sorted: the prototype cells that had at least one training photo
RUN/backbones/                configurations of transformers backbones, where there are any
RUN/cells.parquet             training photos and capture dates of every database-level cell that had any
RUN/validation.npz            lat_deg, lon_deg float64 (V,), queries float32 (V, dim)
RUN/log.jsonl                 one line every few steps
"""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cellcode import config as configuration
from cellcode.config import Config, EncoderConfig
from cellcode.errors import InputError, unreadable
from cellcode.files import atomic_path, remove_folder, writing
from cellcode.geography import s2
from cellcode.integrity import Files, Kind, describe
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.whole import Prototypes
from cellcode.runs import architecture
from cellcode.types import Datetimes, Float32, Float64, Ids, Int32

KIND = Kind("cellcode-run", 2, unsealed=(1,), advice="copy the run again, or train again")
MANIFEST, CONFIG, WEIGHTS, IDS = "run.json", "config.yaml", "model.safetensors", "prototype_ids.npy"
CELLS, VALIDATION, BACKBONES = "cells.parquet", "validation.npz", "backbones"
DEFINING = (CONFIG, WEIGHTS, IDS)  # the files whose content is the run's identity
COLUMNS = ("cell", "photos", "dates", "first_date", "last_date")  # of cells.parquet, in the order of `CellFacts`
T = TypeVar("T")


@dataclass(frozen=True)
class CellFacts:
    """Training photos of the cells of `levels.cell` that have any, sorted by id; every array has shape (C,).

    `dates` are distinct capture days among the photos; the first and the last one are NaT where no photo carries a date.
    """

    ids: Ids
    photos: Int32
    dates: Int32
    first_date: Datetimes
    last_date: Datetimes

    @classmethod
    def of_photos(cls, lat_deg: Float64, lon_deg: Float64, captured_at: Datetimes, level: int) -> Self:
        """Count the photos at these positions per cell of `level`."""
        ids, cell = np.unique(s2.cell_ids(lat_deg, lon_deg, level), return_inverse=True)
        days = captured_at.astype("datetime64[D]")
        dated = ~np.isnat(days)
        # One row per (cell, day), ordered by cell and then by day.
        pairs = np.unique(np.stack([cell[dated], days[dated].astype(np.int64)], axis=1), axis=0)
        dates = np.bincount(pairs[:, 0], minlength=len(ids))
        first, last = np.full((2, len(ids)), "NaT", "datetime64[D]")
        ends, has, all_days = np.cumsum(dates), dates > 0, pairs[:, 1].astype("datetime64[D]")
        first[has], last[has] = all_days[(ends - dates)[has]], all_days[ends[has] - 1]
        return cls(ids, np.bincount(cell).astype(np.int32), dates.astype(np.int32), first, last)


@dataclass(frozen=True)
class Validation:
    """Photos that training never saw: their true positions (V,), and queries (V, dim) at unit length. V may be 0."""

    lat_deg: Float64
    lon_deg: Float64
    queries: Float32


@dataclass(frozen=True)
class Run:
    """A trained model, perhaps without imagery or prototypes, with all that building a database needs.

    `manifest` is run.json; see `Run.save` for its keys.
    """

    folder: Path
    config: Config
    ground: Encoder
    aerial: Encoder | None
    prototypes: Prototypes | None
    facts: CellFacts
    validation: Validation
    manifest: dict[str, Any]

    @property
    def identity(self) -> str:
        """Hex digest of configuration, weights and prototype cells: two runs with the same one are the same model."""
        return str(self.manifest["identity"])

    def save(self) -> Self:
        """Write the folder; run.json, which makes it a finished run, comes last. Returns the run with its identity.

        `manifest` gives licences, attributions (lists of strings), bounds (west, south, east, north of the training
        photos in degrees) and training_photos; the rest is added here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        remove_folder(self.folder / BACKBONES)
        with atomic_path(self.folder / CONFIG) as path:
            path.write_text(configuration.dump(self.config), encoding="utf-8")
        tensors: dict[str, Tensor] = {}
        for name, encoder in (("ground", self.ground), ("aerial", self.aerial)):
            if encoder is not None:
                tensors |= {f"{name}.{key}": t.detach().cpu().contiguous() for key, t in encoder.state_dict().items()}
                with writing(self.folder / BACKBONES / name):
                    encoder.backbone.keep(self.folder / BACKBONES / name)
        ids = np.empty(0, np.uint64)
        if self.prototypes is not None:
            tensors["prototypes.weight"] = self.prototypes.weight.detach().cpu().contiguous()
            ids = self.prototypes.ids
        with atomic_path(self.folder / WEIGHTS) as path:
            save_file(tensors, path)
        with atomic_path(self.folder / IDS) as path:
            np.save(path, ids)
        with atomic_path(self.folder / CELLS) as path:
            pq.write_table(pa.table(dict(zip(COLUMNS, vars(self.facts).values(), strict=True))), path)
        with atomic_path(self.folder / VALIDATION) as path:
            np.savez(path, **vars(self.validation))
        files = describe(self.folder, _files(self.folder))
        values = self.manifest | {
            "identity": _identity(files),
            "name": self.config.name,
            "has_aerial": self.aerial is not None,
            "prototypes": len(ids) if self.prototypes is not None else None,
            "validation_photos": len(self.validation.lat_deg),
            "files": files,
        }
        self.manifest.update(KIND.write(self.folder / MANIFEST, values))
        return self

    @classmethod
    def of(cls, run: "Run | Path | str") -> "Run":
        """Return a run, opened if it is a folder; see `load`."""
        return run if isinstance(run, Run) else cls.load(run)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Open a finished run.

        Raises:
            InputError: the folder is no finished run, is of another version, or its files do not belong together.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            unfinished = (folder / "checkpoint").exists()
            hint = "its training has not finished: train again with --resume" if unfinished else "train one first"
            raise InputError(f"{folder} is not a finished run (no {MANIFEST}); {hint}")
        manifest = KIND.read(folder / MANIFEST)
        try:
            files = manifest.get("files") or describe(folder, DEFINING)
        except FileNotFoundError as error:
            raise InputError(f"{folder}: {Path(error.filename).name} is missing; {KIND.advice}") from None
        KIND.verify(folder, files)  # all of it is read below anyway
        if _identity(files) != manifest.get("identity"):
            raise InputError(f"{folder}: its files do not belong to its {MANIFEST}; {KIND.advice}")
        config = configuration.load_saved(folder / CONFIG)
        tensors = _side_file(folder / WEIGHTS, load_file)
        ids = _side_file(folder / IDS, np.load)  # pickles are refused
        prototypes = None
        if manifest["prototypes"] is not None:
            prototypes = Prototypes(ids, config.model.dim, config.model.interpolation_radius_cells)
            if tensors["prototypes.weight"].shape != prototypes.weight.shape:
                raise InputError(f"{folder}: the prototypes in {WEIGHTS} are not those of config.yaml; train again")
            with torch.no_grad():
                prototypes.weight.copy_(tensors["prototypes.weight"])
        return cls(
            folder=folder,
            config=config,
            ground=_encoder(config, tensors, "ground", folder),
            aerial=_encoder(config, tensors, "aerial", folder) if manifest["has_aerial"] else None,
            prototypes=prototypes,
            facts=_side_file(folder / CELLS, lambda path: _facts(pq.read_table(path))),
            validation=_side_file(folder / VALIDATION, _validation),
            manifest=manifest,
        )


def _files(folder: Path) -> list[str]:
    """Names of the files that define a run: its log changes nothing, its checkpoints have manifests of their own."""
    kept = (path.relative_to(folder).as_posix() for path in (folder / BACKBONES).rglob("*") if path.is_file())
    return [*DEFINING, CELLS, VALIDATION, *sorted(kept)]


def _side_file(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (OSError, ValueError, KeyError, EOFError, pa.ArrowException, zipfile.BadZipFile, SafetensorError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise unreadable(path, error, f"{path} {reason}; {KIND.advice}") from None


def _validation(path: Path) -> Validation:
    with np.load(path, allow_pickle=False) as arrays:
        return Validation(**{name: arrays[name] for name in ("lat_deg", "lon_deg", "queries")})


def _identity(files: Files) -> str:
    return hashlib.sha256("".join(files[name]["sha256"] for name in DEFINING).encode()).hexdigest()[:16]


def _encoder(config: Config, tensors: dict[str, Tensor], which: Literal["ground", "aerial"], folder: Path) -> Encoder:
    settings: EncoderConfig = getattr(config.model, which)
    weights = {name.removeprefix(f"{which}."): t for name, t in tensors.items() if name.startswith(f"{which}.")}
    scales, kept = len(config.tile.scales) if which == "aerial" else 1, folder / BACKBONES / which
    return architecture.restored(settings, config.model.dim, weights, kept, folder / CONFIG, scales)


def _facts(table: pa.Table) -> CellFacts:
    ids, photos, dates, first, last = (table.column(name).to_numpy() for name in COLUMNS)
    return CellFacts(ids, photos, dates, first.astype("datetime64[D]"), last.astype("datetime64[D]"))
