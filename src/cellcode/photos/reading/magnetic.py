"""From magnetic to true north, by the World Magnetic Model."""

import threading
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from typing import Any

from cellcode.errors import MissingExtraError

# First year of the model: the coefficients' module in pygeomag, where they are good for five years each.
_MODELS = {2010: "WMM_2010", 2015: "WMM_2015v2", 2020: "WMM_2020", 2025: "WMM_2025"}
_loading = threading.Lock()


def declination_deg(lat_deg: float, lon_deg: float, moment: datetime) -> float | None:
    """Return the angle from true to magnetic north, east of it positive, at sea level.

    Returns:
        None before 2010 and from 2030 on, for which there is no model, and around the magnetic poles, where a compass shows
        nothing. Elsewhere the model is good to about half a degree, and a phone's compass to several.

    Raises:
        MissingExtraError: pygeomag is not installed.
    """
    first = moment.year - moment.year % 5
    if first not in _MODELS:
        return None
    with _loading:  # several threads read photos, and a model loads itself at its first use
        model = _model(first)
        year = moment.year + (moment.timetuple().tm_yday - 1) / 365.25
        field = model.calculate(glat=lat_deg, glon=lon_deg, alt=0.0, time=year)
    return None if field.in_blackout_zone else float(field.d)


@lru_cache
def _model(first_year: int) -> Any:
    try:
        from pygeomag import GeoMag
    except ImportError:
        raise MissingExtraError("pygeomag", "magnetic", "turning a magnetic heading into a true one") from None
    # The coefficients as a module: its files are looked for by path, which a zipped installation has not.
    name = _MODELS[first_year]
    return GeoMag(coefficients_data=getattr(import_module(f"pygeomag.wmm.{name.lower()}"), name))
