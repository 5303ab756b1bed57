"""From scores to probabilities: softmax over the cells at the calibrated temperature, and the position they mean."""

import numpy as np

from cellcode.geography.s2 import projection
from cellcode.search.searcher import Hits
from cellcode.types import Float64


def probabilities(hits: Hits, temperature: float) -> Float64:
    """Return the posterior of each hit, (B, K); its sum over all cells searched is 1.

    Args:
        hits: of a search with this temperature.
    """
    assert hits.log_mass is not None
    return np.asarray(np.exp(hits.scores.astype(np.float64) / temperature - hits.log_mass[:, None]))


def mean_position(lat_deg: Float64, lon_deg: Float64, probability: Float64) -> tuple[float, float]:
    """Return latitude and longitude of the posterior mean, in degrees: the mean unit vector, back on the sphere.

    Args:
        lat_deg, lon_deg, probability: (K,) of cells; their probabilities need not sum to 1.
    """
    mean_lat_deg, mean_lon_deg = projection.to_degrees(*np.stack(projection.to_xyz(lat_deg, lon_deg)) @ probability)
    return float(mean_lat_deg), float(mean_lon_deg)
