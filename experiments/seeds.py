"""What repeated trainings say: recall as the mean over seeds, with intervals over photos and over seeds.

Every training is tested on the same photos, so that seeds and positions cross. A resample draws positions, as everywhere
(`cellcode.evaluation.metrics.Bootstrap`), and seeds, both with replacement: a bootstrap of two levels (Davison and Hinkley
1997, 3.8). The variance of S seeds drawn with replacement is too small by (S - 1) / S: the deviation of a resample's seeds from
their mean is stretched to make up for it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.types import Bools, Float64, Int64

RESAMPLES = 1000
RADII_M = 100, 200
PREDICTIONS = "predictions.parquet"
STUDENT_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # quantile of Student's t by degrees of freedom
# By the name that claims know: the training, and the term of its database.
PARTS = {
    "hybrid": ("hybrid", "hybrid"),
    "prototypes, a term of the hybrid": ("hybrid", "prototypes"),
    "aerial, a term of the hybrid": ("hybrid", "aerial"),
    "prototypes trained alone": ("prototypes", "hybrid"),
    "aerial trained alone": ("aerial", "hybrid"),
}


@dataclass(frozen=True)
class Tested:
    """Test photos and how far off the first answers of S trainings were.

    Attributes:
        error_m: (S, N) by `PARTS`.
        inside: (S, N) by share, the photo was taken within the radius that the hybrid states for 50 or 90 %.
        place: (N,), number of the position of each photo.
        density: (N,), training photos in its prototype-level cell.
    """

    error_m: dict[str, Float64]
    inside: dict[str, Float64]
    place: Int64
    density: Int64


def load(folders: Mapping[str, Sequence[Path]]) -> Tested:
    """Read the predictions of repeated trainings, by training, a folder for each seed.

    Raises:
        InputError: they are not of the same photos.
    """
    tables = {name: [pq.read_table(each / PREDICTIONS) for each in found] for name, found in folders.items()}
    first = tables["hybrid"][0]
    lat, lon, density = (first[name].to_numpy() for name in ("lat_deg", "lon_deg", "density"))
    for name, found in tables.items():
        if any(not np.array_equal(table["lat_deg"].to_numpy(), lat) for table in found):
            raise InputError(f"the trainings of {name} were tested on other photos than the hybrid's")
    error_m = {
        part: np.stack([table[f"{term}_error_m"].to_numpy() for table in tables[training]])
        for part, (training, term) in PARTS.items()
        if tables.get(training) and f"{term}_error_m" in tables[training][0].column_names
    }
    inside = {
        share: np.stack(
            [
                (table["hybrid_error_m"].to_numpy() <= table[f"radius_{share}_m"].to_numpy().astype(np.float64)).astype(
                    np.float64
                )
                for table in tables["hybrid"]
            ]
        )
        for share in ("50", "90")
    }
    return Tested(error_m, inside, s2.cell_ids(lat, lon, 16).view(np.int64), density)


def interval_95(hits: Float64, place: Int64, seed: int = 0) -> tuple[float, float]:
    """Return the interval of the mean of hits, (S, N), over positions, (N,), and seeds."""
    _, place = np.unique(place, return_inverse=True)
    seeds, places = len(hits), int(place.max()) + 1
    rng = np.random.default_rng([seed, 21])
    weights = rng.multinomial(places, np.full(places, 1 / places), RESAMPLES).astype(np.float64)
    sums = np.stack([np.bincount(place, row, places) for row in hits], axis=1)
    means = weights @ sums / (weights @ np.bincount(place, minlength=places))[:, None]
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    mean = means.mean(axis=1)
    off = (drawn * (means - mean[:, None])).sum(axis=1) * np.sqrt(seeds / max(seeds - 1, 1))
    low, high = np.quantile(mean + off, [0.025, 0.975])
    return float(low), float(high)


def t_interval_95(by_seed: Sequence[float]) -> tuple[float, float]:
    """Return the interval of the mean over seeds alone, by Student's t; of one seed, nothing is known."""
    mean, degrees = float(np.mean(by_seed)), len(by_seed) - 1
    if not degrees:
        return float("-inf"), float("inf")
    half = STUDENT_975.get(degrees, 2.571) * float(np.std(by_seed, ddof=1)) / np.sqrt(len(by_seed))
    return mean - half, mean + half


def summary(tested: Tested, sparsest: int | None) -> dict[str, Any]:
    """Return recall@1 by part, group of cells and radius, and by how much the hybrid is above each other part.

    Args:
        sparsest: most training photos of a cell of the sparsest quarter; None: that group is left out.
    """
    density = tested.density
    groups = {"all": density >= 0, "with_photos": density > 0, "without_photos": density == 0}
    if sparsest is not None:
        groups["sparsest_quarter"] = (density > 0) & (density <= sparsest)
    hits = {
        part: {radius: (error_m <= radius).astype(np.float64) for radius in RADII_M}
        for part, error_m in tested.error_m.items()
    }

    def by_group(values: Float64, least: float = 0.0) -> dict[str, Any]:
        return {name: _measured(values, tested.place, mask, least) for name, mask in groups.items() if mask.any()}

    recall = {part: {str(radius): by_group(values) for radius, values in each.items()} for part, each in hits.items()}
    above: dict[str, Any] = {}
    for part, each in hits.items():
        if part != "hybrid" and len(each[RADII_M[0]]) == len(hits["hybrid"][RADII_M[0]]):
            above[part] = {str(radius): by_group(hits["hybrid"][radius] - each[radius], -1.0) for radius in RADII_M}
    inside = {share: _measured(values, tested.place, groups["all"]) for share, values in tested.inside.items()}
    photos = {name: int(mask.sum()) for name, mask in groups.items()}
    return {"recall": recall, "hybrid_above": above, "inside": inside, "photos": photos}


def _measured(values: Float64, place: Int64, mask: Bools, least: float = 0.0) -> dict[str, Any]:
    """The mean of shares, or of differences of shares, whose least is -1; an interval is cut to what can be."""
    chosen = values[:, mask]
    by_seed = [round(float(mean), 5) for mean in chosen.mean(axis=1)]
    ends = [round(min(max(end, least), 1.0), 5) for end in interval_95(chosen, place[mask])]
    return {"mean": round(float(chosen.mean()), 5), "interval_95": ends, "by_seed": by_seed}


def sparsest_quarter(bins: Mapping[str, Any]) -> int | None:
    """Return the most photos of the first bin of cells with photos, out of the slices' names ("1 to 16 photos")."""
    for name in bins:
        if (last := int(re.findall(r"\d+", name)[-1])) > 0:
            return last
    return None
