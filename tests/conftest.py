"""One small rendered world with its photo table, run and database, made once for all tests that need a whole chain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellcode import build, config, ingest, simulate, train
from cellcode.config import Config
from cellcode.database import Database
from cellcode.files import locked
from cellcode.geography import Region, s2
from cellcode.http import client
from cellcode.integrity import DIGEST, _digest, describe
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.whole import Prototypes
from cellcode.photos import PhotoTable, SplitRule
from cellcode.runs import CellFacts, Run, Validation
from cellcode.simulation import Simulation

CONFIGS = Path(__file__).parent.parent / "configs"
MANIFESTS = ("run.json", "manifest.json", "state.json", "shards.json", "counts.json")


@pytest.fixture(autouse=True)
def no_host_is_refusing() -> None:
    """Forget waits that servers of earlier tests required: a later server may get the same port."""
    client._refusing.clear()


def reseal(folder: Path, **changes: Any) -> None:
    """Change keys of a manifest and describe the files again: what a test changed looks as if it had been written so."""
    path = next(folder / name for name in MANIFESTS if (folder / name).is_file())
    manifest = json.loads(path.read_text(encoding="utf-8")) | changes
    if "files" in manifest:
        manifest["files"] = describe(folder, [name for name in manifest["files"] if (folder / name).is_file()])
    path.write_text(json.dumps(manifest | {DIGEST: _digest(manifest)}), encoding="utf-8")


def unseal(folder: Path, version: int, *keys: str) -> None:
    """Make a manifest that of an earlier version, which had no digest and none of the further keys."""
    path = next(folder / name for name in MANIFESTS if (folder / name).is_file())
    manifest = json.loads(path.read_text(encoding="utf-8")) | {"version": version}
    left = {key: value for key, value in manifest.items() if key not in (DIGEST, *keys)}
    path.write_text(json.dumps(left), encoding="utf-8")


@contextmanager
def locked_elsewhere(path: Path, lock: Callable[[Path], AbstractContextManager[None]] = locked) -> Iterator[None]:
    """Let another thread hold the lock of a file or folder, which is to others as another process is."""
    with ThreadPoolExecutor(1) as pool:
        held = lock(path)
        pool.submit(held.__enter__).result()
        try:
            yield
        finally:
            pool.submit(held.__exit__, None, None, None).result()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small spend more time waiting for a second thread than computing; on a busy machine a hundredfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(tmp_path_factory.mktemp("town"), size_km=1.0, photos=400, seed=3)


@pytest.fixture(scope="session")
def town_photos(town: Simulation) -> PhotoTable:
    return ingest(town.photos_dir, out=town.out / "table", split=SplitRule(kind="date"))


@pytest.fixture(scope="session")
def town_config() -> Config:
    small = ["training.epochs=4", "training.batch_size=32", "training.random_tiles=8", "model.dim=32"]
    return config.load(CONFIGS / "demo.yaml", [*small, "validation.share=0.15", "validation.withheld_share=0.2"])


@pytest.fixture(scope="session")
def town_run(town: Simulation, town_photos: PhotoTable, town_config: Config) -> Run:
    return train(town_config, town_photos, town.aerial_path, out=town.out / "run")


@pytest.fixture(scope="session")
def town_cells(town: Simulation, town_run: Run) -> Database:
    return build(town_run, town.aerial_path, out=town.out / "town.cells")


@pytest.fixture(scope="session")
def wide_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody trained: prototypes that resemble their neighbours', photos that resemble the code of their place.

    Some cells of the area have no prototype.
    """
    rng = np.random.default_rng(5)
    settings = config.parse(
        {
            "name": "wide",
            "tile": {"size_m": 150, "size_px": 32},
            "model": {
                "dim": 32,
                "ground": {"aggregation": {"name": "gem"}},
                "aerial": {"aggregation": {"name": "gem"}},
            },
            "machine": {"precision": "float32"},
            "build": {"first_stage_min_cells": 2000, "kappa": 0.7},
        }
    )
    ids = Region.bbox(3.0, 52.0, 3.22, 52.1).cells(15)
    holes = s2.cell_ids(np.array([52.051, 52.045]), np.array([3.096, 3.118]), 14)
    ids = ids[(rng.random(len(ids)) > 0.03) & ~np.isin(s2.parents(ids, 14), holes)]
    table = rng.standard_normal((len(ids), 32)) * 0.9 ** np.arange(32)
    for row in range(1, len(ids)):  # autoregressive along the Hilbert curve
        table[row] = 0.9 * table[row - 1] + np.sqrt(1 - 0.9**2) * table[row]
    torch.manual_seed(0)
    prototypes = Prototypes(ids, 32, settings.model.interpolation_radius_cells)
    ground, aerial = (Encoder(each, 32).eval() for each in (settings.model.ground, settings.model.aerial))
    lat, lon = s2.cell_centers(ids[rng.integers(0, len(ids), 450)])
    lat, lon = lat + rng.uniform(-1e-3, 1e-3, 450), lon + rng.uniform(-1e-3, 1e-3, 450)
    with torch.no_grad():
        prototypes.weight.copy_(torch.from_numpy(table))
        own = prototypes.interpolate(*prototypes.neighbours(lat, lon)).numpy()
    queries = own + 0.12 * rng.standard_normal(own.shape)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    days = np.datetime64("2024-03-01", "ms") + rng.integers(0, 50, 450) * np.timedelta64(1, "D")
    return Run(
        folder=tmp_path_factory.mktemp("wide") / "run",
        config=settings,
        ground=ground,
        aerial=aerial,
        prototypes=prototypes,
        facts=CellFacts.of_photos(lat, lon, days, 16),
        validation=Validation(lat, lon, queries),
        manifest={
            "licences": ["CC0-1.0"],
            "attributions": ["nobody"],
            "bounds": [3.0, 52.0, 3.22, 52.1],
            "training_photos": 450,
        },
    ).save()


@pytest.fixture(scope="session")
def wide_cells(wide_run: Run) -> Database:
    """About 10,000 cells with prototypes alone, searched in two stages over their parents."""
    region = Region.bbox(3.0, 52.0, 3.22, 52.1)
    out = wide_run.folder.with_name("wide.cells")
    return build(wide_run, None, region, out=out, overrides=["build.first_stage=parents"])
