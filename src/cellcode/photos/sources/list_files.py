"""Lists of photos as files: CSV, Parquet, GeoParquet, GeoJSON; read in parts of columns."""

import csv
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from cellcode.errors import InputError
from cellcode.geography.numbers import parse_number
from cellcode.photos.table.photo_table import readable
from cellcode.types import Float64, Int64

_WGS84 = CRS.from_epsg(4326)
_GEOGRAPHIC_WGS84 = {("OGC", "CRS84"), ("OGC", "CRS84h"), ("EPSG", "4326"), ("EPSG", "4979")}
_POINT = 0  # shapely's number of the type


@dataclass(frozen=True)
class Geometry:
    """A geometry column, encoded as "WKB" or "point" (x and y as fields of a struct).

    Coordinates are in `crs` (None: WGS84), x (east) and y (north) whatever the system's own axis order is.
    """

    column: str
    encoding: str
    crs: CRS | None

    @classmethod
    def of_parquet(cls, schema: pa.Schema, path: Path) -> Self | None:
        """Return the primary geometry of a Parquet file, None if it is no GeoParquet; InputError: it cannot be read."""
        if (raw := (schema.metadata or {}).get(b"geo")) is None:
            return None
        try:
            metadata = json.loads(raw)
            facts = metadata["columns"][column := metadata["primary_column"]]
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
    empty, faults = shapely.is_empty(shapes), {}
    full = np.where(empty, None, shapes)
    x, y = shapely.get_x(full), shapely.get_y(full)  # NaN of anything but a point
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


LINES = 65_536


@dataclass(frozen=True)
class Lines:
    """Some lines of a list, as they are: nothing is checked yet.

    Attributes:
        numbers: (N,) int64, for people: of a CSV the line, of Parquet the row, of GeoJSON the feature, from 1.
        columns: our name to N values.
        faults: index to why a line is not usable at all.
        decimal: what stands between a number and its fraction.
    """

    numbers: Int64
    columns: dict[str, pa.Array]
    faults: dict[int, str] = field(default_factory=dict)
    decimal: str = "."


class PhotoList:
    """A list of photos: the names of its columns, and if it has a geometry of points, which positions come from."""

    names: list[str]
    placed: bool = False

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """Yield its lines, with the columns that are wanted (our name to the list's); InputError: the file is damaged."""
        raise NotImplementedError


class CsvList(PhotoList):
    """A CSV file with a header line, in UTF-8 or UTF-16; every value is text. InputError: it cannot be read, or is none.

    Values are separated by commas, semicolons or tabs, as in the header; without commas, numbers may have decimal commas.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _csv(path) as rows:
            self._decimal = "." if rows.dialect.delimiter == "," else ","
            self.names = [name.strip() for name in next(rows, [])]

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """See `PhotoList`. A line that is too short has None for what it lacks; empty lines are skipped."""
        places = {name: self.names.index(column) for name, column in wanted.items()}
        with _csv(self._path) as rows:
            next(rows, None)
            numbered = ((rows.line_num, row) for row in rows if row)
            while some := list(islice(numbered, LINES)):
                columns = {
                    name: pa.array([row[place] if place < len(row) else None for _, row in some], pa.string())
                    for name, place in places.items()
                }
                yield Lines(np.array([number for number, _ in some], np.int64), columns, decimal=self._decimal)


class ParquetList(PhotoList):
    """A Parquet file; with the metadata of GeoParquet, its geometry is the position. InputError: it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with readable(path):
            self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        self.names = list(schema.names)
        self._geometry = Geometry.of_parquet(schema, path)
        self.placed = self._geometry is not None
        if path.suffix.lower() == ".geoparquet" and not self.placed:
            raise InputError(
                f"{path} lacks the metadata of GeoParquet ('geo'); rename it to .parquet if it has lat and lon"
            )

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """See `PhotoList`."""
        geometry = self._geometry if not {"lat", "lon"} <= wanted.keys() else None
        names, first = {*wanted.values(), *([geometry.column] if geometry else [])}, 1
        with readable(self._path):
            for batch in self._file.iter_batches(LINES, columns=sorted(names)):
                columns = {name: batch.column(column) for name, column in wanted.items()}
                for name, values in columns.items():
                    if pa.types.is_dictionary(values.type):
                        columns[name] = values.dictionary_decode()
                faults: dict[int, str] = {}
                if geometry is not None:
                    lat, lon, faults = geometry.positions(batch.column(geometry.column))
                    columns |= {"lat": pa.array(lat), "lon": pa.array(lon)}
                yield Lines(np.arange(first, first + len(batch)), columns, faults)
                first += len(batch)


@contextmanager
def _csv(path: Path) -> Iterator[Any]:
    """Rows from the header on; `sep=;` before it, which Excel writes and understands, is skipped."""
    try:
        with path.open(newline="", encoding=_encoding(path)) as file:
            first = file.readline()
            stated = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE)
            file.seek(0)
            rows = csv.reader(
                file, delimiter=stated[1] if stated else max(",;\t", key=first.count), skipinitialspace=True
            )
            if stated:
                next(rows)
            yield rows
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}); save it as CSV UTF-8") from None


def _encoding(path: Path) -> str:
    """UTF-16, as Windows writes "Unicode", by its first bytes, else UTF-8."""
    with path.open("rb") as file:
        head = file.read(2)
    return "utf-16" if head in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-16-le" if head[1:] == b"\0" else "utf-8-sig"


GEOJSON_SUFFIXES = (".geojson", ".geojsonl", ".geojsonseq", ".geojsons", ".ndjson")
_SEPARATOR = "\x1e"  # RFC 8142 puts it before every feature
_GEOJSON_CRS = ("CRS84", "4326")


class GeoJsonList(PhotoList):
    """A GeoJSON file, whole in memory: about 1 kB a photo. InputError: it cannot be read, or is neither of the forms."""

    placed = True

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_text(encoding=_encoding(path))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from None
        except UnicodeError as error:
            raise InputError(f"{path} is not GeoJSON in UTF-8 ({error})") from None
        self._features = _lines(text) if _is_line_by_line(text) else _collection(text, path)
        properties = [_properties(feature) for _, feature in self._features]
        self.names = list(dict.fromkeys(name for each in properties for name in each))

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        """See `PhotoList`."""
        for first in range(0, len(self._features), LINES):
            numbers, features = zip(*self._features[first : first + LINES], strict=True)
            properties, places = [_properties(each) for each in features], [_position(each) for each in features]
            found = np.array([place if isinstance(place, tuple) else (np.nan, np.nan) for place in places], np.float64)
            columns = {"lat": pa.array(found[:, 0]), "lon": pa.array(found[:, 1])}
            columns |= {name: array_of([each.get(column) for each in properties]) for name, column in wanted.items()}
            needed = not {"lat", "lon"} <= wanted.keys()
            faults = {row: place for row, place in enumerate(places) if needed and isinstance(place, str)}
            yield Lines(np.array(numbers, np.int64), columns, faults)


def _is_line_by_line(text: str) -> bool:
    """Return True if the first line that is not empty is a Feature of its own."""
    start = text.lstrip(" \r\n\t")
    if start.startswith(_SEPARATOR):
        return True
    try:
        feature = json.loads(start.partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(feature, dict) and feature.get("type") == "Feature"


def _lines(text: str) -> list[tuple[int, Any]]:
    """Features by their line; None where a line is no JSON."""
    features: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line := line.strip(_SEPARATOR + " \r\t"):
            try:
                features.append((number, json.loads(line)))
            except (ValueError, RecursionError):
                features.append((number, None))
    return features


def _collection(text: str, path: Path) -> list[tuple[int, Any]]:
    """Features of a collection by their number."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error})") from None
    features = value.get("features") if isinstance(value, dict) else None
    if not isinstance(features, list):
        raise InputError(f"{path} is no list of photos: a FeatureCollection of points is, or one Feature a line")
    crs = str((value.get("crs") or {}).get("properties") or "CRS84")
    if not any(name in crs for name in _GEOJSON_CRS):
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
        lon, lat = (parse_number(str(value)) for value in geometry["coordinates"][:2])
    except (KeyError, TypeError, ValueError):
        return "its geometry is damaged"
    return lat, lon


def array_of(values: list[Any]) -> pa.Array:
    """Return values of JSON as a column; as text where they are of several kinds, or none that a column can hold."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        texts = (value if value is None or isinstance(value, str) else json.dumps(value) for value in values)
        return pa.array([text and text.encode("utf-8", "backslashreplace").decode() for text in texts], pa.string())
