"""Curves and bars: error, density, kappa, and whether the confidence is true."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cellcode.database.building.fusion import fuse
from cellcode.evaluation.figures import canvas
from cellcode.evaluation.figures.canvas import CannotDrawError, Material, grid, new, styled
from cellcode.geography import distance, s2
from cellcode.types import Float64

KAPPAS = tuple(float(2.0**e) for e in np.arange(-3, 3.01, 0.5))
MOST_SCORES = 2e7  # photos x cells of the kappa curve
DENSITY_SYSTEMS = ("hybrid", "prototypes", "aerial")


@styled
def error_curves(material: Material) -> Figure:
    """Draw the share of photos whose first answer lies within a distance, against the distance."""
    figure = new(4.8)
    axes = figure.add_subplot()
    for result in (each for each in material.results if each.name != "chance"):
        name = result.name
        share = np.arange(1, len(result.error_m) + 1) / len(result.error_m)
        axes.plot(
            np.maximum(np.sort(result.error_m), 1), 100 * share, canvas.STYLES.get(name, "-"),
            color=canvas.COLOURS.get(name, canvas.PURPLE), linewidth=2.2, label=canvas.NAMES.get(name, name),
        )  # fmt: skip
    axes.axvline(material.radius_m, color=canvas.GREY, linewidth=0.9)
    axes.text(
        material.radius_m * 0.94, 97, f"{material.radius_m:g} m", color=canvas.GREY, ha="right", va="top", rotation=90
    )
    axes.set(xscale="log", xlim=(min(material.values["radii_m"]) / 10, None), ylim=(0, 100))
    axes.set(
        xlabel="error of the first answer (m)", ylabel="photos within it (%)", title="How far the first answer is off"
    )
    grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    return figure


@styled
def density(material: Material) -> Figure:
    """Draw recall@1 against how many training photos, and of how many dates, the photo's cell has."""
    level = material.values["levels"]["prototype"]
    panels = [
        (f"{kind}_density", f"training {what} in the level-{level} cell\n(tested photos in brackets)")
        for kind, what in (("spatial", "photos"), ("temporal", "dates"))
        if len(material.values["by"].get(f"{kind}_density", {})) > 1
    ]
    if not panels:
        raise CannotDrawError("all tested photos are of cells of one density")
    figure = new(5.0, canvas.WIDTH_IN + 2 if len(panels) > 1 else canvas.WIDTH_IN)
    for column, (name, label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), column + 1)
        bins = material.values["by"][name]
        place = np.arange(len(bins))
        for system in (each for each in DENSITY_SYSTEMS if each in material.values["systems"]):
            found = [each["systems"][system] for each in bins.values()]
            low, high = np.array([each["interval_95"]["1"] for each in found]).T
            axes.fill_between(place, 100 * low, 100 * high, color=canvas.COLOURS[system], alpha=0.18, linewidth=0)
            axes.plot(
                place, [100 * each["recall"]["1"] for each in found], canvas.STYLES[system], color=canvas.COLOURS[system],
                marker=canvas.MARKERS[system], markersize=7, linewidth=2.2, label=canvas.NAMES[system],
            )  # fmt: skip
        short = [re.sub(" (photo|date)s?", "", key).replace(" or more", "+").replace(" to ", "–") for key in bins]
        axes.set_xticks(place, [f"{key}\n({each['photos']})" for key, each in zip(short, bins.values(), strict=True)])
        axes.set(xlabel=label, ylim=(0, None), ylabel="" if column else f"recall@1 within {material.radius_m:g} m (%)")
        grid(axes)
    figure.suptitle("Recall by training photos and dates nearby (bands: 95 % intervals)", x=0.01, ha="left")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


@styled
def kappa(material: Material) -> Figure:
    """Draw recall@1 against the weight of the prototypes in the sum, on tested photos; the fitted weight is marked."""
    curves, photos = kappa_curves(material)
    fitted = material.database.calibration.kappa
    figure = new(4.6)
    axes = figure.add_subplot()
    looks = {"all": (canvas.BLACK, "-", "o"), "with": (canvas.BLUE, "--", "s"), "without": (canvas.GREEN, "-.", "^")}
    for name, recall in curves.items():
        colour, line, marker = looks[name]
        label = "all photos" if name == "all" else f"in cells {name} training photos"
        axes.plot(KAPPAS, 100 * recall, line, color=colour, marker=marker, linewidth=2.2, label=label)
    axes.axvline(fitted, color=canvas.VERMILLION, linewidth=2)
    axes.annotate(
        f"fitted: {fitted:.2g}", (fitted, 0), (6, 6), xycoords=("data", "axes fraction"), textcoords="offset points",
        color=canvas.VERMILLION, va="bottom",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(KAPPAS[::2], [f"{each:g}" for each in KAPPAS[::2]])
    axes.set(xlabel="kappa, weight of the prototype beside the aerial embedding", ylim=(0, None))
    axes.set_ylabel(f"recall@1 within {material.radius_m:g} m (%)")
    axes.set_title(f"How the weight of the prototypes matters ({photos} tested photos)")
    grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def kappa_curves(material: Material) -> tuple[dict[str, Float64], int]:
    """Return recall@1 within the middle radius at each of KAPPAS, of codes fused anew, and how many photos it is of.

    Photos are sampled where the region is large. By group: all, those in cells with training photos, those without.
    """
    database, facts = material.database, material.database.facts
    aerial, prototypes = database.terms()
    if aerial is None or prototypes is None:
        raise CannotDrawError("kappa weighs two terms, and the database keeps one or none")
    most = int(np.clip(MOST_SCORES / len(database.ids), 100, 3000))
    rows = np.sort(np.random.default_rng(0).permutation(len(material.table))[:most])
    queries, truth = material.queries[rows], (material.table.lat_deg[rows], material.table.lon_deg[rows])
    seen, hits = material.seen[rows], []
    for weight in KAPPAS:
        best, score = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf, np.float32)
        for first in range(0, len(database.ids), 65536):
            part = slice(first, first + 65536)
            codes = fuse(
                aerial[part], prototypes[part], facts.has_aerial[part], facts.has_prototype[part],
                replace(database.calibration, kappa=weight),
            )  # fmt: skip
            scores = queries @ codes.T
            here = scores.argmax(axis=1)
            value = scores[np.arange(len(rows)), here]
            best, score = np.where(value > score, first + here, best), np.maximum(value, score)
        hits.append(distance.haversine_m(*truth, *s2.cell_centers(database.ids[best])) <= material.radius_m)
    found = np.array(hits)
    groups = {"all": np.ones(len(rows), bool), "with": seen, "without": ~seen}
    return {name: found[:, mask].mean(axis=1) for name, mask in groups.items() if mask.any()}, len(rows)


@styled
def reliability(material: Material) -> Figure:
    """Draw how often answers of a probability are right, and how many photos have which."""
    found = material.values["confidence"]
    figure = new(6.2, 6.8)
    axes, below = figure.subplots(2, 1, height_ratios=(3.4, 1), sharex=True)
    axes.plot([0, 100], [0, 100], color=canvas.GREY, linewidth=1.2, label="exactly as promised")
    series = (
        (found, f"within {material.radius_m:g} m of the answer", canvas.BLACK, "o", "-"),
        (found["right_cell"], "in the answer's cell", canvas.BLUE, "s", "--"),
    )
    for values, label, colour, marker, line in series:
        predicted, observed = np.array([(each["predicted"], each["observed"]) for each in values["reliability"]]).T
        axes.plot(
            100 * predicted, 100 * observed, line, color=colour, marker=marker, markersize=7, linewidth=2,
            label=f"{label} (ECE {values['ece']:.3f})",
        )  # fmt: skip
    axes.set(ylabel="observed share (%)", xlim=(0, 100), ylim=(0, 100))
    axes.set_title(f"Does the stated probability come true? ({found['photos']} photos)")
    axes.legend(frameon=False, loc="upper left")
    grid(axes)
    stated = material.checked.stated
    bins = np.linspace(0, 100, 21)
    below.hist(100 * stated.near, bins, color=canvas.BLACK, histtype="step", linewidth=2)
    below.hist(100 * stated.probability, bins, color=canvas.BLUE, histtype="step", linewidth=2, linestyle="--")
    below.set(ylabel="photos", xlabel="stated probability (%); each point: a tenth of the photos")
    grid(below)
    return figure


@styled
def accuracy_against_coverage(material: Material) -> Figure:
    """Draw the accuracy of the answers that are left when the least sure ones are withheld."""
    curve = material.values["confidence"]["accuracy_against_coverage"]
    coverage, accuracy = (100 * np.array(curve[key]) for key in ("coverage", "accuracy"))
    figure = new(4.4)
    axes = figure.add_subplot()
    axes.plot(coverage, accuracy, color=canvas.BLACK, marker="o", linewidth=2.2, label="sorted by stated probability")
    best = np.minimum(100.0, accuracy[-1] / coverage * 100)
    axes.plot(coverage, best, ":", color=canvas.BLUE, linewidth=2, label="if confidence were perfect")
    axes.axhline(
        accuracy[-1], color=canvas.VERMILLION, linestyle="--", linewidth=1.6, label="if confidence meant nothing"
    )
    axes.set(xlabel="photos answered, surest first (%)", ylabel=f"right within {material.radius_m:g} m (%)")
    axes.set(xlim=(0, 101), ylim=(0, 103), title="Answering only when sure")
    axes.legend(frameon=False, loc="upper right")
    grid(axes)
    return figure


@styled
def radius_coverage(material: Material) -> Figure:
    """Draw the share of photos inside the 50 % and 90 % circles, by whether the cell has training photos."""
    coverage = material.values["confidence"]["coverage"]
    if coverage["all"]["50"] is None:
        raise CannotDrawError("the database was built with too few validation photos to have circles")
    names = {"all": "all", "with_training_photos": "with training\nphotos", "without_training_photos": "without"}
    figure = new(4.2)
    axes = figure.add_subplot()
    place = np.arange(len(coverage))
    for share, shift, colour, hatch in ((50, -0.2, canvas.SKY, ""), (90, 0.2, canvas.BLUE, "//")):
        values = [100 * each[str(share)] for each in coverage.values()]
        look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": f"{share} % circle"}
        bars, box = axes.bar(place + shift, values, 0.36, **look), {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.bar_label(bars, fmt="%.0f", label_type="center", bbox=box)
        axes.axhline(share, color=colour, linestyle="--", linewidth=1.6)
    axes.set_xticks(place, [names.get(name, name) for name in coverage])
    axes.set(ylabel="photos inside the circle (%)", ylim=(0, 105))
    axes.set_title("Do the circles hold what they promise? (dashed: the promise)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


@styled
def outside(material: Material) -> Figure:
    """Draw how photos of the region and out-of-region photos differ in the probability of being inside."""
    if material.out_of_region is None:
        raise CannotDrawError("no out-of-region photos were given")
    inside, others = material.checked.stated, material.out_of_region
    scale = 100.0 if (known := inside.inside_kind == "inside_probability") else 1.0
    ends = (0.0, 100.0) if known else (min(float(t.inside.min()) for t in (inside, others)),
                                       max(float(t.inside.max()) for t in (inside, others)))  # fmt: skip
    figure = new(4.2)
    axes = figure.add_subplot()
    _histogram(axes, scale * inside.inside, ends, canvas.BLUE, "", f"of the region ({len(inside.inside)})")
    _histogram(axes, scale * others.inside, ends, canvas.VERMILLION, "//", f"out of region ({len(others.inside)})")
    xlabel = "stated probability of being inside the region (%)" if known else "score of the best cell"
    axes.set(xlabel=xlabel, ylabel="photos (%)")
    axes.set_title(f"Photos of the region and others: AUROC {material.values['confidence']['auroc']:.3f}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    grid(axes)
    return figure


def _histogram(axes: Axes, values: Float64, ends: tuple[float, float], colour: str, hatch: str, label: str) -> None:
    axes.hist(values, np.linspace(*ends, 41).tolist(), weights=np.full(len(values), 100 / len(values)), color=colour,
              label=label, alpha=0.55, hatch=hatch, edgecolor=colour, histtype="stepfilled")  # fmt: skip
