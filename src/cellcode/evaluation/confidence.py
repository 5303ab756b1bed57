"""Whether probabilities and radii are true, and whether confidence separates right answers from wrong ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellcode.evaluation.metrics import auroc
from cellcode.geography import Region, distance, s2
from cellcode.photos import PhotoTable
from cellcode.progress import Meter
from cellcode.search import Hits, Locator, Searcher
from cellcode.search.searcher import probabilities
from cellcode.types import Bools, Float32, Float64, Ids

BATCH = 256
BINS = 10
SHARES = tuple(np.linspace(0.05, 1, 20).round(2).tolist())


@dataclass(frozen=True)
class Stated:
    """What the answers to N photos say of themselves. All (N,).

    Attributes:
        cell, probability: the answer.
        near: share of the posterior in cells with their centre within `radius_m` of the answer's.
        mean_lat_deg, mean_lon_deg: posterior mean position.
        radius_50_m, radius_90_m: circles around the answer that should hold the photo in half and nine tenths of all cases;
            NaN where the database has too few validation photos to tell.
        inside: probability that the photo was taken inside the region, or where that is not calibrated the best score.
        in_region: bool, taken to be inside; all true where not known.
        inside_kind: "inside_probability" or "best_score".
    """

    cell: Ids
    probability: Float64
    near: Float64
    mean_lat_deg: Float64
    mean_lon_deg: Float64
    radius_50_m: Float64
    radius_90_m: Float64
    inside: Float64
    in_region: Bools
    inside_kind: str


@dataclass(frozen=True)
class Checked:
    """The answers beside the truth, all (N,): metres from the photo to the answer's centre and to the posterior mean."""

    stated: Stated
    error_m: Float64
    mean_error_m: Float64
    right_cell: Bools


class _Kept:
    """A searcher that keeps what it found last: an answer's candidates are not all the cells it rests on."""

    hits: Hits

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float | None = None) -> Hits:
        self.hits = self._searcher.search(queries, k, region, temperature)
        return self.hits

    def count(self, region: Region | None = None) -> int:
        return self._searcher.count(region)


def ask(locator: Locator, queries: Float32, radius_m: float, *, description: str = "searching for answers") -> Stated:
    """Return what the answers to embedded photos, (N, D), say of themselves.

    `near` is summed over the cells that an answer's radii are measured over.
    """
    kept = _Kept(locator.searcher)
    temperature = locator.database.calibration.temperature
    parts, cells, answers = [], [], []
    with Meter(description, len(queries)) as meter:
        for first in range(0, len(queries), BATCH):
            batch = queries[first : first + BATCH]
            answers += locator.answers([""] * len(batch), batch, 1, None, kept)
            hits = kept.hits
            lat, lon = (each.reshape(hits.cell_ids.shape) for each in s2.cell_centers(hits.cell_ids.ravel()))
            apart_m = distance.haversine_m(lat[:, :1], lon[:, :1], lat, lon)
            share = probabilities(hits, temperature)
            parts.append(np.stack([share[:, 0], (share * (apart_m <= radius_m)).sum(axis=1)]))
            cells.append(hits.cell_ids[:, 0])
            meter.advance(len(batch))
    probability, near = np.concatenate(parts, axis=1)
    known = all(answer.inside_probability is not None for answer in answers)
    inside = [answer.inside_probability if known else answer.best.score for answer in answers]
    return Stated(
        cell=np.concatenate(cells),
        probability=probability,
        near=np.minimum(near, 1.0),
        inside=np.array(inside, np.float64),
        in_region=np.array([answer.in_region is not False for answer in answers]),
        inside_kind="inside_probability" if known else "best_score",
        mean_lat_deg=np.array([answer.mean_lat for answer in answers]),
        mean_lon_deg=np.array([answer.mean_lon for answer in answers]),
        radius_50_m=np.array([answer.radius_50_m for answer in answers], np.float64),
        radius_90_m=np.array([answer.radius_90_m for answer in answers], np.float64),
    )


def check(stated: Stated, table: PhotoTable, level: int) -> Checked:
    """Compare the answers with the true positions."""
    truth = (table.lat_deg, table.lon_deg)
    error_m = distance.haversine_m(*truth, *s2.cell_centers(stated.cell))
    mean_error_m = distance.haversine_m(*truth, stated.mean_lat_deg, stated.mean_lon_deg)
    return Checked(stated, error_m, mean_error_m, s2.cell_ids(*truth, level) == stated.cell)


def summary(
    checked: Checked, groups: Mapping[str, Bools], radius_m: float, out_of_region: Stated | None
) -> dict[str, Any]:
    """Return `confidence` of report.json; coverage also of `groups`, masks (N,). `radius_m` is the one of `Stated.near`."""
    stated, right = checked.stated, checked.error_m <= radius_m
    parts = {"all": np.ones(len(right), bool), **{name: mask for name, mask in groups.items() if mask.any()}}
    coverage = {name: {str(share): held(checked, share, mask) for share in (50, 90)} for name, mask in parts.items()}
    bins, cell_bins = reliability(stated.near, right), reliability(stated.probability, checked.right_cell)
    return {
        "radius_m": radius_m,
        "photos": len(right),
        "ece": calibration_error(bins),
        "reliability": bins,
        "right_cell": {"ece": calibration_error(cell_bins), "reliability": cell_bins},
        "coverage_50": coverage["all"]["50"],
        "coverage_90": coverage["all"]["90"],
        "coverage": coverage,
        "median_radius_50_m": _median_m(stated.radius_50_m),
        "median_radius_90_m": _median_m(stated.radius_90_m),
        "accuracy_against_coverage": accuracy_at(stated.near, right),
        "median_error_m": {
            "best_cell": round(float(np.median(checked.error_m)), 2),
            "posterior_mean": round(float(np.median(checked.mean_error_m)), 2),
        },
        **_refusals(stated, out_of_region),
    }


def reliability(predicted: Float64, happened: Bools, bins: int = BINS) -> list[dict[str, float]]:
    """Return mean prediction and observed share in bins of equally many photos, lowest prediction first.

    Equal counts, not equal widths: no bin is then too small (Nguyen and O'Connor 2015).
    """
    order = np.argsort(predicted, kind="stable")
    parts = [(predicted[rows], happened[rows]) for rows in np.array_split(order, min(bins, len(order)))]
    return [
        {"predicted": round(float(said.mean()), 4), "observed": round(float(seen.mean()), 4), "photos": len(said)}
        for said, seen in parts
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Return the expected calibration error: mean distance of prediction and observation, weighted by photos."""
    photos = sum(each["photos"] for each in bins)
    return round(sum(abs(each["predicted"] - each["observed"]) * each["photos"] for each in bins) / photos, 4)


def accuracy_at(confidence: Float64, right: Bools) -> dict[str, list[float]]:
    """Return the accuracy of the surest share of the photos, for several shares (Geifman and El-Yaniv 2017)."""
    ordered = right[np.argsort(-confidence, kind="stable")]
    counts = np.maximum(1, np.round(np.array(SHARES) * len(ordered)).astype(int))
    accuracy = np.cumsum(ordered)[counts - 1] / counts
    return {"coverage": list(SHARES), "accuracy": accuracy.round(4).tolist()}


def held(checked: Checked, share: int, mask: Bools) -> float | None:
    """Return the share of the photos of a mask that lie within their `radius_<share>_m` of the answer; None: not known."""
    radius_m = checked.stated.radius_50_m if share == 50 else checked.stated.radius_90_m
    if np.isnan(radius_m).any():
        return None
    return round(float((checked.error_m <= radius_m)[mask].mean()), 4)


def _median_m(radius_m: Float64) -> float | None:
    return None if np.isnan(radius_m).any() else round(float(np.median(radius_m)), 1)


def _refusals(inside: Stated, others: Stated | None) -> dict[str, Any]:
    refused = {"inside": round(float((~inside.in_region).mean()), 4)}
    if others is None:
        return {"auroc": None, "refused": refused}
    return {
        "auroc": round(auroc(inside.inside, others.inside), 4),
        "auroc_of": inside.inside_kind,
        "refused": refused | {"elsewhere": round(float((~others.in_region).mean()), 4)},
        "elsewhere_photos": len(others.inside),
    }
