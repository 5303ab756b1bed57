"""Both terms of every cell, computed as a stream: tiles are read, encoded and written while the next ones are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cellcode.aerial import AerialSource
from cellcode.aerial.crops import read_crops
from cellcode.database.cells import Candidates
from cellcode.database.codes import upsample
from cellcode.database.npyfile import RowWriter
from cellcode.errors import InputError
from cellcode.geography import distance, s2
from cellcode.model.precision import autocast, choose_device
from cellcode.progress import Meter
from cellcode.runs import Run

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

SMOOTH_BLOCK = 4096
IDS, AERIAL, PROTOTYPES = "ids.npy", "terms/aerial.npy", "terms/prototypes.npy"


@dataclass(frozen=True)
class Written:
    """What `write` left in its folder.

    Attributes:
        has_aerial, has_prototype: (N,), in the order of the ids.
        dropped: candidates without either term.
        aerial_error, prototype_error: largest distance of a float16 row from its float32 original.
    """

    has_aerial: Bools
    has_prototype: Bools
    dropped: int
    aerial_error: float
    prototype_error: float


@dataclass(frozen=True)
class _Tiles:
    """Candidates `rows`, and the tiles (M, S, S, 3) uint8 of those of them with enough imagery, `has`."""

    rows: slice
    has: Bools
    pixels: npt.NDArray[np.uint8]


def write(run: Run, source: AerialSource | None, candidates: Candidates, folder: Path) -> Written:
    """Write ids (uint64) and terms (float16, zeros where a cell lacks the term) of the cells that have a code.

    Memory does not depend on the number of cells, apart from a byte for each of a few facts.

    Raises:
        InputError: no cell is left, because no tile has enough imagery.
    """
    (folder / "terms").mkdir(exist_ok=True)
    dim = run.config.model.dim
    kept_aerial, kept_prototype, errors = [], [], np.zeros(2)
    aerial_file = prototype_file = None
    with ExitStack() as files, Meter("encoding cells", len(candidates.ids)) as meter:
        ids = files.enter_context(RowWriter(folder / IDS, (), np.uint64))
        if source is not None:
            aerial_file = files.enter_context(RowWriter(folder / AERIAL, (dim,), np.float16))
        if candidates.has_prototype.any():
            prototype_file = files.enter_context(RowWriter(folder / PROTOTYPES, (dim,), np.float16))
        for tiles in _read(run, source, candidates):
            has_prototype = candidates.has_prototype[tiles.rows]
            keep = tiles.has | has_prototype
            ids.append(candidates.ids[tiles.rows][keep])
            kept_aerial.append(tiles.has[keep])
            kept_prototype.append(has_prototype[keep])
            if aerial_file is not None:
                aerial = np.zeros((len(keep), dim), np.float32)
                aerial[tiles.has] = _encode(run, tiles.pixels)
                errors[0] = max(errors[0], _append(aerial_file, aerial[keep]))
            if prototype_file is not None and run.prototypes is not None:
                prototypes = upsample(run.prototypes, candidates.ids[tiles.rows], run.config.build.upsampling)
                errors[1] = max(errors[1], _append(prototype_file, prototypes[keep]))
            meter.advance(len(keep))
    if not ids.count:
        share = run.config.build.min_imagery_share
        raise InputError(f"no tile of the region has at least {share:.0%} imagery; lower build.min_imagery_share")
    return Written(
        has_aerial=np.concatenate(kept_aerial),
        has_prototype=np.concatenate(kept_prototype),
        dropped=len(candidates.ids) - ids.count,
        aerial_error=float(errors[0]),
        prototype_error=float(errors[1]),
    )


def smooth_aerial(folder: Path, written: Written, sigma_cells: float) -> None:
    """Average the aerial embeddings of each cell and its eight neighbours (ours): a photo sees farther than one tile.

    Weights fall with the distance of the centres as a Gaussian of `sigma_cells` mean edges; the mean is brought back to
    unit length. Cells without imagery keep zeros. The file is replaced; memory does not depend on the number of cells.
    """
    ids, before = np.load(folder / IDS), np.load(folder / AERIAL, mmap_mode="r")
    sigma_m = sigma_cells * s2.mean_edge_m(int(s2.levels(ids[:1])[0]))
    after = folder / "terms" / "smoothed.npy"
    with RowWriter(after, before.shape[1:], np.float16) as file:
        for first in range(0, len(ids), SMOOTH_BLOCK):
            own = ids[first : first + SMOOTH_BLOCK]
            around = np.concatenate([own[:, None], s2.all_neighbors(own)], axis=1)  # B x 9
            rows = np.minimum(np.searchsorted(ids, around), len(ids) - 1)
            lat, lon = (values.reshape(around.shape) for values in s2.cell_centers(around))
            apart_m = distance.haversine_m(lat[:, :1], lon[:, :1], lat, lon)
            weight = np.exp(-((apart_m / sigma_m) ** 2) / 2) * (ids[rows] == around) * written.has_aerial[rows]
            total = np.einsum("bn,bnd->bd", weight.astype(np.float32), before[rows].astype(np.float32))
            total *= written.has_aerial[first : first + SMOOTH_BLOCK, None]
            file.append(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))
    os.replace(after, folder / AERIAL)


def _append(file: RowWriter, rows: Float32) -> float:
    """Append rows as float16 and return the largest distance of one from its original."""
    narrow = rows.astype(np.float16)
    file.append(narrow)
    return row_error(rows, narrow)


def row_error(rows: Float32, narrow: npt.NDArray[np.float16]) -> float:
    """Largest euclidean distance of a row from its float16 copy: no score of a unit query changes by more."""
    if not len(rows):
        return 0.0
    return float(np.linalg.norm(rows - narrow.astype(np.float32), axis=1).max())


def _read(run: Run, source: AerialSource | None, candidates: Candidates) -> Iterator[_Tiles]:
    """Yield the candidates batch by batch, in order of their ids; the next batch is read meanwhile."""
    batch = run.config.build.batch_size
    parts = [slice(first, first + batch) for first in range(0, len(candidates.ids), batch)]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_read_batch, run, source, candidates, parts[0])
        for part in parts[1:]:
            tiles, ahead = ahead.result(), reader.submit(_read_batch, run, source, candidates, part)
            yield tiles
        yield ahead.result()


def _read_batch(run: Run, source: AerialSource | None, candidates: Candidates, rows: slice) -> _Tiles:
    covered = candidates.covered[rows]
    has, size_px = np.zeros(len(covered), bool), run.config.tile.size_px
    if source is None or not covered.any():
        return _Tiles(rows, has, np.empty((0, size_px, size_px, 3), np.uint8))
    lat, lon = s2.cell_centers(candidates.ids[rows][covered])
    pixels, mask = read_crops(source, lat, lon, size_m=run.config.tile.size_m, size_px=size_px, description=None)
    enough = mask.mean(axis=(1, 2)) >= run.config.build.min_imagery_share
    has[covered] = enough
    return _Tiles(rows, has, pixels[enough])


def _encode(run: Run, pixels: npt.NDArray[np.uint8]) -> Float32:
    """Return the aerial embeddings of tiles, (M, D) float32 of unit length."""
    if run.aerial is None or not len(pixels):
        return np.empty((0, run.config.model.dim), np.float32)
    device = choose_device(run.config.training.device)
    encoder = run.aerial.to(device)
    with torch.inference_mode(), autocast(run.config.training.precision, device):
        return np.asarray(encoder(torch.from_numpy(pixels).to(device)).float().cpu().numpy())
