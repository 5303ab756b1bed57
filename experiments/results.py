"""All of docs/results.md, from nothing: stages, then the page."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellcode.errors import CellcodeError, UsageError
from cellcode.files import write_json
from experiments import ablations, calibrations, campus, measures, page, running, scaling, stages, trainings
from experiments.plan import BASE, PLANS, Plan
from experiments.recipe import (
    SYSTEMS,
    ablation_settings,
    ablation_stages,
    distinct,
    repeats,
    seconds,
    system_stages,
    world_stages,
)
from experiments.stages import Done, Stage

logger = logging.getLogger(__name__)
PLAN = "plan.json"
NOT_ASKED = "not made yet, and not asked for (--only)"


def run(
    out: Path | str,
    docs: Path | str,
    *,
    plan: str = "full",
    campus_photos: Path | str | None = None,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Make everything that results.md shows; what has been made already is not made again.

    Args:
        out: folder of the stages: worlds, runs, databases, reports.
        docs: folder that receives results.md, results.json and figures/. With `only`, while stages are missing, `out` does.
        plan: "full", or "quick", a rehearsal in minutes, of numbers that mean nothing.
        campus_photos: folder with the photos.csv of a real campus; None leaves its tables out.
        only: names, beginnings of names or patterns of stages: these and what they need are made, no others.

    Returns:
        What results.json holds, and beside it `parts`, all that the stages returned, and `page`, the file written.

    Raises:
        UsageError: a stage or plan that does not exist, or `out` holds another plan.
        CellcodeError: a stage failed. The page is written all the same, without it.
    """
    out, docs = Path(out), Path(docs)
    made = all_stages(chosen := known(plan), Path(campus_photos) if campus_photos is not None else None)
    everything = stages.with_needs([*made.values()])
    wanted = stages.select(everything, only) if only else [*everything.values()]
    _claim(out, plan)
    done = running.run(wanted, out)
    for name, stage in everything.items():
        if name not in done:
            done[name] = stages.finished(stage, out) or NOT_ASKED
    missing = {name: reason for name, reason in done.items() if isinstance(reason, str)}
    failed = {name: reason for name, reason in missing.items() if reason != NOT_ASKED}
    where = docs if not only or not missing else out
    values = page.collect(chosen, {name: done[stage.name] for name, stage in made.items()}, done)
    page.write(values, {name: each.folder for name, each in done.items() if isinstance(each, Done)}, where)
    values["page"] = where / page.PAGE
    logger.info(
        "%d stages are there, %d are missing; %s written", len(done) - len(missing), len(missing), where / page.PAGE
    )
    if failed:
        raise CellcodeError(
            f"{len(failed)} of {len(done)} stages failed, as the page says; the same command retries them: "
            + "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        )
    return values


def table(out: Path | str, *, plan: str = "full", campus_photos: Path | str | None = None) -> str:
    """Return a line for each stage: its state, the seconds that it took last, and why it is stale; and what is left to do."""
    out = Path(out)
    made = all_stages(known(plan), Path(campus_photos) if campus_photos is not None else None)
    last_s, lines, left = stages.read(out / running.SECONDS), [], []
    for stage in stages.with_needs([*made.values()]).values():
        kind, why = stages.state(stage, out)
        took = f"{last_s[stage.name]:.0f} s" if stage.name in last_s else f"(about {stage.cost:.0f} s)"
        lines.append(f"{stage.name:<52} {kind:<12} {took:>14}  {why}".rstrip())
        left += [] if kind == "done" else [stage]
    return "\n".join([*lines, running.estimate(left, last_s, os.cpu_count() or 1)])


def known(plan: str) -> Plan:
    """Return a plan by its name."""
    if plan not in PLANS:
        raise UsageError(f"there is no plan {plan!r}; valid options: {', '.join(PLANS)}")
    return PLANS[plan]


def _claim(out: Path, plan: str) -> None:
    """Keep the plan that a folder is of: another one's stages of the same names would replace its own."""
    before = stages.read(out / PLAN).get("plan", plan)
    if before != plan:
        raise UsageError(f"{out} holds the stages of the plan {before!r}; choose another --out for the plan {plan!r}")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / PLAN, {"plan": plan})


def all_stages(plan: Plan, campus_photos: Path | None) -> dict[str, Stage]:
    """Return the stages that the page reads, by the name it knows them by."""
    made = world_stages(plan)
    region, trained = made["region"], system_stages(plan, made["region"])
    outside = (made["elsewhere"], made["elsewhere-south"])
    now = {"settings": trainings.settings()}
    built = {
        repeat: Stage(
            f"build-{repeat}",
            measures.database,
            {"training": f"train-{repeat}", "overrides": list(system.build), **now},
            (region, *outside, trained[repeat]),
            cost=40,
        )
        for name, system in SYSTEMS.items()
        for repeat in repeats(plan, name)
    }
    main = {"built": "build-hybrid"}
    found = {
        "same": Stage(
            "same-area", measures.same_area, main, (region, built["hybrid"], made["elsewhere-test"]), cost=120
        ),
        "cross": Stage("cross-area", measures.cross_area, main, (region, built["hybrid"]), version=2, cost=60),
        "country": Stage(
            "other-country",
            measures.other_country,
            {"training": "train-hybrid", **now},
            (made["south"], trained["hybrid"]),
        ),
        "calibrations": Stage("calibrations", calibrations.measure, main, (region, built["hybrid"], trained["hybrid"])),
        "together": Stage("together", measures.several, main, (region, built["hybrid"])),
        "hierarchy": Stage("hierarchy", measures.classified, now, (region, trained["hierarchy"])),
        "paper": Stage("areas-paper", measures.plain_sum, {"built": "build-paper"}, (region, built["paper"])),
    }
    for name in (each for each in built if each not in ("hybrid", "paper")):
        found[name] = Stage(
            f"areas-{name}", measures.both_areas, {"built": f"build-{name}"}, (region, built[name]), version=2, cost=60
        )
    for name in repeats(plan, "hybrid"):
        needs = (region, built[name], made["elsewhere-test"], made["south"])
        slug = name.replace("hybrid", "strangers")
        found[slug] = Stage(slug, measures.strangers, {"built": f"build-{name}"}, needs, cost=60)
    found |= middle_stages(plan, region)
    if campus_photos is not None:
        found |= campus_stages(campus_photos)
    return found


def middle_stages(plan: Plan, region: Stage) -> dict[str, Stage]:
    """Ablations and points of the scaling table, and growing: all in the middle of the region."""
    changes = (*distinct(plan), *scaling.points(plan))
    trained, now = ablation_stages(plan, region, changes), {"settings": trainings.settings()}
    found = {
        change.slug: Stage(
            change.slug,
            ablations.measure,
            {"training": trained[change.slug].name, "overrides": list(change.build), **now},
            (region, trained[change.slug]),
            version=2,
            cost=15,
        )
        for change in changes
    }
    retrained = Stage(
        "train-retrained",
        ablations.retrain,
        trainings.arguments(ablation_settings(plan), photos=plan.ablation_photos, share=plan.grown_share),
        (region,),
        cost=seconds(plan, plan.ablation_epochs, plan.ablation_photos + 500),
    )
    growing = {"share": plan.grown_share, **now}
    needs = (region, trained[BASE.slug], retrained)
    return found | {"growing": Stage("growing", ablations.growing, growing, needs, version=3, cost=40)}


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
