"""Figures of the report. Colours are Okabe and Ito's, which stay apart for colour-blind eyes; shapes differ as well."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cellcode.database import Database
from cellcode.evaluation.metrics import Result
from cellcode.geography import s2
from cellcode.photos import PhotoTable

BLUE, VERMILLION, GREEN, BLACK, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#000000", "#56B4E9", "#CC79A7"
COLOURS = {"hybrid": BLACK, "prototypes": BLUE, "aerial": GREEN, "image_retrieval": VERMILLION}
STYLES = {"hybrid": "-", "prototypes": "--", "aerial": "-.", "image_retrieval": ":"}
MOST_CELLS = 20_000  # more would be smaller than a pixel


def hit_map(database: Database, table: PhotoTable, result: Result, radius_m: float) -> Figure:
    """Draw the database's cells, darker with more training photos, and each tested photo as found or missed."""
    step = -(-len(database.ids) // MOST_CELLS)
    corners = s2.cell_polygons(database.ids[::step])
    squeeze = float(np.cos(np.radians(np.mean(table.lat_deg))))  # a degree of longitude over one of latitude
    tall = float(np.ptp(corners[..., 0]) / (np.ptp(corners[..., 1]) * squeeze))
    figure = Figure(figsize=(8.2, float(np.clip(7.4 * tall, 2.2, 9.0)) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    photos = database.facts.photos[::step]
    shade = np.log1p(photos) / max(np.log1p(photos.max()), 1e-9) if len(photos) else photos
    faces = np.stack([0.93 - 0.38 * shade, 0.93 - 0.34 * shade, 0.93 - 0.28 * shade], axis=1)
    faces[photos == 0] = (1.0, 0.99, 0.94)
    axes.add_collection(
        PolyCollection(list(corners[..., ::-1]), facecolors=faces, edgecolors="#c8c8c8", linewidths=0.3)
    )
    found = result.error_m <= radius_m
    axes.scatter(table.lon_deg[~found], table.lat_deg[~found], s=14, marker="x", c=VERMILLION, linewidths=0.9)
    axes.scatter(table.lon_deg[found], table.lat_deg[found], s=10, marker="o", c=BLUE, linewidths=0)
    axes.set_xlabel("longitude (degrees)")
    axes.set_ylabel("latitude (degrees)")
    axes.ticklabel_format(useOffset=False)
    axes.autoscale_view()
    axes.set_aspect(1 / squeeze)
    axes.locator_params(nbins=5)
    marks: list[Line2D | Patch] = [
        Line2D([], [], marker="o", color=BLUE, linestyle="", markersize=5, label=f"found within {radius_m:g} m"),
        Line2D([], [], marker="x", color=VERMILLION, linestyle="", markersize=6, label="missed"),
        Patch(facecolor="#8c969f", edgecolor="#c8c8c8", label="cell with many training photos"),
    ]
    if (photos == 0).any():
        marks.append(Patch(facecolor="#fffcf0", edgecolor="#c8c8c8", label="cell without any"))
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
    return figure


def error_curves(results: list[Result]) -> Figure:
    """Draw the share of photos whose first answer lies within a distance, against the distance."""
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    share = np.arange(1, len(results[0].error_m) + 1) / len(results[0].error_m)
    for result in results:
        axes.plot(
            np.maximum(np.sort(result.error_m), 1), 100 * share, STYLES.get(result.name, "-"),
            color=COLOURS.get(result.name, PURPLE), linewidth=1.8, label=result.name.replace("_", " "),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("error of the first answer (m)")
    axes.set_ylabel("photos within it (%)")
    axes.set_ylim(0, 100)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.legend(frameon=False, loc="upper left")
    return figure
