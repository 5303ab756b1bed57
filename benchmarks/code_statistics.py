"""What a trained set of cell codes looks like in numbers: fitted once, saved, compared.

`fit` reduces a trained code set and its held-out photos to the figures that `benchmarks.code_field` needs to make sets
of any size; `describe` computes the figures a search depends on, the same way for trained and for generated sets.

`benchmarks/data/code_statistics.npz` was fitted to 3,995 codes (D = 256) trained on the rendered world and 1,793 of its
held-out photos; to make it again from another database:

    fit(ids, codes, lat_deg, lon_deg, queries).save(path)

with `ids.npy` and `codes.npy` of the database and the three arrays of the run's `validation.npz`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError
from cellcode.files import atomic_path
from cellcode.geography import s2
from cellcode.types import Bools, Float16, Float32, Float64, Ids, Int64

LAGS = (1, 2, 4, 8, 16, 32)  # cells
MIN_QUERIES = 100
MAX_RESIDUALS = 600  # of queries that are kept: generated queries draw from them
MIN_PAIRS = 100  # of cells at a lag; fewer say nothing, the correlation there counts as 0
_SAMPLE = 20_000  # cells from which `describe` takes means; quantiles of that many are good to 1 % of the distribution
_CHUNK = 1 << 15  # codes scored at once
_EAST, _NORTH = 1, 2  # columns of s2.edge_neighbors: the next cell along i, along j


@dataclass(frozen=True)
class CodeStatistics:
    """Statistics of a code set of D dimensions and of the queries that look for it.

    Components are coordinates along `basis`, in order of falling spread.

    Attributes:
        mean: the mean code, (D,) float32.
        basis: principal directions of the centred codes as columns, (D, D) float32.
        spread: standard deviation of the codes along each direction, (D,) float32.
        correlation: autocorrelation of each component at `LAGS` cells, mean of both grid axes, (D, L) float32.
        norms: quantiles of the codes' lengths at evenly spaced probabilities 0..1, (Q,) float32.
        query_mean: mean component of the queries, (D,) float32.
        query_gain: slope of a query's component over its true cell's (centred) component, (D,) float32.
        query_residuals: what gain and mean leave of some real queries, in components, (R, D) float16.
        true_cosine: median cosine of a real query and its true cell's code.
    """

    mean: Float32
    basis: Float32
    spread: Float32
    correlation: Float32
    norms: Float32
    query_mean: Float32
    query_gain: Float32
    query_residuals: Float16
    true_cosine: float

    @property
    def dim(self) -> int:
        """Length of a code."""
        return len(self.mean)

    def save(self, path: Path) -> None:
        """Write to an .npz file, atomically."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> CodeStatistics:
        """Read what `save` wrote. Raises InputError when the file is missing or is something else."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values = {field.name: arrays[field.name] for field in fields(cls)}
                return cls(**values | {"true_cosine": float(values["true_cosine"])})
        except FileNotFoundError:
            raise InputError(f"{path} does not exist") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} does not hold code statistics ({error}); fit them again") from None


def fit(
    ids: npt.ArrayLike, codes: npt.ArrayLike, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, queries: npt.ArrayLike
) -> CodeStatistics:
    """Fit the statistics of a trained code set.

    Args:
        ids: sorted cells of one level, (N,) uint64.
        codes: their codes, (N, D).
        lat_deg: latitudes of held-out photos, (V,); photos outside the cells are ignored.
        lon_deg: their longitudes, (V,).
        queries: their embeddings, (V, D), unit length.

    Raises InputError when there are too few cells (4 D), adjacent cells or photos (100) to estimate from.
    """
    ids, codes = np.asarray(ids, np.uint64), np.asarray(codes, np.float64)
    cells, dim = codes.shape
    if cells < 4 * dim:
        raise InputError(f"{cells} cells are too few for statistics of {dim} dimensions; give at least {4 * dim}")
    mean = codes.mean(axis=0)
    basis, spread = _principal(codes - mean)
    components = (codes - mean) @ basis

    rows, inside = _find(ids, s2.cell_ids(lat_deg, lon_deg, int(s2.levels(ids[:1])[0])))
    if np.count_nonzero(inside) < MIN_QUERIES:
        raise InputError(f"{np.count_nonzero(inside)} photos lie in the cells; give at least {MIN_QUERIES}")
    asked = np.asarray(queries, np.float64)[inside] @ basis
    true = components[rows[inside]]
    query_mean, centred = asked.mean(axis=0), true - true.mean(axis=0)
    gain = (centred * (asked - query_mean)).sum(axis=0) / np.maximum((centred**2).sum(axis=0), 1e-12)
    # The photos' cells are no fair sample of all cells. Their offset stays out of the mean: generated queries then have the
    # real queries' mean, and with it the real mean score, wherever their cells are drawn.
    own = codes[rows[inside]]
    cosines = (np.asarray(queries, np.float64)[inside] * own).sum(axis=1) / np.linalg.norm(own, axis=1)
    return CodeStatistics(
        mean=mean.astype(np.float32),
        basis=basis.astype(np.float32),
        spread=spread.astype(np.float32),
        correlation=_correlation(ids, components / spread),
        norms=np.quantile(np.linalg.norm(codes, axis=1), np.linspace(0, 1, 257)).astype(np.float32),
        query_mean=query_mean.astype(np.float32),
        query_gain=gain.astype(np.float32),
        query_residuals=_some(asked - query_mean - centred * gain).astype(np.float16),
        true_cosine=float(np.median(cosines)),
    )


def _some(rows: Float64) -> Float64:
    """Return at most MAX_RESIDUALS rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_RESIDUALS)).astype(np.int64)]


def describe(ids: npt.ArrayLike, codes: npt.NDArray[Any], queries: Float32, rows: npt.ArrayLike) -> dict[str, float]:
    """Return the figures by which a generated code set is compared with a trained one.

    Figures over cells come from at most 20,000 of them, figures of scores from all.

    Args:
        ids: sorted cells of one level, (N,) uint64.
        codes: their codes, (N, D) of any float type; may be a memory map.
        queries: embeddings, (B, D) float32.
        rows: the row of each query's true cell, (B,).
    """
    ids, rows = np.asarray(ids, np.uint64), np.asarray(rows, np.int64)
    sample = np.unique(np.linspace(0, ids.size - 1, min(ids.size, _SAMPLE)).astype(np.int64))
    some = np.asarray(codes[sample], np.float32)
    figures = _figures_of_codes(ids, codes, sample, some)
    basis, spread = _principal(some.astype(np.float64))
    energy = np.cumsum(spread**2) / (spread**2).sum()
    for count in (8, 32, 64, 128):
        figures[f"energy in first {count} components"] = float(energy[min(count, energy.size) - 1])
    figures["effective dimension"] = float((spread**2).sum() ** 2 / (spread**4).sum())
    figures["query energy in first 64 components"] = float(((queries @ basis[:, :64]) ** 2).sum() / (queries**2).sum())
    figures.update(_figures_of_scores(ids, codes, queries, rows))
    return figures


def _figures_of_codes(ids: Ids, codes: npt.NDArray[Any], sample: Int64, some: Float32) -> dict[str, float]:
    lengths = np.linalg.norm(some, axis=1)
    figures = _quantiles("code norm", lengths)
    centre = some.mean(axis=0)
    figures["mean code norm"] = float(np.linalg.norm(centre))
    variance = float(((some - centre) ** 2).sum(axis=1).mean())
    for lag, left, right in _pairs(ids, sample):
        if left.size == 0:
            continue
        here, there = some[left], np.asarray(codes[right], np.float32)
        if lag == 1:
            both = lengths[left] * np.linalg.norm(there, axis=1)
            cosine = (here * there).sum(axis=1) / both
            figures.update(_quantiles("neighbour cosine", cosine))
            level = int(s2.levels(ids[:1])[0]) - 1
            inside = s2.parents(ids[sample[left]], level) == s2.parents(ids[right], level)
            figures["mean neighbour cosine inside a parent"] = float(cosine[inside].mean())
            figures["mean neighbour cosine across parents"] = float(cosine[~inside].mean())
        figures[f"correlation at lag {lag}"] = float(((here - centre) * (there - centre)).sum(axis=1).mean() / variance)
    other = np.random.default_rng(0).permutation(len(some))
    figures.update(_quantiles("random cosine", (some * some[other]).sum(axis=1) / (lengths * lengths[other])))
    return figures


def _figures_of_scores(ids: Ids, codes: npt.NDArray[Any], queries: Float32, rows: Int64) -> dict[str, float]:
    own_codes = np.asarray(codes[rows], np.float32)
    own = (queries * own_codes).sum(axis=1)
    best = np.full((len(queries), 100), -np.inf, np.float32)  # the 100 best scores so far
    top, top_score = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    total = total_square = 0.0
    better = np.zeros(len(queries), np.int64)
    for first in range(0, ids.size, _CHUNK):
        scores = queries @ np.asarray(codes[first : first + _CHUNK], np.float32).T
        total += float(scores.sum(dtype=np.float64))
        total_square += float(np.square(scores).sum(dtype=np.float64))
        better += np.count_nonzero(scores > own[:, None] + 1e-5, axis=1)
        at = scores.argmax(axis=1)
        high = scores[np.arange(len(queries)), at]
        top = np.where(high > top_score, at + first, top)
        top_score = np.maximum(high, top_score)
        best = np.partition(np.concatenate([best, scores], axis=1), -100, axis=1)[:, -100:]
    mean = total / (len(queries) * ids.size)
    near = np.concatenate([ids[rows, None], s2.edge_neighbors(ids[rows])], axis=1) == ids[top, None]
    return (
        {"score mean": mean, "score sd": float(np.sqrt(total_square / (len(queries) * ids.size) - mean**2))}
        | _quantiles("best score", top_score)
        | _quantiles("100th score", best.min(axis=1))
        | _quantiles("true cell's score", own)
        | _quantiles("true cell's cosine", own / np.linalg.norm(own_codes, axis=1))
        | _quantiles("rank of true cell", better + 1.0)
        | {
            "true cell first": float((top == rows).mean()),
            "true cell or edge neighbour first": float(near.any(1).mean()),
        }
    )


def _quantiles(name: str, values: npt.NDArray[Any]) -> dict[str, float]:
    return {f"{name} {q} %": float(np.percentile(values, q)) for q in (5, 50, 95)}


def _principal(values: Float64) -> tuple[Float64, Float64]:
    """Return directions (D, D) and root mean squares (D,) of (N, D) values about zero, the largest first."""
    power, basis = np.linalg.eigh(values.T @ values / len(values))
    power = power[::-1]
    return basis[:, ::-1], np.sqrt(np.maximum(power, 1e-10 * power[0]))


def _find(ids: Ids, wanted: Ids) -> tuple[Int64, Bools]:
    """Return the row of each wanted cell and whether it is there."""
    rows = np.minimum(np.searchsorted(ids, wanted), ids.size - 1)
    return rows, ids[rows] == wanted


def _pairs(ids: Ids, sample: Int64) -> Iterator[tuple[int, Int64, Int64]]:
    """Yield each lag with the pairs of cells that far apart along a grid axis: place in `sample`, row of the other."""
    along = dict.fromkeys((_EAST, _NORTH), ids[sample])
    walked = 0
    for lag in LAGS:
        for _ in range(lag - walked):
            along = {axis: s2.edge_neighbors(cells)[:, axis] for axis, cells in along.items()}
        walked = lag
        found = [_find(ids, cells) for cells in along.values()]
        yield (
            lag,
            np.concatenate([np.flatnonzero(there) for _, there in found]),
            np.concatenate([row[there] for row, there in found]),
        )


def _correlation(ids: Ids, unit: Float64) -> Float32:
    """Return the autocorrelation of each column of (N, D) values of mean 0 and deviation 1 at `LAGS`, (D, L)."""
    result = np.zeros((unit.shape[1], len(LAGS)), np.float32)
    for column, (lag, left, right) in enumerate(_pairs(ids, np.arange(ids.size))):
        if left.size >= MIN_PAIRS:
            result[:, column] = (unit[left] * unit[right]).mean(axis=0)
        elif lag == 1:
            raise InputError(f"only {left.size} pairs of cells share an edge; give at least {MIN_PAIRS}")
    return result
