"""One small rendered world with its photo table, run and database, made once for all tests that need a whole chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cellcode import build, config, ingest, simulate, train
from cellcode.config import Config
from cellcode.database import Database
from cellcode.photos import PhotoTable, SplitRule
from cellcode.runs import Run
from cellcode.simulation import Simulation

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small spend more time waiting for a second thread than computing; on a busy machine a hundredfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate.run(tmp_path_factory.mktemp("town"), size_km=1.0, photos=400, seed=3)


@pytest.fixture(scope="session")
def town_photos(town: Simulation) -> PhotoTable:
    return ingest.folder(town.photos_dir, out=town.out / "table", split=SplitRule(kind="date"))


@pytest.fixture(scope="session")
def town_config() -> Config:
    small = ["training.epochs=4", "training.batch_size=32", "training.random_tiles=8", "model.dim=32"]
    return config.load(CONFIGS / "demo.yaml", [*small, "validation.share=0.15", "validation.withheld_share=0.2"])


@pytest.fixture(scope="session")
def town_run(town: Simulation, town_photos: PhotoTable, town_config: Config) -> Run:
    return train.run(town_config, town_photos, town.aerial_path, out=town.out / "run")


@pytest.fixture(scope="session")
def town_cells(town: Simulation, town_run: Run) -> Database:
    return build.run(town_run, town.aerial_path, out=town.out / "town.cells")
