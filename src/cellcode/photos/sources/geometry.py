"""Positions out of the geometry column of GeoParquet: points in any coordinate system, as latitude and longitude."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from cellcode.errors import InputError
from cellcode.types import Float64

_WGS84 = CRS.from_epsg(4326)
_GEOGRAPHIC_WGS84 = {("OGC", "CRS84"), ("OGC", "CRS84h"), ("EPSG", "4326"), ("EPSG", "4979")}
_POINT = 0  # shapely's number of the type


@dataclass(frozen=True)
class Geometry:
    """A geometry column.

    Attributes:
        encoding: "WKB", or "point" (x and y as fields of a struct).
        crs: of the coordinates; None: WGS84. They are x (east) and y (north) whatever the system's own axis order is.
    """

    column: str
    encoding: str
    crs: CRS | None

    @classmethod
    def of_parquet(cls, schema: pa.Schema, path: Path) -> Self | None:
        """Return the primary geometry of a Parquet file, None if it is no GeoParquet.

        Raises:
            InputError: its metadata is damaged, or of a geometry that cannot be read.
        """
        raw = (schema.metadata or {}).get(b"geo")
        if raw is None:
            return None
        try:
            metadata = json.loads(raw)
            column = metadata["primary_column"]
            facts = metadata["columns"][column]
            encoding = facts.get("encoding", "WKB")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: its GeoParquet metadata ('geo') is damaged") from None
        if encoding not in ("WKB", "point") or column not in schema.names:
            raise InputError(
                f"{path}: the geometry {column!r}, encoded as {encoding}, cannot be read; WKB or point can"
            )
        return cls(column, encoding, _crs(facts, path))

    def positions(self, values: pa.Array) -> tuple[Float64, Float64, dict[int, str]]:
        """Return latitudes and longitudes in degrees, (N,) float64, NaN where there is none, and why, by index."""
        if self.encoding == "point":
            x, y = (np.asarray(values.field(name).to_numpy(zero_copy_only=False), np.float64) for name in ("x", "y"))
            faults = {int(row): "no geometry" for row in np.flatnonzero(np.isnan(x) | np.isnan(y))}
        else:
            x, y, faults = _points(values)
        lon, lat = (x, y) if self.crs is None else self._to_wgs84(x, y)
        return lat, lon, faults

    def _to_wgs84(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        lon, lat = np.full(len(x), np.nan), np.full(len(x), np.nan)
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(known):
            try:
                lon[known], lat[known] = transform(self.crs, _WGS84, x[known], y[known])
            except RasterioError as error:
                raise InputError(f"the positions cannot be converted from {self.crs} ({error})") from None
        return lon, lat


def _points(values: pa.Array) -> tuple[Float64, Float64, dict[int, str]]:
    """Coordinates of WKB points; x and y are NaN where there is another geometry or none, with the reason."""
    encoded = np.asarray(values.to_numpy(zero_copy_only=False), object)
    shapes = shapely.from_wkb(encoded, on_invalid="ignore")
    empty = shapely.is_empty(shapes)
    full = np.where(empty, None, shapes)
    x, y = shapely.get_x(full), shapely.get_y(full)  # NaN of anything but a point
    faults = {}
    for row in np.flatnonzero(np.isnan(x) | np.isnan(y)):
        if encoded[row] is None or empty[row]:
            faults[int(row)] = "no geometry"
        elif shapes[row] is None:
            faults[int(row)] = "its geometry is damaged"
        elif shapely.get_type_id(shapes[row]) != _POINT:
            faults[int(row)] = f"its geometry is a {shapes[row].geom_type}, not a Point"
    return np.asarray(x, np.float64), np.asarray(y, np.float64), faults


def _crs(facts: dict[str, Any], path: Path) -> CRS | None:
    """The coordinate system of a column's metadata: none stated is longitude and latitude, null is unknown."""
    if "crs" not in facts:
        return None
    stated = facts["crs"]
    if not isinstance(stated, dict):
        raise InputError(
            f"{path}: the coordinate system of its geometry is unknown; write it with one, or with lat and lon"
        )
    identity = stated.get("id") or {}
    if (str(identity.get("authority")), str(identity.get("code"))) in _GEOGRAPHIC_WGS84:
        return None
    try:
        return CRS.from_dict(stated)
    except CRSError:
        raise InputError(
            f"{path}: the coordinate system {stated.get('name', identity)!r} of its geometry is not understood; "
            "convert it to WGS84"
        ) from None
