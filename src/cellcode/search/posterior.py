"""From scores to probabilities: softmax over the cells at the calibrated temperature, and the circles that hold it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellcode.geography import distance
from cellcode.search.searcher import Hits

Float64 = npt.NDArray[np.float64]


def probabilities(hits: Hits, temperature: float) -> Float64:
    """Return the posterior of each hit, (B, K); its sum over all cells searched is 1.

    Args:
        hits: of a search with this temperature.
    """
    assert hits.log_mass is not None
    return np.asarray(np.exp(hits.scores.astype(np.float64) / temperature - hits.log_mass[:, None]))


def radius_m(share: float, lat_deg: Float64, lon_deg: Float64, probability: Float64) -> float:
    """Radius of the circle around the first cell that holds `share` of the posterior.

    Cells count as a whole when their centre is inside. Where the cells given hold less than the share, the circle that
    holds all of them is returned.

    Args:
        lat_deg, lon_deg, probability: (K,) of the cells, best first.
    """
    apart_m = distance.haversine_m(lat_deg[0], lon_deg[0], lat_deg, lon_deg)
    order = np.argsort(apart_m)
    held = np.cumsum(probability[order])
    enough = min(int(np.searchsorted(held, share)), len(order) - 1)
    return float(apart_m[order[enough]])
