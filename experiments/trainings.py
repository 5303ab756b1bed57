"""Trainings of the benchmark, each the work of a stage."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cellcode import config as configuration
from cellcode.aerial import open_source
from cellcode.config import Config
from cellcode.geography import Region
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.training import train
from experiments import hierarchical
from experiments.worlds import AERIAL, cropped, parts

RUN, CLASSES, IMAGERY = "run", "classes", "imagery"
MIDDLE = (0.25, 0.375, 0.75, 0.875)  # west, south, east, north of the ablations' part, as shares of the region's bounds


def benchmark_config(overrides: list[str]) -> Config:
    """Return configs/benchmark.yaml with overrides."""
    return configuration.load("benchmark", overrides)


def arguments(overrides: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """Return the arguments of a training's stage: the overrides, and a digest of all that they resolve to."""
    values = benchmark_config(list(overrides)).model_dump(mode="json", exclude={"build", "evaluation"})
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    return {"overrides": list(overrides), "digest": digest, **more}


def settings() -> str:
    """Return a digest of what builds and evaluations are configured by; trainings do not depend on it."""
    values = benchmark_config([]).model_dump(mode="json", include={"build", "evaluation"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def trained(folder: Path) -> Run:
    """Open the run of a training's stage, with the settings of builds and evaluations that hold now."""
    run, now = Run.load(folder / RUN), benchmark_config([])
    return replace(run, config=run.config.model_copy(update={"build": now.build, "evaluation": now.evaluation}))


def system(folder: Path, needs: dict[str, Path], *, overrides: list[str], digest: str, imagery: bool) -> dict[str, Any]:
    """Train on all photos of the benchmark region."""
    learning = parts(needs["region"]).learning
    return fit(folder, learning, needs["region"] / AERIAL if imagery else None, overrides)


def ablation(
    folder: Path, needs: dict[str, Path], *, overrides: list[str], digest: str, photos: int, seed: int = 0
) -> dict[str, Any]:
    """Train on some photos of the region's middle."""
    learning = some(cropped(parts(needs["region"]).learning, middle(needs["region"])), photos, seed)
    return fit(folder, learning, needs["region"] / AERIAL, overrides)


def classifier(
    folder: Path, needs: dict[str, Path], *, overrides: list[str], digest: str, levels: list[int]
) -> dict[str, Any]:
    """Train the hierarchical classification on all photos of the benchmark region."""
    made = hierarchical.train(benchmark_config(overrides), parts(needs["region"]).learning, tuple(levels))
    made.save(folder / CLASSES)
    return {"levels": levels, "bytes": made.bytes}


def middle(world: Path) -> Region:
    """Return the part of the region that ablations train and test in; it holds the held-out square."""
    west, south, east, north = open_source(world / AERIAL).bounds
    width, height = east - west, north - south
    return Region.bbox(
        west + MIDDLE[0] * width, south + MIDDLE[1] * height, west + MIDDLE[2] * width, south + MIDDLE[3] * height
    )


def some(table: PhotoTable, count: int, seed: int) -> PhotoTable:
    """Return at most `count` training photos, at random, with as large a share of the validation photos."""
    training = table.split == "train"
    share = min(1.0, count / max(training.sum(), 1))
    rng = np.random.default_rng([seed, 40])
    rows = [rng.permutation(np.flatnonzero(mask)) for mask in (training, ~training)]
    validation = max(round(share * len(rows[1])), min(len(rows[1]), 300))
    return table.select(np.sort(np.concatenate([rows[0][: round(share * len(rows[0]))], rows[1][:validation]])))


def fit(folder: Path, learning: PhotoTable, aerial: Path | None, overrides: list[str]) -> dict[str, Any]:
    """Train, going on from a checkpoint if there is one."""
    config = benchmark_config(overrides)
    resume = (folder / RUN / "checkpoint").is_dir()
    cache = aerial.parent / IMAGERY if aerial is not None else None
    made = train(config, learning, aerial, out=folder / RUN, resume=resume, imagery_cache=cache)
    return {
        "run": made.identity,
        "photos": int(made.manifest["training_photos"]),
        "prototypes": made.manifest["prototypes"],
    }
