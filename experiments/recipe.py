"""The stages that everything is measured on: worlds, and trainings on them."""

from dataclasses import dataclass

from experiments import trainings, worlds
from experiments.plan import ALONE, Ablation, Plan
from experiments.stages import Stage

LEVELS = (12, 14, 15)  # of the hierarchical classification


@dataclass(frozen=True)
class System:
    """A training on the whole region.

    Attributes:
        overrides: of the benchmark's configuration.
        imagery: trained with tiles.
        cost: of an epoch, relative to the hybrid's.
    """

    overrides: tuple[str, ...] = ()
    imagery: bool = True
    cost: float = 1.0


SYSTEMS = {
    "hybrid": System(),
    "aerial-infonce": System(ALONE),
    # Four views of 32 pixels cost no more than one of 64 would.
    "aerial-scales": System((*ALONE, "tile.size_m=77", "tile.scales=[1, 2, 4, 8]", "tile.size_px=32"), cost=1.4),
    "haversine": System(("loss.prototype_labels=haversine",), imagery=False, cost=0.6),
}


def world_stages(plan: Plan) -> dict[str, Stage]:
    """Worlds by name."""
    return {
        name: Stage(name, worlds.render, values, alone=True, cost=5 + values["photos"] / 60)
        for name, values in plan.worlds.items()
    }


def system_stages(plan: Plan, region: Stage) -> dict[str, Stage]:
    """Trainings on the whole region by system."""
    stages = {}
    for name, system in SYSTEMS.items():
        settings = (f"training.epochs={plan.epochs}", *plan.overrides, *system.overrides)
        stages[name] = Stage(
            f"train-{name}",
            trainings.system,
            trainings.arguments(settings, imagery=system.imagery),
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


def seconds(plan: Plan, epochs: float, photos: int | None = None) -> float:
    """Guess how long a training of so many (hybrid's) epochs takes on one core; of all training photos if none are given."""
    return 15 + (photos or 0.8 * plan.worlds["region"]["photos"]) * epochs / 350


def ablation_settings(plan: Plan) -> tuple[str, ...]:
    """Overrides of every training in the region's middle."""
    return (f"training.epochs={plan.ablation_epochs}", *plan.overrides)


def ablation_stage(plan: Plan, region: Stage, ablation: Ablation) -> Stage:
    """Training of an ablation; those that differ in the build alone share one."""
    name = "base" if not ablation.overrides else ablation.slug
    return Stage(
        f"train-{name}",
        trainings.ablation,
        trainings.arguments((*ablation_settings(plan), *ablation.overrides), photos=plan.ablation_photos),
        (region,),
        cost=seconds(plan, plan.ablation_epochs * ablation.cost, plan.ablation_photos),
    )
