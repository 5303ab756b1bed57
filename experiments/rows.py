"""Rows of the page's tables, out of what the stages returned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import ablations as measured
from experiments import scaling
from experiments import seeds as repeated
from experiments.plan import BASE, Plan
from experiments.recipe import distinct, repeats

Values = Mapping[str, Any]
# Where each row of the systems' table comes from: the part, and the system within it.
SOURCES = (
    ("hybrid (cell codes)", "main", "hybrid"),
    ("prototypes only (proxy classification)", "main", "prototypes"),
    ("aerial only (cross-view retrieval), of the hybrid's training", "main", "aerial"),
    ("the paper, as far as it is known: three pairs, multi-similarity, SALAD, plain sum, parent copy", "paper", ""),
    ("prototypes only, trained alone", "prototypes", "hybrid"),
    ("aerial only, trained alone, symmetric InfoNCE", "aerial", "hybrid"),
    (
        "aerial only, trained alone, four scales from half a tile to four tiles wide (Fervers)",
        "aerial-scales",
        "hybrid",
    ),
    ("prototypes only, haversine-smoothed labels (PIGEON), trained without imagery", "haversine", "hybrid"),
    ("hierarchical softmax over S2 levels 12, 14, 15", "hierarchy", ""),
    ("image retrieval over all training photos", "main", "image_retrieval"),
    ("nearest training photo (oracle)", "main", "nearest_photo"),
    ("nearest cell (oracle)", "main", "nearest_cell"),
    ("chance", "main", "chance"),
)


def systems(parts: Values, area: str) -> list[dict[str, Any]]:
    """Return the rows of the systems' table of an area, "same" or "cross"."""
    rows = []
    for title, part, system in SOURCES:
        found = _system(parts, area, part, system)
        if found is not None:
            rows.append(
                {"system": title, **{key: value for key, value in found.items() if key not in ("slices", "by")}}
            )
    return rows


def _system(parts: Values, area: str, part: str, system: str) -> dict[str, Any] | None:
    if part == "main":
        report = parts.get(area)
    elif not system:
        return (parts.get(part) or {}).get(area)
    else:
        report = (parts.get(part) or {}).get(area)
    return report["systems"].get(system) if report else None


def country(parts: Values) -> dict[str, Any] | None:
    """Return the row of the world of another look, with its chance."""
    report = parts.get("country")
    if report is None:
        return None
    return {
        "cells": report["cells"]["total"],
        "photos": report["photos"],
        "aerial": report["systems"]["hybrid"],
        "chance": report["systems"]["chance"],
    }


def slices(parts: Values) -> dict[str, Any] | None:
    """Return recall@1 within 200 m by slice and bin, for the systems of one database side by side."""
    report = parts.get("same")
    return report.get("by") if report else None


def seeds(plan: Plan, parts: Values, folders: Mapping[str, Path]) -> dict[str, Any] | None:
    """Return recall over the plan's seeds of the hybrid, its terms, and its parts trained alone; see `seeds.summary`."""
    made: dict[str, dict[str, list[Path]]] = {"same": {}, "cross": {}}
    for system in dict.fromkeys(training for training, _ in repeated.PARTS.values()):
        for name in repeats(plan, system):
            for area, tested in made.items():
                main = area if name == "hybrid" else name
                if main in folders:
                    folder = folders[main] if name == "hybrid" else folders[main] / area
                    tested.setdefault(system, []).append(folder)
    if not all("hybrid" in tested for tested in made.values()):
        return None
    bins = parts.get("same", {}).get("by", {}).get("spatial_density", {})
    quarter = repeated.sparsest_quarter(bins)
    found = {area: repeated.summary(repeated.load(each), quarter) for area, each in made.items()}
    confidence = [
        report["confidence"]
        for name in repeats(plan, "hybrid")
        if (report := parts.get("same") if name == "hybrid" else parts.get(name, {}).get("same"))
    ]
    strangers = [parts[name]["worlds"] for name in parts if name.startswith("strangers")]
    return {
        "count": {system: len(each) for system, each in made["same"].items()},
        **found,
        "ece": [each["ece"] for each in confidence],
        "auroc": {
            look: [worlds[look]["auroc"] for worlds in strangers] for look in (strangers[0] if strangers else {})
        },
        "sparsest_quarter": quarter,
    }


def ablations(plan: Plan, parts: Values, folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return one row an ablation, with its difference from the base on the same photos, and whether seeds differ as much."""
    rows: list[dict[str, Any]] = []
    spread = scaling.noise(parts)[0]
    base_seconds = parts.get(BASE.slug, {}).get("cpu_seconds", 0.0)
    for ablation in distinct(plan):
        found = parts.get(ablation.slug)
        if found is None:
            continue
        row = {
            "group": ablation.group,
            "name": ablation.name,
            "question": ablation.question,
            "overrides": [*ablation.overrides, *ablation.build],
            "recall": found["recall"],
            "bytes": found["bytes"],
            "cpu_seconds": found["cpu_seconds"],
        }
        if ablation is not BASE and BASE.slug in folders:
            for area in ("same", "cross"):
                difference, interval = measured.compared(folders[ablation.slug], folders[BASE.slug], area=area)
                row[f"{area}_difference"], row[f"{area}_interval_95"] = difference, list(interval)
            row["seed_range"], row["within_noise"] = spread, abs(row["same_difference"]) <= spread
            row["times_cpu"] = found["cpu_seconds"] / max(base_seconds, 0.1)
        rows.append(row)
    return rows


def together(parts: Values) -> dict[str, Any] | None:
    """Return rows by number of photos: of one place, and along a walk."""
    found = parts.get("together")
    if not found:
        return None
    counts = sorted({row["photos"] for rows in found.values() for row in rows})
    return {
        "groups": {kind: rows[0]["groups"] if rows else 0 for kind, rows in found.items()},
        "rows": [
            {
                "photos": count,
                **{kind: next((row for row in rows if row["photos"] == count), None) for kind, rows in found.items()},
            }
            for count in counts
        ],
    }
