"""What the results are made of: sizes, seeds, and configuration overrides. `FULL` is docs/results.md, `QUICK` a rehearsal."""

from dataclasses import dataclass
from typing import Any

ALONE = ("loss.query_prototype=0", "loss.aerial_prototype=0", "loss.query_cell=0", "loss.symmetric=true")


@dataclass(frozen=True)
class Ablation:
    """One change of the configuration.

    Attributes:
        group: what is varied.
        name: the value, as the table shows it.
        overrides: of training, `a.b=c`.
        build: of the build alone; a training with the same `overrides` is shared.
        cost: of its training, relative to the base.
    """

    group: str
    name: str
    overrides: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    cost: float = 1.0

    @property
    def slug(self) -> str:
        """The stage's name."""
        text = f"{self.group} {self.name}".lower()
        return "ablation-" + "".join(letter if letter.isalnum() or letter == "." else "-" for letter in text)


@dataclass(frozen=True)
class Plan:
    """Sizes of everything.

    Attributes:
        worlds: keyword arguments of `worlds.render` by name.
        epochs: of every system.
        overrides: of the benchmark's configuration, for every training.
        ablation_photos, ablation_epochs: of every ablation, in the middle part of the region.
        ablations: what is varied.
        grown_share: share of the held-out square's photos that the database grows by; the others test it.
    """

    name: str
    worlds: dict[str, dict[str, Any]]
    epochs: int
    overrides: tuple[str, ...]
    ablation_photos: int
    ablation_epochs: int
    ablations: tuple[Ablation, ...]
    grown_share: float = 0.5


BASE = Ablation("base", "the benchmark's configuration")
ABLATIONS = (
    BASE,
    Ablation(
        "loss pairs",
        "without prototypes (photo-prototype and all that need it)",
        ("loss.query_prototype=0", "loss.query_cell=0"),
    ),
    Ablation("loss pairs", "without photo-tile", ("loss.query_aerial=0",)),
    Ablation("loss pairs", "without tile-prototype", ("loss.aerial_prototype=0",)),
    Ablation("loss pairs", "the paper's three, weights 1, 1, 0.5", ("loss.query_cell=0", "loss.aerial_prototype=0.5")),
    Ablation("loss", "softmax, scale 10", ("loss.scale=10",)),
    Ablation("loss", "softmax, scale 40", ("loss.scale=40",)),
    Ablation("loss", "multi-similarity, alpha 2, beta 50, lambda 0.5", ("loss.kind=multi_similarity",)),
    Ablation("loss", "multi-similarity, alpha 10", ("loss.kind=multi_similarity", "loss.alpha=10")),
    Ablation("loss", "multi-similarity, beta 20", ("loss.kind=multi_similarity", "loss.beta=20")),
    Ablation("loss", "multi-similarity, lambda 0.2", ("loss.kind=multi_similarity", "loss.threshold=0.2")),
    Ablation(
        "prototype labels",
        "own cell only (no interpolation, copied upsampling)",
        ("model.interpolation_radius_cells=0",),
    ),
    Ablation("prototype labels", "haversine-smoothed (PIGEON)", ("loss.prototype_labels=haversine",)),
    Ablation("levels", "prototypes 14", ("levels.prototype=14",)),
    Ablation("levels", "prototypes 16", ("levels.prototype=16",)),
    Ablation("levels", "prototypes 17, cells 17", ("levels.prototype=17", "levels.cell=17")),
    Ablation("levels", "cells 15", ("levels.cell=15",)),
    Ablation("levels", "cells 17", ("levels.cell=17",)),
    Ablation("tile", "77 m", ("tile.size_m=77",)),
    Ablation("tile", "308 m", ("tile.size_m=308",)),
    Ablation("tile", "80 pixels", ("tile.size_px=80",), cost=2.0),
    Ablation("tile", "77, 154, 308, 616 m (Fervers)", ("tile.size_m=77", "tile.scales=[1, 2, 4, 8]"), cost=2.3),
    Ablation("aerial alone", "symmetric InfoNCE", ALONE),
    Ablation(
        "aerial alone",
        "four scales of 77 m (Fervers)",
        (*ALONE, "tile.size_m=77", "tile.scales=[1, 2, 4, 8]"),
        cost=2.3,
    ),
    Ablation("tile movement", "no rotation", ("augmentation.tile_rotation_deg=0",)),
    Ablation("tile movement", "no translation", ("augmentation.tile_translation_m=0",)),
    Ablation("tile movement", "neither", ("augmentation.tile_rotation_deg=0", "augmentation.tile_translation_m=0")),
    Ablation("dimension", "32", ("model.dim=32",)),
    Ablation("dimension", "256", ("model.dim=256",)),
    Ablation("photos per place", "1", ("training.photos_per_place=1",), cost=1.4),
    Ablation(
        "photos per place",
        "1, two thirds of the epochs (as long a training)",
        ("training.photos_per_place=1", "training.epochs=4"),
    ),
    Ablation("photos per place", "4", ("training.photos_per_place=4",), cost=0.8),
    Ablation("aggregation", "mean", ("model.ground.aggregation.name=mean", "model.aerial.aggregation.name=mean")),
    Ablation(
        "aggregation",
        "optimal transport (SALAD)",
        ("model.ground.aggregation.name=optimal_transport", "model.aerial.aggregation.name=optimal_transport"),
        cost=1.3,
    ),
    Ablation("negatives", "no random negatives", ("training.random_tiles=0",), cost=0.8),
    Ablation("negatives", "64 random negatives", ("training.random_tiles=64",), cost=1.5),
    Ablation("seed", "1 instead of 0: what chance alone does", ("training.seed=1",)),
    Ablation("build", "copied from the parent", build=("build.upsampling=copy",), cost=0.1),
    Ablation("build", "no imputed prototypes", build=("build.impute=false",), cost=0.1),
    Ablation("build", "no aerial smoothing", build=("build.aerial_smoothing_cells=0",), cost=0.1),
    Ablation("build", "kappa 1, other factors fitted", build=("build.kappa=1",), cost=0.1),
)

FULL = Plan(
    name="full",
    worlds={
        "region": {"size_km": 8.0, "photos": 52_000, "seed": 11, "coast": True, "survey": "benchmark"},
        "south": {"size_km": 4.0, "photos": 1500, "seed": 23, "look": "south"},
        "elsewhere": {"size_km": 2.0, "photos": 1200, "seed": 101},
        "elsewhere-south": {"size_km": 1.6, "photos": 600, "seed": 31, "look": "south"},
        "elsewhere-test": {"size_km": 2.0, "photos": 1200, "seed": 202},
    },
    epochs=10,
    overrides=(),
    ablation_photos=4000,
    ablation_epochs=6,
    ablations=ABLATIONS,
)

QUICK = Plan(
    name="quick",
    worlds={
        "region": {"size_km": 2.4, "photos": 1300, "seed": 11, "coast": True, "survey": "benchmark"},
        "south": {"size_km": 0.8, "photos": 60, "seed": 23, "look": "south"},
        "elsewhere": {"size_km": 0.6, "photos": 80, "seed": 101},
        "elsewhere-south": {"size_km": 0.6, "photos": 40, "seed": 31, "look": "south"},
        "elsewhere-test": {"size_km": 0.6, "photos": 80, "seed": 202},
    },
    epochs=2,
    overrides=("model.dim=32",),
    ablation_photos=300,
    ablation_epochs=2,
    ablations=(BASE, ABLATIONS[3], ABLATIONS[-3]),
)
