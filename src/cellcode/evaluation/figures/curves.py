"""Curves: error, density, kappa."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from cellcode.database.building.fusion import fuse
from cellcode.evaluation.figures import style
from cellcode.evaluation.figures.material import CannotDrawError, Material
from cellcode.evaluation.figures.style import grid, new, styled
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
    for result in material.results:
        if result.name == "chance":
            continue
        share = np.arange(1, len(result.error_m) + 1) / len(result.error_m)
        axes.plot(
            np.maximum(np.sort(result.error_m), 1), 100 * share, style.STYLES.get(result.name, "-"),
            color=style.COLOURS.get(result.name, style.PURPLE), linewidth=2.2, label=style.NAMES.get(result.name, result.name),
        )  # fmt: skip
    axes.axvline(material.radius_m, color=style.GREY, linewidth=0.9)
    axes.text(
        material.radius_m * 0.94, 97, f"{material.radius_m:g} m", color=style.GREY, ha="right", va="top", rotation=90
    )
    axes.set_xscale("log")
    axes.set_xlim(left=min(material.values["radii_m"]) / 10)
    axes.set_xlabel("error of the first answer (m)")
    axes.set_ylabel("photos within it (%)")
    axes.set_ylim(0, 100)
    axes.set_title("How far the first answer is off")
    grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    return figure


@styled
def density(material: Material) -> Figure:
    """Draw recall@1 against how many training photos, and of how many dates, the photo's cell has."""
    panels = [
        ("spatial_density", "photos", f"training photos in the level-{_level(material)} cell"),
        ("temporal_density", "date", f"training dates in the level-{_level(material)} cell"),
    ]
    panels = [panel for panel in panels if len(material.values["by"].get(panel[0], {})) > 1]
    if not panels:
        raise CannotDrawError("all tested photos are of cells of one density")
    figure = new(5.0, style.WIDTH_IN + 2 if len(panels) > 1 else style.WIDTH_IN)
    for column, (name, _, label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), column + 1)
        bins = material.values["by"][name]
        place = np.arange(len(bins))
        for system in DENSITY_SYSTEMS:
            if system not in material.values["systems"]:
                continue
            found = [each["systems"][system] for each in bins.values()]
            low, high = np.array([each["interval_95"]["1"] for each in found]).T
            axes.fill_between(place, 100 * low, 100 * high, color=style.COLOURS[system], alpha=0.18, linewidth=0)
            axes.plot(
                place, [100 * each["recall"]["1"] for each in found], style.STYLES[system], color=style.COLOURS[system],
                marker=style.MARKERS[system], markersize=7, linewidth=2.2, label=style.NAMES[system],
            )  # fmt: skip
        short = [key.replace(" photos", "").replace(" photo", "").replace(" or more", "+") for key in bins]
        short = [key.replace(" dates", "").replace(" date", "").replace(" to ", "–") for key in short]
        axes.set_xticks(place, [f"{key}\n({each['photos']})" for key, each in zip(short, bins.values(), strict=True)])
        axes.set_xlabel(f"{label}\n(tested photos in brackets)")
        axes.set_ylim(bottom=0)
        grid(axes)
        if not column:
            axes.set_ylabel(f"recall@1 within {material.radius_m:g} m (%)")
    figure.suptitle("Recall by training photos and dates nearby (bands: 95 % intervals)", x=0.01, ha="left")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


@styled
def kappa(material: Material) -> Figure:
    """Draw recall@1 against the weight of the prototypes in the sum, on tested photos; the fitted weight is marked."""
    curves, photos = kappa_curves(material)
    fitted = material.database.calibration.kappa
    figure = new(4.6)
    axes = figure.add_subplot()
    looks = {"all": (style.BLACK, "-", "o"), "with": (style.BLUE, "--", "s"), "without": (style.GREEN, "-.", "^")}
    for name, recall in curves.items():
        colour, line, marker = looks[name]
        label = "all photos" if name == "all" else f"in cells {name} training photos"
        axes.plot(KAPPAS, 100 * recall, line, color=colour, marker=marker, linewidth=2.2, label=label)
    axes.axvline(fitted, color=style.VERMILLION, linewidth=2)
    axes.annotate(
        f"fitted: {fitted:.2g}", (fitted, 0), (6, 6), xycoords=("data", "axes fraction"), textcoords="offset points",
        color=style.VERMILLION, va="bottom",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(KAPPAS[::2], [f"{each:g}" for each in KAPPAS[::2]])
    axes.set_xlabel("kappa, weight of the prototype beside the aerial embedding")
    axes.set_ylabel(f"recall@1 within {material.radius_m:g} m (%)")
    axes.set_ylim(bottom=0)
    axes.set_title(f"How the weight of the prototypes matters ({photos} tested photos)")
    grid(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def kappa_curves(material: Material) -> tuple[dict[str, Float64], int]:
    """Return recall@1 within the middle radius at each of KAPPAS, of codes fused anew, and how many photos it is of.

    Photos are sampled where the region is large. By group: all, those in cells with training photos, those without.
    """
    database = material.database
    aerial, prototypes = database.terms()
    facts = database.facts
    if aerial is None or prototypes is None:
        raise CannotDrawError("kappa weighs two terms, and the database keeps one or none")
    most = int(np.clip(MOST_SCORES / len(database.ids), 100, 3000))
    rows = np.sort(np.random.default_rng(0).permutation(len(material.table))[:most])
    queries = material.queries[rows]
    truth = (material.table.lat_deg[rows], material.table.lon_deg[rows])
    seen = material.seen[rows]
    hits = []
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


def _level(material: Material) -> int:
    return int(material.values["levels"]["prototype"])
