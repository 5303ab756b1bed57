"""The stages that everything is measured on: worlds, and trainings on them."""

from dataclasses import dataclass

from cellcode.config import Config
from cellcode.simulation import simulate
from experiments import benchmark_survey, trainings, worlds
from experiments.plan import ALONE, BASE, TRANSPORT, Ablation, Plan
from experiments.stages import Stage, code_digest

LEVELS = (12, 14, 15)  # of the hierarchical classification
WORLD_VERSION = getattr(simulate, "WORLD_VERSION", 1)  # of what the renderer draws


@dataclass(frozen=True)
class System:
    """A training on the whole region.

    Attributes:
        overrides: of the benchmark's configuration.
        imagery: trained with tiles.
        cost: of an epoch, relative to the hybrid's.
        build: overrides of the build.
        repeated: trained with every seed of the plan, not with the first alone.
    """

    overrides: tuple[str, ...] = ()
    imagery: bool = True
    cost: float = 1.0
    build: tuple[str, ...] = ()
    repeated: bool = False


def _half_tile() -> tuple[str, ...]:
    """Four views, half as wide and of half as many pixels as a tile: they cost what one tile costs."""
    tile = trainings.benchmark_config([]).tile
    size_px = max(16, tile.size_px // 2)
    return f"tile.size_m={tile.size_m / 2:g}", f"tile.size_px={size_px}", "tile.scales=[1, 2, 4, 8]"


SYSTEMS = {
    "hybrid": System(repeated=True),
    "prototypes": System(
        ("loss.query_aerial=0", "loss.aerial_prototype=0", "loss.query_cell=0"), imagery=False, cost=0.6, repeated=True
    ),
    "aerial": System(ALONE, repeated=True),
    "aerial-scales": System((*ALONE, *_half_tile()), cost=1.4),
    "haversine": System(("loss.prototype_labels=haversine",), imagery=False, cost=0.6),
    # As far as the paper is known. The weights of its pairs and how it fits kappa are not: here kappa is that of the photos in
    # cells with a prototype, and `measures.plain_sum` gives every term that a cell has this one weight.
    "paper": System(
        ("loss.kind=multi_similarity", "loss.query_cell=0", "loss.aerial_prototype=0.5", "training.random_tiles=0", *TRANSPORT),
        cost=1.3,
        build=(
            "build.upsampling=copy", "build.impute=false", "build.aerial_smoothing_cells=0", "build.unvisited_weight=0",
        ),
    ),
}  # fmt: skip


def repeats(plan: Plan, system: str) -> dict[str, int]:
    """Return the trainings of a system, the one with the first seed under its own name, and the seed of each."""
    first, *others = plan.seeds
    more = {f"{system}-seed-{seed}": seed for seed in others if SYSTEMS[system].repeated}
    return {system: first} | more


def world_stages(plan: Plan) -> dict[str, Stage]:
    """Worlds by name."""
    version = {"world_version": WORLD_VERSION, "survey_digest": code_digest(benchmark_survey)}
    return {
        name: Stage(name, worlds.render, values | version, alone=True, cost=5 + values["photos"] / 60)
        for name, values in plan.worlds.items()
    }


def system_stages(plan: Plan, region: Stage) -> dict[str, Stage]:
    """Trainings on the whole region by system, and by seed where it is repeated."""
    stages = {}
    for name, system in SYSTEMS.items():
        for repeat, seed in repeats(plan, name).items():
            more = (f"training.epochs={plan.epochs}", *plan.overrides, f"training.seed={seed}", *system.overrides)
            stages[repeat] = Stage(
                f"train-{repeat}",
                trainings.system,
                trainings.arguments(more, imagery=system.imagery),
                (region,),
                cost=seconds(plan, plan.epochs * system.cost),
            )
    stages["hierarchy"] = Stage(
        "train-hierarchy",
        trainings.classifier,
        trainings.arguments((f"training.epochs={plan.epochs}", *plan.overrides), levels=list(LEVELS)),
        (region,),
        cost=seconds(plan, 0.6 * plan.epochs),
    )
    return stages


def seconds(plan: Plan, epochs: float, photos: float | None = None) -> float:
    """Guess how long a training of so many (hybrid's) epochs takes on one core; of all training photos if none are given."""
    config = trainings.benchmark_config(list(plan.overrides))
    pixels = config.photo.width_px * config.photo.height_px + config.tile.size_px**2
    return 15 + (photos or 0.8 * plan.worlds["region"]["photos"]) * epochs * pixels / 4.2e6


def ablation_settings(plan: Plan) -> tuple[str, ...]:
    """Overrides of every training in the region's middle."""
    return (f"training.epochs={plan.ablation_epochs}", *plan.overrides)


def distinct(plan: Plan) -> tuple[Ablation, ...]:
    """Return the plan's ablations but those that are the base under another name, with this configuration of the benchmark."""

    def resolved(ablation: Ablation) -> Config:
        return trainings.benchmark_config([*ablation_settings(plan), *ablation.overrides, *ablation.build])

    base = resolved(BASE)
    return tuple(each for each in plan.ablations if each is BASE or resolved(each) != base)


def ablation_stages(plan: Plan, region: Stage, ablations: tuple[Ablation, ...]) -> dict[str, Stage]:
    """Return the training of each ablation by its slug; ablations that resolve to one configuration share one."""
    made: dict[tuple[str, int], Stage] = {}
    stages = {}
    for ablation in ablations:
        photos = ablation.photos or plan.ablation_photos
        arguments = trainings.arguments((*ablation_settings(plan), *ablation.overrides), photos=photos)
        same = arguments["digest"], photos
        if same not in made:
            name = "base" if ablation is BASE else ablation.slug
            cost = seconds(plan, plan.ablation_epochs * ablation.cost, photos)
            made[same] = Stage(f"train-{name}", trainings.ablation, arguments, (region,), cost=cost)
        stages[ablation.slug] = made[same]
    return stages
