"""How far from the answer a photo may be: the posterior's mass by distance, and circles that hold what they promise.

Ours, in the manner of split conformal prediction (Vovk et al. 2005): a photo's own share is the mass of the circle around
its answer that reaches its true position; the circle of the median (90th percentile) share of validation photos then
holds half (90 %) of photos like them, whatever the posterior is worth.
"""

import logging
import math
from dataclasses import replace

import numpy as np

from cellcode.database.calibration.fit import MIN_PHOTOS, Calibration
from cellcode.database.calibration.regressions import Inside, features
from cellcode.geography import distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.index import exact
from cellcode.index.codeset import CodeSet
from cellcode.runs import Validation
from cellcode.types import Float32, Float64, Ids, Int64

logger = logging.getLogger(__name__)
REACH = 1000  # best cells that are taken one by one; the rest of the posterior is spread evenly over all cells
EVERYWHERE = 1024  # cells that stand for all of them
MAX_PHOTOS = 2048
BATCH = 64


def everywhere(ids: Ids, slices: Int64 | None = None) -> tuple[Float64, Float64]:
    """Return centres of at most EVERYWHERE evenly spaced cells, in degrees; of those in slices, (S, 2), if they are given."""
    slices = np.array([[0, len(ids)]]) if slices is None else slices
    ends = np.cumsum(slices[:, 1] - slices[:, 0])
    count = int(ends[-1]) if len(ends) else 0
    numbers = np.unique(np.linspace(0, count - 1, min(count, EVERYWHERE)).astype(np.int64))
    rows = numbers + (slices[:, 1] - ends)[np.searchsorted(ends, numbers, side="right")]
    return s2.cell_centers(np.asarray(ids[rows]))


def held(
    lat_deg: Float64, lon_deg: Float64, probability: Float64, rest: tuple[Float64, Float64], cell_m: float
) -> tuple[Float64, Float64]:
    """Return radii around the first cell, rising, and the mass of the posterior within each; it is linear in between.

    A cell's mass is spread evenly over the distances from half a cell before its centre to half a cell beyond. The first three
    arguments are of the best cells, (K,), best first; the mass that they lack is spread over `rest`, see `everywhere`.
    """
    lat, lon = np.concatenate([lat_deg, rest[0]]), np.concatenate([lon_deg, rest[1]])
    lacking = max(0.0, 1.0 - float(probability.sum())) if len(rest[0]) else 0.0
    mass = np.concatenate([probability, np.full(len(rest[0]), lacking / max(len(rest[0]), 1))])
    apart_m = distance.haversine_m(lat_deg[0], lon_deg[0], lat, lon)
    first, last = np.maximum(apart_m - cell_m / 2, 0), apart_m + cell_m / 2
    density = mass / (last - first)
    ends = np.concatenate([first, last])
    order = np.argsort(ends)
    radii = ends[order]
    slope = np.cumsum(np.concatenate([density, -density])[order])
    within = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(radii))])
    return radii, np.maximum.accumulate(within)  # rounding may let it fall


def radius_m(share: float, radii: Float64, within: Float64) -> float:
    """Return the radius of the circle that holds a share of the mass; of all of it where the mass is less."""
    return float(np.interp(share, within, radii))


def fit(
    calibration: Calibration,
    codes: CodeSet,
    validation: Validation,
    out_of_region: Float32 | None,
    level: int,
    seed: int,
) -> Calibration:
    """Return the calibration with the shares of both circles and, given out-of-region photos, `inside`.

    The database is searched as it will be by its users; photos whose cell it lacks are left out. `out_of_region` are
    embeddings of photos that were not taken in the region, (E, D), `level` is that of the cells.
    """
    own = s2.cell_ids(validation.lat_deg, validation.lon_deg, level)
    chosen = np.flatnonzero(rows_of_ids(codes.ids, own) >= 0)
    chosen = np.random.default_rng([seed, 7]).permutation(chosen)[:MAX_PHOTOS]
    rest, reach, cell_m = everywhere(codes.ids), min(REACH, len(codes)), s2.mean_edge_m(level)
    shares, seen = [], []
    for first in range(0, len(chosen), BATCH):
        rows = chosen[first : first + BATCH]
        found = exact.scan(codes, validation.queries[rows], reach, codes.everything, calibration.temperature)
        assert found.log_mass is not None
        posterior = np.exp(found.scores.astype(np.float64) / calibration.temperature - found.log_mass[:, None])
        for photo, cells, probability in zip(rows, found.rows, posterior, strict=True):
            lat, lon = s2.cell_centers(np.asarray(codes.ids[cells]))
            # Mass of the circle around the answer that reaches the photo's true position.
            error_m = distance.haversine_m(validation.lat_deg[photo], validation.lon_deg[photo], lat[0], lon[0])
            shares.append(float(np.interp(error_m, *held(lat, lon, probability, rest, cell_m))))
        seen.append(features(validation.queries[rows], found.scores))
    if len(shares) < MIN_PHOTOS:
        if out_of_region is not None:
            logger.warning(
                f"confidence: {len(shares)} validation photos lie in the database, {MIN_PHOTOS} are needed: the out-of-region "
                "photos are not used, and answers have no probability that a photo is in the region"
            )
        return calibration
    half, most = (_conformal(np.array(shares), share) for share in (0.5, 0.9))
    calibration = replace(calibration, share_50=half, share_90=most)
    if out_of_region is not None:
        scores = [
            exact.scan(codes, out_of_region[first : first + BATCH], reach, codes.everything).scores
            for first in range(0, len(out_of_region), BATCH)
        ]
        inside = Inside.fit(np.concatenate(seen), features(out_of_region, np.concatenate(scores)))
        calibration = replace(calibration, inside=inside)
    logger.info(
        f"confidence: circles of {half:.1%} and {most:.1%} of the posterior hold 50 % and 90 % of {len(shares)} validation "
        f"photos; {len(out_of_region) if out_of_region is not None else 'no'} out-of-region photos"
    )
    return calibration


def _conformal(values: Float64, share: float) -> float:
    """Return the value of rank ceil((n + 1) share): another one like them is at most it with this probability."""
    return float(np.sort(values)[min(math.ceil((len(values) + 1) * share), len(values)) - 1])
