from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from cellcode.geography import Region, s2
from cellcode.index.codeset import CodeSet
from cellcode.index.quantise import int8_step, to_int8
from cellcode.types import Float16, Float32, Float64, Ids


@dataclass(frozen=True)
class World:
    """Cells whose codes resemble those of their neighbours, and photos that resemble the code of their cell.

    Attributes:
        codes: of cells of level 16, some parents of which are incomplete.
        parents: (N,) of level 15.
        tuning, checking: (V, D) float32, photos.
    """

    codes: CodeSet
    parents: Ids
    tuning: Float32
    checking: Float32

    @property
    def exact(self) -> Float16:
        return np.asarray(self.codes.exact[:])

    def scores(self, queries: Float32) -> Float64:
        return queries.astype(np.float64) @ self.exact.astype(np.float64).T


def make(dim: int = 32) -> World:
    rng = np.random.default_rng(5)
    ids = Region.bbox(3.0, 52.0, 3.22, 52.1).cells(16)
    ids = ids[rng.random(len(ids)) > 0.05]
    spectrum = 0.9 ** np.arange(dim)
    fresh = rng.standard_normal((len(ids), dim)) * spectrum
    codes = np.zeros_like(fresh)
    before = np.zeros(dim)
    for row, each in enumerate(fresh):  # autoregressive along the Hilbert curve
        before = codes[row] = 0.9 * before + np.sqrt(1 - 0.9**2) * each
    codes += 0.3 * rng.standard_normal(codes.shape) * spectrum
    narrow = (codes / np.linalg.norm(codes, axis=1, keepdims=True) * 1.4).astype(np.float16)
    own = narrow[rng.integers(0, len(ids), 300)].astype(np.float64)
    photos = own + 0.25 * rng.standard_normal(own.shape)
    photos = (photos / np.linalg.norm(photos, axis=1, keepdims=True)).astype(np.float32)
    step = int8_step(float(np.abs(narrow).max()))
    coarse, error = to_int8(narrow, step)
    code_set = CodeSet(ids, narrow, coarse, step, error * (1 + 1e-6), 1.41)
    return World(code_set, s2.parents(ids, 15), photos[::2], photos[1::2])


@pytest.fixture(scope="session")
def world() -> World:
    return make()
