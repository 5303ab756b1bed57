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
        question: what its row helps to answer; the page has a sentence for each question.
        photos: to train on; None: the plan's.
    """

    group: str
    name: str
    overrides: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    cost: float = 1.0
    question: str = ""
    photos: int | None = None

    @property
    def slug(self) -> str:
        """The stage's name."""
        text = f"{self.group} {self.name}".lower()
        text = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in text)
        return text if self.group.startswith("scale ") else f"ablation-{text}"


@dataclass(frozen=True)
class Plan:
    """Sizes of everything.

    Attributes:
        worlds: keyword arguments of `worlds.render` by name.
        epochs: of every system.
        seeds: `training.seed` of the hybrid and of its parts trained alone; the first is that of everything else.
        overrides: of the benchmark's configuration, for every training.
        ablation_photos, ablation_epochs: of every ablation, in the middle part of the region.
        ablations: what is varied.
        scaling: multiples of the benchmark configuration's value, along each axis of `scaling.AXES`.
        grown_share: share of the held-out square's photos that the database grows by; the others test it.
    """

    name: str
    worlds: dict[str, dict[str, Any]]
    epochs: int
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    ablation_photos: int
    ablation_epochs: int
    ablations: tuple[Ablation, ...]
    scaling: dict[str, tuple[float, ...]]
    grown_share: float = 0.5


BASE = Ablation("base", "the benchmark's configuration")
SEEDS = tuple(Ablation("seed", f"{seed}", (f"training.seed={seed}",)) for seed in (1, 2))
TRANSPORT = tuple(f"model.{side}.aggregation.name=optimal_transport" for side in ("ground", "aerial"))
MEAN = tuple(f"model.{side}.aggregation.name=mean" for side in ("ground", "aerial"))
ABLATIONS = (
    BASE,
    *SEEDS,
    Ablation(
        "loss pairs",
        "without prototypes (photo-prototype and all that need it)",
        ("loss.query_prototype=0", "loss.query_cell=0"),
    ),
    Ablation("loss pairs", "without photo-tile", ("loss.query_aerial=0",)),
    Ablation("loss pairs", "without tile-prototype", ("loss.aerial_prototype=0",)),
    Ablation("loss pairs", "the paper's three, weights 1, 1, 0.5", ("loss.query_cell=0", "loss.aerial_prototype=0.5")),
    *(
        Ablation(
            "loss pairs",
            f"photo-code {weight}",
            (f"loss.query_cell={weight}",),
            question="the weight of photo-code pairs",
        )
        for weight in ("0", "0.5", "1")
    ),
    Ablation("loss", "softmax, scale 10", ("loss.scale=10",)),
    Ablation("loss", "softmax, scale 40", ("loss.scale=40",)),
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
    Ablation("levels", "cells 17", ("levels.cell=17",)),
    *(
        Ablation("tile", f"{size} m", (f"tile.size_m={size}",), question="the width of a tile on the ground")
        for size in (77, 154, 308)
    ),
    Ablation("tile movement", "no rotation", ("augmentation.tile_rotation_deg=0",)),
    Ablation("tile movement", "no translation", ("augmentation.tile_translation_m=0",)),
    Ablation(
        "photos per place",
        "1",
        ("training.photos_per_place=1",),
        cost=1.4,
        question="one photo per place instead of two",
    ),
    Ablation(
        "aggregation",
        "optimal transport (SALAD)",
        TRANSPORT,
        cost=1.3,
        question="optimal transport (SALAD) instead of flatten",
    ),
    Ablation("aggregation", "mean", MEAN),
    Ablation("negatives", "no random negatives", ("training.random_tiles=0",), cost=0.8),
    Ablation("negatives", "64 random negatives", ("training.random_tiles=64",), cost=1.5),
    Ablation(
        "batches",
        "places drawn by the square root of their photos",
        ("training.sampling_exponent=0.5",),
        question="tempering (dense cells drawn less often)",
    ),
    Ablation(
        "batches",
        "hard batches, groups of 4",
        ("training.hard_group_size=4", "prototypes.mine_every_steps=100"),
        question="hard batches",
    ),
    Ablation(
        "prototypes",
        "row-wise Adam (a sharded table)",
        ("prototypes.table=sharded",),
        question="row-wise Adam for the prototypes",
    ),
    Ablation("build", "copied from the parent", build=("build.upsampling=copy",), cost=0.1),
    Ablation("build", "no imputed prototypes", build=("build.impute=false",), cost=0.1),
    Ablation(
        "build",
        "no aerial smoothing",
        build=("build.aerial_smoothing_cells=0",),
        cost=0.1,
        question="aerial embeddings averaged with those of the neighbours",
    ),
    Ablation("build", "kappa 1, other factors fitted", build=("build.kappa=1",), cost=0.1),
)
SCALING = {
    "photo-pixels": (0.5, 0.75, 1.0, 1.5),
    "tile-pixels": (0.5, 0.75, 1.0, 1.5),
    "tile-metres": (0.5, 1.0, 2.0),
    "epochs": (0.25, 0.5, 1.0, 2.0, 4.0),
    "epochs-multi-similarity": (0.25, 0.5, 1.0, 2.0, 4.0),
    "dimension": (0.25, 0.5, 1.0, 2.0),
    "photos": (0.25, 0.5, 1.0, 2.0),
}

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
    seeds=(0, 1, 2),
    overrides=(),
    ablation_photos=4000,
    ablation_epochs=6,
    ablations=ABLATIONS,
    scaling=SCALING,
)

QUICK = Plan(
    name="quick",
    worlds={
        "region": {"size_km": 2.4, "photos": 900, "seed": 11, "coast": True, "survey": "benchmark"},
        "south": {"size_km": 0.8, "photos": 60, "seed": 23, "look": "south"},
        "elsewhere": {"size_km": 0.6, "photos": 80, "seed": 101},
        "elsewhere-south": {"size_km": 0.6, "photos": 40, "seed": 31, "look": "south"},
        "elsewhere-test": {"size_km": 0.6, "photos": 80, "seed": 202},
    },
    epochs=1,
    seeds=(0, 1),
    overrides=("model.dim=32",),
    ablation_photos=300,
    ablation_epochs=2,
    ablations=(BASE, SEEDS[0], *(each for each in ABLATIONS if each.name in ("photo-code 0", "no aerial smoothing"))),
    scaling={"epochs": (0.5, 1.0), "epochs-multi-similarity": (0.5, 1.0)},
)
PLANS = {plan.name: plan for plan in (FULL, QUICK)}
