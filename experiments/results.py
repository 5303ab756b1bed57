"""All of docs/results.md, from nothing: stages, then the page."""

import logging
from pathlib import Path
from typing import Any

from cellcode.errors import CellcodeError
from experiments import ablations, calibrations, campus, measures, page, trainings
from experiments.plan import BASE, FULL, QUICK, Plan
from experiments.recipe import SYSTEMS, ablation_settings, ablation_stage, seconds, system_stages, world_stages
from experiments.stages import Done, Stage
from experiments.stages import run as run_stages

logger = logging.getLogger(__name__)


def run(
    out: Path | str, docs: Path | str, *, quick: bool = False, campus_photos: Path | str | None = None
) -> dict[str, Any]:
    """Make everything that results.md shows; what has been made already is not made again.

    Args:
        out: folder of the stages: worlds, runs, databases, reports.
        docs: folder that receives results.md, results.json and figures/.
        quick: a rehearsal in minutes, of numbers that mean nothing.
        campus_photos: folder with the photos.csv of a real campus; None leaves its tables out.

    Raises:
        CellcodeError: a stage failed. The page is written all the same, without it.
    """
    plan, out, docs = QUICK if quick else FULL, Path(out), Path(docs)
    stages = all_stages(plan, Path(campus_photos) if campus_photos is not None else None)
    done = run_stages(list(stages.values()), out)
    values = page.collect(plan, {name: done[stage.name] for name, stage in stages.items()}, done)
    page.write(values, {name: each.folder for name, each in done.items() if isinstance(each, Done)}, docs)
    failed = {name: reason for name, reason in done.items() if isinstance(reason, str)}
    logger.info("%d stages, %d failed; %s written", len(done) - len(failed), len(failed), docs / "results.md")
    if failed:
        name, reason = next(iter(failed.items()))
        raise CellcodeError(
            f"{len(failed)} of {len(done)} stages failed (the page is written without them); the first: {name}: {reason}"
        )
    return values


def all_stages(plan: Plan, campus_photos: Path | None) -> dict[str, Stage]:
    """Return the stages that the page reads, by the name it knows them by."""
    made = world_stages(plan)
    region, trained = made["region"], system_stages(plan, made["region"])
    outside = (made["elsewhere"], made["elsewhere-south"])
    now = {"settings": trainings.settings()}
    built = {
        name: Stage(
            f"build-{name}",
            measures.database,
            {"training": f"train-{name}", **now},
            (region, *outside, trained[name]),
            cost=40,
        )
        for name in SYSTEMS
    }
    main = {"built": "build-hybrid"}
    stages = {
        "same": Stage(
            "same-area", measures.same_area, main, (region, built["hybrid"], made["elsewhere-test"]), cost=120
        ),
        "cross": Stage("cross-area", measures.cross_area, main, (region, built["hybrid"]), cost=60),
        "country": Stage(
            "other-country",
            measures.other_country,
            {"training": "train-hybrid", **now},
            (made["south"], trained["hybrid"]),
        ),
        "strangers": Stage(
            "strangers",
            measures.strangers,
            main,
            (region, built["hybrid"], made["elsewhere-test"], made["south"]),
            cost=60,
        ),
        "calibrations": Stage("calibrations", calibrations.measure, main, (region, built["hybrid"], trained["hybrid"])),
        "together": Stage("together", measures.several, main, (region, built["hybrid"])),
        "hierarchy": Stage("hierarchy", measures.classified, now, (region, trained["hierarchy"])),
    }
    for name in SYSTEMS:
        if name != "hybrid":
            stages[name] = Stage(
                f"areas-{name}", measures.both_areas, {"built": f"build-{name}"}, (region, built[name])
            )
    for ablation in plan.ablations:
        training = ablation_stage(plan, region, ablation)
        stages[ablation.slug] = Stage(
            ablation.slug,
            ablations.measure,
            {"training": training.name, "overrides": list(ablation.build), **now},
            (region, training),
            cost=15,
        )
    stages["growing"] = growing_stage(plan, region)
    if campus_photos is not None:
        stages |= campus_stages(campus_photos)
    return stages


def growing_stage(plan: Plan, region: Stage) -> Stage:
    """Growing beside training again, both from the base ablation."""
    base = ablation_stage(plan, region, BASE)
    retrained = Stage(
        "train-retrained",
        ablations.retrain,
        trainings.arguments(ablation_settings(plan), photos=plan.ablation_photos, share=plan.grown_share),
        (region,),
        cost=seconds(plan, plan.ablation_epochs, plan.ablation_photos + 500),
    )
    return Stage(
        "growing",
        ablations.growing,
        {"share": plan.grown_share, "settings": trainings.settings()},
        (region, base, retrained),
        version=2,
        cost=40,
    )


def campus_stages(photos: Path) -> dict[str, Stage]:
    """The campus under each condition; a changed list of photos is another campus."""
    digest = campus.digest(photos)
    return {
        f"campus {condition}": Stage(
            "campus-" + condition.replace(" ", "-"),
            campus.measure,
            {"source": str(photos.resolve()), "condition": condition, "digest": digest},
            cost=500,
        )
        for condition in campus.CONDITIONS
    }
