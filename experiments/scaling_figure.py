"""The figure of the scaling table: a small panel for each axis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cellcode.evaluation.figures import canvas
from experiments import scaling
from experiments.ablations import RADIUS_M

COLUMNS = 2


@canvas.styled
def draw(values: Mapping[str, Any]) -> Figure:
    """Draw recall@1 within 200 m along each axis, with the fitted curve and where it leads; CPU seconds below each value."""
    axes = values["axes"]
    rows = -(-len(axes) // COLUMNS)
    figure = canvas.new(1.2 + 3.1 * rows, canvas.WIDTH_IN + 1.5)
    panels = np.atleast_1d(figure.subplots(rows, COLUMNS, sharey=True)).ravel()
    for number, (panel, axis) in enumerate(zip(panels, axes, strict=False)):
        _panel(panel, axis)
        panel.set(title=axis["title"], ylim=(0, None))
        if number % COLUMNS == 0:
            panel.set_ylabel(f"recall@1, {RADIUS_M:g} m (%)")
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    named = {name: line for panel in panels for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.suptitle("What more buys (below each value: CPU minutes of the training)", x=0.01, ha="left")
    figure.legend([*named.values()], [*named], loc="outside lower center", ncols=3, frameon=False)
    return figure


def _panel(panel: Axes, axis: Mapping[str, Any]) -> None:
    points = axis["points"]
    x = np.array([point["value"] for point in points])
    for system in points[0]["recall"]:
        recall = [100 * point["recall"][system][f"{RADIUS_M:g}"]["all"] for point in points]
        panel.plot(
            x, recall, canvas.STYLES[system], color=canvas.COLOURS[system], marker=canvas.MARKERS[system], markersize=7,
            linewidth=2.2, label=canvas.NAMES[system],
        )  # fmt: skip
    ticks = [(point["value"], point["cpu_seconds"]) for point in points]
    if axis["extrapolate"] and "fit" in axis:
        further = axis["extrapolated"]
        along = np.geomspace(x[0], further[-1]["value"], 100)
        panel.plot(
            along,
            100 * scaling.curve(axis, along),
            ":",
            color=canvas.VERMILLION,
            linewidth=2,
            label="hybrid, fitted curve",
        )
        low, high = np.array([each["interval_95"] for each in further]).T * 100
        middle = 100 * np.array([each["recall"] for each in further])
        panel.errorbar(
            [each["value"] for each in further], middle, (np.maximum(middle - low, 0), np.maximum(high - middle, 0)),
            fmt="D", color=canvas.VERMILLION, markersize=6, markerfacecolor="white", capsize=4, linewidth=1.8,
            label="extrapolated, 95 % interval",
        )  # fmt: skip
        ticks += [(each["value"], each["cpu_seconds"]) for each in further]
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(
        [value for value, _ in ticks], [f"{_short(value)}\n{_short(seconds / 60)}" for value, seconds in ticks]
    )
    base = next((point["value"] for point in points if point["base"]), None)
    if base is not None:
        panel.axvline(base, color=canvas.GREY, linewidth=1.2, linestyle="--", zorder=0, label="benchmark configuration")
    canvas.grid(panel)


def _short(value: float) -> str:
    if value >= 10_000 or (value >= 1000 and value % 1000 == 0):
        return f"{value / 1000:.3g}k"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
