"""Rows of the page's tables, out of what the stages returned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import ablations as measured
from experiments.plan import BASE, Plan

Values = Mapping[str, Any]
# Where each row of the systems' table comes from: the part, and the system within it.
SOURCES = (
    ("hybrid (cell codes)", "main", "hybrid"),
    ("prototypes only (proxy classification)", "main", "prototypes"),
    ("aerial only (cross-view retrieval), of the hybrid's training", "main", "aerial"),
    ("aerial only, trained alone, symmetric InfoNCE", "aerial-infonce", "hybrid"),
    ("aerial only, trained alone, four scales of 77 to 616 m (Fervers)", "aerial-scales", "hybrid"),
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
    elif part == "hierarchy":
        return (parts.get("hierarchy") or {}).get(area)
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


def ablations(plan: Plan, parts: Values, folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return one row an ablation, with its difference from the base on the same photos."""
    rows = []
    for ablation in plan.ablations:
        found = parts.get(ablation.slug)
        if found is None:
            continue
        row = {
            "group": ablation.group,
            "name": ablation.name,
            "overrides": [*ablation.overrides, *ablation.build],
            "recall": found["recall"],
            "bytes": found["bytes"],
        }
        if ablation is not BASE and BASE.slug in folders:
            for area in ("same", "cross"):
                difference, interval = measured.compared(folders[ablation.slug], folders[BASE.slug], area=area)
                row[f"{area}_difference"], row[f"{area}_interval_95"] = difference, list(interval)
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
