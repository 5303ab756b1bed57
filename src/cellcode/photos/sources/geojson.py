"""GeoJSON as a list of photos: a FeatureCollection of points, or one Feature a line; properties are the columns."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cellcode.errors import InputError
from cellcode.photos.sources.list_files import LINES, Lines, PhotoList

SUFFIXES = (".geojson", ".geojsonl", ".geojsonseq", ".geojsons", ".ndjson")
_SEPARATOR = "\x1e"  # RFC 8142 puts it before every feature
_WGS84 = ("CRS84", "4326")


class GeoJsonList(PhotoList):
    """A GeoJSON file, whole in memory: about 1 kB a photo. For millions of photos, Parquet is the better list.

    Raises:
        InputError: it cannot be read, or is neither of the two forms.
    """

    placed = True

    def __init__(self, path: Path) -> None:
        """Read it."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not GeoJSON in UTF-8 ({error})") from None
        self._features = _lines(text) if _is_line_by_line(text) else _collection(text, path)
        properties = [_properties(feature) for _, feature in self._features]
        self.names = list(dict.fromkeys(name for each in properties for name in each))

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """See `PhotoList`."""
        for first in range(0, len(self._features), LINES):
            some = self._features[first : first + LINES]
            properties = [_properties(feature) for _, feature in some]
            columns = {name: array_of([each.get(column) for each in properties]) for name, column in wanted.items()}
            places = [_position(feature) for _, feature in some]
            found = [place if isinstance(place, tuple) else (np.nan, np.nan) for place in places]
            geometry = {"lat": [lat for lat, _ in found], "lon": [lon for _, lon in found]}
            columns = {**{name: pa.array(values, pa.float64()) for name, values in geometry.items()}, **columns}
            needed = not {"lat", "lon"} <= wanted.keys()
            faults = {row: place for row, place in enumerate(places) if needed and isinstance(place, str)}
            yield Lines(np.array([number for number, _ in some], np.int64), columns, faults)


def _is_line_by_line(text: str) -> bool:
    """Return True if the first line that is not empty is a Feature of its own."""
    start = text.lstrip(" \r\n\t")
    if start.startswith(_SEPARATOR):
        return True
    try:
        feature = json.loads(start.partition("\n")[0])
    except ValueError:
        return False
    return isinstance(feature, dict) and feature.get("type") == "Feature"


def _lines(text: str) -> list[tuple[int, Any]]:
    """Features by their line; None where a line is no JSON."""
    features: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(_SEPARATOR + " \r\t")
        if not line:
            continue
        try:
            features.append((number, json.loads(line)))
        except ValueError:
            features.append((number, None))
    return features


def _collection(text: str, path: Path) -> list[tuple[int, Any]]:
    """Features of a collection by their number."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})") from None
    features = value.get("features") if isinstance(value, dict) else None
    if not isinstance(features, list):
        raise InputError(f"{path} is no list of photos: a FeatureCollection of points is, or one Feature a line")
    crs = str((value.get("crs") or {}).get("properties") or "CRS84")
    if not any(name in crs for name in _WGS84):
        raise InputError(f"{path}: its positions are in {crs}; GeoJSON is read in WGS84 only, convert it")
    return list(enumerate(features, start=1))


def _properties(feature: Any) -> dict[str, Any]:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    return properties if isinstance(properties, dict) else {}


def _position(feature: Any) -> tuple[float, float] | str:
    """Latitude and longitude of a feature, or why it has none."""
    if not isinstance(feature, dict):
        return "not JSON of a Feature"
    geometry = feature.get("geometry")
    if not isinstance(geometry, dict):
        return "no geometry"
    if geometry.get("type") != "Point":
        return f"its geometry is a {geometry.get('type')}, not a Point"
    try:
        lon, lat = (float(value) for value in geometry["coordinates"][:2])
    except (KeyError, TypeError, ValueError):
        return "its geometry is damaged"
    return lat, lon


def array_of(values: list[Any]) -> pa.Array:
    """Return values of JSON as a column; as text where they are of several kinds."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
