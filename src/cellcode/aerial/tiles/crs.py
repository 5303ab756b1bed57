"""Coordinate reference systems as services name them."""

import re

from rasterio.crs import CRS
from rasterio.enums import WktVersion
from rasterio.errors import CRSError

WEB_MERCATOR = "EPSG:3857"
METRES_PER_DEGREE = 111_319.49079327358  # by which WMTS defines the scales of degrees
_MERCATOR_CODES = {"3857", "900913", "3785", "102100", "102113"}


def known_crs(name: str) -> str | None:
    """Return a CRS, `AUTHORITY:CODE`, as rasterio spells it, Web Mercator under one name; None if PROJ does not know it."""
    authority, _, code = name.upper().partition(":")
    if code in _MERCATOR_CODES:
        return WEB_MERCATOR
    if authority in ("OGC", "CRS") and code in ("84", "CRS84"):
        return "OGC:CRS84"
    for candidate in (name, f"ESRI:{code}") if authority == "EPSG" else (name,):
        try:
            CRS.from_user_input(candidate)
        except CRSError:
            continue
        return candidate
    return None


def unit_m(crs: str) -> float:
    """Return the metres of a unit of a CRS."""
    found = CRS.from_user_input(crs)
    return METRES_PER_DEGREE if found.is_geographic else float(found.linear_units_factor[1])


def northing_first(crs: str) -> bool:
    """Return True if the authority of a CRS names northing or latitude before easting or longitude.

    Services that follow the authority's order (WMS 1.3, WMTS with `urn:` names) swap the axes of such a CRS; rasterio
    never does.
    """
    wkt = CRS.from_user_input(crs).to_wkt(version=WktVersion.WKT2_2019)
    axes = re.findall(r'AXIS\["[^"]*",\s*(\w+)', wkt)
    return bool(axes) and axes[0].lower() in ("north", "south")
