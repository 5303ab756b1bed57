"""Whether the confidence is true, as pictures."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cellcode.evaluation.figures.material import CannotDrawError, Material
from cellcode.evaluation.figures.style import BLACK, BLUE, GREY, SKY, VERMILLION, grid, new, styled
from cellcode.types import Float64


@styled
def reliability(material: Material) -> Figure:
    """Draw how often answers of a probability are right, and how many photos have which."""
    found = material.values["confidence"]
    figure = new(6.2, 6.8)
    axes, below = figure.subplots(2, 1, height_ratios=(3.4, 1), sharex=True)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1.2, label="exactly as promised")
    series = (
        (found, f"within {material.radius_m:g} m of the answer", BLACK, "o", "-"),
        (found["right_cell"], "in the answer's cell", BLUE, "s", "--"),
    )
    for values, label, colour, marker, line in series:
        predicted, observed = (
            np.array([each[key] for each in values["reliability"]]) for key in ("predicted", "observed")
        )
        axes.plot(
            100 * predicted, 100 * observed, line, color=colour, marker=marker, markersize=7, linewidth=2,
            label=f"{label} (ECE {values['ece']:.3f})",
        )  # fmt: skip
    axes.set_ylabel("observed share (%)")
    axes.set_title(f"Does the stated probability come true? ({found['photos']} photos)")
    axes.legend(frameon=False, loc="upper left")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    grid(axes)
    stated = material.checked.stated
    bins = np.linspace(0, 100, 21)
    below.hist(100 * stated.near, bins, color=BLACK, histtype="step", linewidth=2)
    below.hist(100 * stated.probability, bins, color=BLUE, histtype="step", linewidth=2, linestyle="--")
    below.set_ylabel("photos")
    below.set_xlabel("stated probability (%); each point: a tenth of the photos")
    grid(below)
    return figure


@styled
def accuracy_against_coverage(material: Material) -> Figure:
    """Draw the accuracy of the answers that are left when the least sure ones are withheld."""
    curve = material.values["confidence"]["accuracy_against_coverage"]
    coverage, accuracy = (100 * np.array(curve[key]) for key in ("coverage", "accuracy"))
    figure = new(4.4)
    axes = figure.add_subplot()
    axes.plot(coverage, accuracy, color=BLACK, marker="o", linewidth=2.2, label="sorted by stated probability")
    best = np.minimum(100.0, accuracy[-1] / coverage * 100)
    axes.plot(coverage, best, ":", color=BLUE, linewidth=2, label="if confidence were perfect")
    axes.axhline(accuracy[-1], color=VERMILLION, linestyle="--", linewidth=1.6, label="if confidence meant nothing")
    axes.set_xlabel("photos answered, surest first (%)")
    axes.set_ylabel(f"right within {material.radius_m:g} m (%)")
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 103)
    axes.set_title("Answering only when sure")
    axes.legend(frameon=False, loc="upper right")
    grid(axes)
    return figure


@styled
def radius_coverage(material: Material) -> Figure:
    """Draw the share of photos inside the 50 % and 90 % circles, by whether the cell has training photos."""
    coverage = material.values["confidence"]["coverage"]
    names = {"all": "all", "with_training_photos": "with training\nphotos", "without_training_photos": "without"}
    figure = new(4.2)
    axes = figure.add_subplot()
    place = np.arange(len(coverage))
    for share, shift, colour, hatch in ((50, -0.2, SKY, ""), (90, 0.2, BLUE, "//")):
        values = [100 * each[str(share)] for each in coverage.values()]
        bars = axes.bar(
            place + shift, values, 0.36, color=colour, hatch=hatch, edgecolor="white", label=f"{share} % circle"
        )
        axes.bar_label(
            bars, fmt="%.0f", label_type="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 2}
        )
        axes.axhline(share, color=colour, linestyle="--", linewidth=1.6)
    axes.set_xticks(place, [names.get(name, name) for name in coverage])
    axes.set_ylabel("photos inside the circle (%)")
    axes.set_ylim(0, 105)
    axes.set_title("Do the circles hold what they promise? (dashed: the promise)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


@styled
def outside(material: Material) -> Figure:
    """Draw how photos of the region and out-of-region photos differ in the probability of being inside."""
    if material.out_of_region is None:
        raise CannotDrawError("no out-of-region photos were given")
    inside, others = material.checked.stated, material.out_of_region
    known = inside.inside_kind == "inside_probability"
    scale = 100.0 if known else 1.0
    ends = (0.0, 100.0) if known else (min(float(t.inside.min()) for t in (inside, others)),
                                       max(float(t.inside.max()) for t in (inside, others)))  # fmt: skip
    figure = new(4.2)
    axes = figure.add_subplot()
    _histogram(axes, scale * inside.inside, ends, BLUE, "", f"of the region ({len(inside.inside)})")
    _histogram(axes, scale * others.inside, ends, VERMILLION, "//", f"out of region ({len(others.inside)})")
    axes.set_xlabel("stated probability of being inside the region (%)" if known else "score of the best cell")
    axes.set_ylabel("photos (%)")
    axes.set_title(f"Photos of the region and others: AUROC {material.values['confidence']['auroc']:.3f}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    grid(axes)
    return figure


def _histogram(axes: Axes, values: Float64, ends: tuple[float, float], colour: str, hatch: str, label: str) -> None:
    weights = np.full(len(values), 100 / len(values))
    style: dict[str, Any] = {"alpha": 0.55, "hatch": hatch, "edgecolor": colour, "histtype": "stepfilled"}
    axes.hist(values, np.linspace(*ends, 41).tolist(), weights=weights, color=colour, label=label, **style)
