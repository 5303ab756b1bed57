"""What more buys: recall against one axis of the configuration at a time, fitted and extrapolated.

Recall along an axis is fitted by `a - b x^-c`, a power law that saturates, with a at most 1. It has three parameters and a few
points, so that many curves fit: the interval of an extrapolation is over resamples of the test photos' positions and of the
points, each of which is moved by what chance does to a training (the deviation of the base over seeds), all fitted anew,
exponent included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from cellcode.types import Float64, Int64
from experiments import trainings
from experiments.ablations import HITS, RADIUS_M, SYSTEMS
from experiments.plan import BASE, SEEDS, Ablation, Plan
from experiments.recipe import ablation_settings

RESAMPLES = 500
EXPONENTS = np.linspace(0.1, 2.0, 20)
EXTRAPOLATED = 2, 4  # multiples of an axis' largest value


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Attributes:
        title: of its panel, with the unit.
        more: what a doubling is called.
        keys: of the configuration, all multiplied; none: the number of photos.
        multiple: values are rounded to multiples of it.
        others: overrides of every point.
        pixels: the time of a step grows with the square.
        extrapolate: more of it is better in the end, and can be had.
    """

    title: str
    more: str
    keys: tuple[str, ...] = ()
    multiple: float = 1
    others: tuple[str, ...] = ()
    pixels: bool = False
    extrapolate: bool = True

    def values(self, plan: Plan, factor: float) -> list[float]:
        """Return the values of the keys at a multiple of the benchmark configuration's."""
        config = trainings.benchmark_config([*ablation_settings(plan)])
        own: list[Any] = [reduce(getattr, key.split("."), config) for key in self.keys]
        base = [float(value) for value in own or [plan.ablation_photos]]
        return [max(1, round(value * factor / self.multiple)) * self.multiple for value in base]


AXES = {
    "photo-pixels": Axis(
        "photo width (pixels)", "photos of twice the width and height", ("photo.width_px", "photo.height_px"), 8, pixels=True
    ),
    "tile-pixels": Axis("tile width (pixels)", "tiles of twice as many pixels a side", ("tile.size_px",), 8, pixels=True),
    "tile-metres": Axis("tile width (m)", "tiles twice as wide on the ground", ("tile.size_m",), extrapolate=False),
    "epochs": Axis("epochs", "twice the epochs", ("training.epochs",)),
    "epochs-multi-similarity": Axis(
        "epochs, multi-similarity", "twice the epochs with multi-similarity", ("training.epochs",),
        others=("loss.kind=multi_similarity",),
    ),
    "dimension": Axis("embedding dimension", "twice the dimension of embeddings", ("model.dim",)),
    "photos": Axis("training photos", "twice the photos"),
}  # fmt: skip


def point(plan: Plan, name: str, factor: float) -> Ablation:
    """Return a point of an axis: the base itself where nothing differs."""
    axis = AXES[name]
    values = axis.values(plan, factor)
    if factor == 1 and not axis.others:
        return BASE
    cost = factor**2 / 2 + 0.5 if axis.pixels else factor if "training.epochs" in axis.keys else 1.0
    return Ablation(
        f"scale {name}",
        f"{values[0]:g}",
        (*axis.others, *(f"{key}={value:g}" for key, value in zip(axis.keys, values, strict=False))),
        cost=cost,
        photos=None if axis.keys else int(values[0]),
    )


def points(plan: Plan) -> tuple[Ablation, ...]:
    """Return the points of all axes but the base."""
    found = (point(plan, name, factor) for name, factors in plan.scaling.items() for factor in factors)
    return tuple({each.slug: each for each in found if each is not BASE}.values())


def table(plan: Plan, parts: Mapping[str, Any], folders: Mapping[str, Path]) -> dict[str, Any] | None:
    """Return the points and the fit of every axis; of the finished ones.

    Args:
        parts: what the stages of ablations and points returned, by slug.
        folders: of these stages.
    """
    deviation = noise(parts)[1]
    axes = []
    for name, factors in plan.scaling.items():
        axis = AXES[name]
        points_of: dict[float, tuple[Ablation, Any]] = {}
        for factor in sorted(factors, key=lambda factor: abs(factor - 1)):
            ablation = point(plan, name, factor)
            if (measured := parts.get(ablation.slug)) is not None:
                value = measured["photos"] if not axis.keys else axis.values(plan, factor)[0]
                points_of.setdefault(float(value), (ablation, measured))  # roundings may meet
        found = [(value, *points_of[value]) for value in sorted(points_of)]
        rows = [
            {
                "value": value,
                "base": ablation is BASE,
                "cpu_seconds": measured["cpu_seconds"],
                "photos": measured["photos"],
                "recall": {system: row["by_radius"] for system, row in _systems(measured).items()},
                "cross": {system: row["recall"] for system, row in _systems(measured, "cross").items()},
            }
            for value, ablation, measured in found
        ]
        if rows:
            hits = np.stack([_hits(folders[ablation.slug]) for _, ablation, _ in found])
            made = _extrapolated(rows, hits, _places(folders[found[0][1].slug]), deviation) if len(rows) > 2 else {}
            row = {
                "name": name,
                "title": axis.title,
                "more": axis.more,
                "extrapolate": axis.extrapolate,
                "points": rows,
            }
            axes.append(row | made)
    return {"axes": axes, "seed_deviation": deviation, "answer": answer(axes)} if axes else None


def noise(parts: Mapping[str, Any]) -> tuple[float, float]:
    """Return the range and the deviation of the base's recall over seeds; 0 with one seed."""
    found = [parts[each.slug]["recall"]["same"]["hybrid"]["recall"] for each in (BASE, *SEEDS) if each.slug in parts]
    return (float(np.ptp(found)), float(np.std(found, ddof=1))) if len(found) > 1 else (0.0, 0.0)


def fit(x: Float64, recall: Float64) -> tuple[Float64, Float64, Float64]:
    """Fit a - b x^-c, b not negative and a at most 1, by least squares to each row of recall, (R, P), at x, (P,)."""
    best = np.full(len(recall), np.inf)
    a, b, c = np.zeros(len(recall)), np.zeros(len(recall)), np.zeros(len(recall))
    for exponent in EXPONENTS:
        z = x**-exponent
        slope = ((recall - recall.mean(axis=1, keepdims=True)) * (z - z.mean())).sum(axis=1) / (
            (z - z.mean()) ** 2
        ).sum()
        fall = np.maximum(-slope, 0)
        top = recall.mean(axis=1) + fall * z.mean()
        high = top > 1
        fall, top = np.where(high, ((1 - recall) @ z) / (z @ z), fall), np.where(high, 1.0, top)
        loss = ((top[:, None] - fall[:, None] * z - recall) ** 2).sum(axis=1)
        better = loss < best
        best = np.where(better, loss, best)
        a, b, c = np.where(better, top, a), np.where(better, fall, b), np.where(better, exponent, c)
    return a, b, c


def _extrapolated(rows: list[dict[str, Any]], hits: Float64, place: Int64, deviation: float) -> dict[str, Any]:
    """Return the fit of the hybrid's recall, and recall and CPU seconds at multiples of the largest value, (P, N) hits."""
    x = np.array([row["value"] for row in rows])
    x, cpu = x / x[0], np.array([max(row["cpu_seconds"], 0.1) for row in rows])
    place = np.unique(place, return_inverse=True)[1]
    places = int(place.max()) + 1
    rng = np.random.default_rng([0, 22])
    weights = rng.multinomial(places, np.full(places, 1 / places), RESAMPLES).astype(np.float64)
    sums = np.stack([np.bincount(place, row, places) for row in hits], axis=1)
    means = weights @ sums / (weights @ np.bincount(place, minlength=places))[:, None]
    curves = fit(x, np.concatenate([hits.mean(axis=1)[None], means + rng.normal(0, deviation, means.shape)]))
    pace = max(float(np.polyfit(np.log(x), np.log(cpu), 1)[0]), 0.0)
    further = []
    for factor in EXTRAPOLATED:
        recall = np.clip(curves[0] - curves[1] * (x[-1] * factor) ** -curves[2], 0, 1)
        ends = np.quantile(recall[1:], [0.025, 0.975])
        value, cpu_seconds = factor * rows[-1]["value"], round(float(cpu[-1]) * factor**pace, 1)
        further.append(
            {
                "factor": factor,
                "value": value,
                "recall": float(recall[0]),
                "interval_95": ends.tolist(),
                "cpu_seconds": cpu_seconds,
            }
        )
    a, b, c = (float(each[0]) for each in curves)
    return {"fit": {"a": a, "b": b, "c": c, "cpu_exponent": pace}, "extrapolated": further}


def curve(axis: Mapping[str, Any], x: Float64) -> Float64:
    """Return the fitted recall of an axis at values x."""
    found = axis["fit"]
    return np.asarray(found["a"] - found["b"] * (x / axis["points"][0]["value"]) ** -found["c"])


def answer(axes: list[dict[str, Any]]) -> list[str]:
    """Return sentences: what a doubling from the base buys and costs along each axis, and where the curves lead."""
    steps = []
    for axis in axes:
        for before, after in zip(axis["points"], axis["points"][1:], strict=False):
            if before["base"]:
                factor = after["value"] / before["value"]
                gain = (_recall(after) - _recall(before)) / np.log2(factor)
                price = (after["cpu_seconds"] / max(before["cpu_seconds"], 0.1)) ** (1 / np.log2(factor))
                steps.append((gain, price, axis["more"]))
    steps.sort(key=lambda step: -step[0])
    said = [f"{more}: {100 * gain:+.1f} points for {price:.1f} times the CPU time" for gain, price, more in steps]
    sentences = [f"From the base, per doubling: {'; '.join(said)}."] if said else []
    for axis in axes:
        if axis["extrapolate"] and "fit" in axis:
            far = axis["extrapolated"][-1]
            low, high = far["interval_95"]
            sentences.append(
                f"Along {axis['title']} the fitted curve leads to {100 * far['recall']:.0f} % ({100 * low:.0f} to "
                f"{100 * high:.0f}) at {far['value']:g}, four times the most that was tried, for about "
                f"{far['cpu_seconds'] / 60:.0f} CPU minutes of training: an extrapolation, not a measurement."
            )
    return sentences


def catches_up(scaling: Mapping[str, Any] | None) -> str | None:
    """Say how multi-similarity stands against softmax as epochs grow, and whether it has caught up."""
    axes = {axis["name"]: axis["points"] for axis in (scaling or {"axes": []})["axes"]}
    softmax = {point["value"]: point for point in axes.get("epochs", [])}
    other = {point["value"]: point for point in axes.get("epochs-multi-similarity", [])}
    if not (both := sorted(softmax.keys() & other.keys())):
        return None
    behind = [_recall(softmax[epochs]) - _recall(other[epochs]) for epochs in both]
    limit = max((scaling or {}).get("seed_deviation", 0.0) * 2, 0.005)
    said = ", ".join(f"{100 * gap:+.1f} (epochs: {epochs:g})" for epochs, gap in zip(both, behind, strict=True))
    level = [epochs for number, epochs in enumerate(both) if max(behind[number:]) <= limit]
    end = (
        f"from {level[0]:g} epochs on it is level or ahead"
        if level
        else f"it has not caught up with {both[-1]:g} epochs"
    )
    return f"Points by which softmax is ahead of multi-similarity: {said}; within {100 * limit:.1f} points {end}."


def _recall(row: Mapping[str, Any]) -> float:
    return float(row["recall"]["hybrid"][f"{RADIUS_M:g}"]["all"])


def _systems(measured: Mapping[str, Any], area: str = "same") -> dict[str, Any]:
    return {system: measured["recall"][area][system] for system in SYSTEMS if system in measured["recall"][area]}


def _hits(folder: Path) -> Float64:
    with np.load(folder / HITS) as kept:
        return np.asarray(kept[f"same hybrid {RADIUS_M:g}"])


def _places(folder: Path) -> Int64:
    with np.load(folder / HITS) as kept:
        return np.asarray(kept["same place"])
