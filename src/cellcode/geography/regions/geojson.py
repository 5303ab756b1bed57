"""Reading the area of GeoJSON: rings in longitude and latitude, across the antimeridian and around poles."""

from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from shapely.geometry.base import BaseGeometry

from cellcode.errors import InputError
from cellcode.files import read_json
from cellcode.geography.regions.polygon import WORLD
from cellcode.types import Float64


def read(source: dict[str, Any] | Path | str) -> BaseGeometry:
    """Return the area of a GeoJSON object or file as a shape within -180..180 degrees; InputError says why it is none."""
    name = "GeoJSON region" if isinstance(source, dict) else str(source)
    value = source if isinstance(source, dict) else read_json(Path(source))
    polygons = list(_polygons(value, name))
    if not polygons:
        raise InputError(f"{name} holds no Polygon or MultiPolygon")
    shape = shapely.union_all([_unrolled(rings, name) for rings in polygons])
    if shape.is_empty or shape.area == 0:
        raise InputError(f"{name} has no area")
    return shape


def continuous(ring: Float64) -> Float64:
    """Take jumps of the longitude by a full turn out of a ring, (V, 2)."""
    steps = np.diff(ring[:, 0])
    turns = np.cumsum(360 * np.round(np.where(np.abs(steps) > 180, steps, 0) / 360))
    return np.stack([ring[:, 0] - np.concatenate([[0], turns]), ring[:, 1]], axis=1)


def over_pole(ring: Float64, pole: float) -> Float64:
    """Close a continuous ring that runs once around the Earth over a pole (90 or -90); others are returned as they are."""
    if abs(ring[-1, 0] - ring[0, 0]) < 180:
        return ring
    return np.concatenate([ring, [[ring[-1, 0], pole], [ring[0, 0], pole], ring[0]]])


def on_map(shape: BaseGeometry) -> BaseGeometry:
    """Bring a shape with longitudes in -900..900 into -180..180, cut at the antimeridian."""
    turns = [shapely.affinity.translate(shape, shift) for shift in (-720, -360, 0, 360, 720)]
    whole = shapely.union_all([shapely.intersection(turn, WORLD) for turn in turns])
    # A shape that only touches the antimeridian leaves a line on its other side.
    return shapely.union_all([part for part in shapely.get_parts(whole) if part.area > 0])


def _polygons(value: Any, name: str) -> list[list[Float64]]:
    kind = value.get("type") if isinstance(value, dict) else None
    try:
        if kind == "Polygon":
            return [[_ring(ring, name) for ring in value["coordinates"]]]
        if kind == "MultiPolygon":
            return [[_ring(ring, name) for ring in polygon] for polygon in value["coordinates"]]
        if kind == "Feature":
            return _polygons(value["geometry"], name)
        if kind in ("FeatureCollection", "GeometryCollection"):
            parts = value["features" if kind == "FeatureCollection" else "geometries"]
            return [polygon for part in parts for polygon in _polygons(part, name)]
    except (KeyError, TypeError):
        raise InputError(f"{name}: its {kind} lacks coordinates, geometry or features") from None
    raise InputError(f"{name}: a region must be made of Polygon or MultiPolygon, not {kind}")


def _ring(points: Any, name: str) -> Float64:
    try:
        ring = np.array([[float(point[0]), float(point[1])] for point in points], np.float64)
    except (TypeError, ValueError, IndexError):
        raise InputError(f"{name}: a ring holds something that is not [longitude, latitude]") from None
    if len(ring) < 4 or not np.isfinite(ring).all():
        raise InputError(f"{name}: a ring needs at least four positions, all finite")
    if np.abs(ring[:, 1]).max() > 90:
        latitude = ring[np.abs(ring[:, 1]).argmax(), 1]
        raise InputError(f"{name}: latitude {latitude} is not in -90..90 (longitude is first)")
    if ring[0, 1] != ring[-1, 1] or (ring[0, 0] - ring[-1, 0]) % 360:
        raise InputError(f"{name}: a ring is not closed; its last position must repeat its first")
    if np.abs(ring[:, 0]).max() > 540:
        raise InputError(f"{name}: longitude {ring[np.abs(ring[:, 0]).argmax(), 0]} is not in -180..180")
    return ring


def _unrolled(rings: list[Float64], name: str) -> BaseGeometry:
    if not rings:
        raise InputError(f"{name}: a polygon has no rings")
    outer, *holes = [continuous(ring) for ring in rings]
    shape = whole = _simple(_around_pole(outer), name)
    # Cut out one by one, because rings around a pole are closed over it and touch there.
    for hole in holes:
        closed = _around_pole(hole)
        shift = 360 * np.round(
            (outer[:, 0].mean() - closed[:, 0].mean()) / 360
        )  # to where the outer ring was unrolled to
        inner = _simple(closed + np.array([shift, 0.0]), name)
        if not shape.intersects(inner) or not whole.covers(inner):
            raise InputError(f"{name}: a hole lies outside its polygon or in another hole")
        shape = shape.difference(inner)
    return on_map(shape)


def _simple(ring: Float64, name: str) -> BaseGeometry:
    shape = shapely.Polygon(ring)
    if not shape.is_valid:
        raise InputError(f"{name}: {shapely.is_valid_reason(shape)}; a polygon must not cross itself")
    return shape


def _around_pole(ring: Float64) -> Float64:
    """Close a ring that runs once around the Earth over the pole on its side."""
    return over_pole(ring, 90.0 if ring[:, 1].mean() > 0 else -90.0)
