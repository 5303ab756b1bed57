"""GeoParquet and GeoJSON as lists of photos."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform

from cellcode.errors import InputError
from cellcode.photos import IngestOptions, PhotoTable, SplitRule, ingest

Write = Callable[..., Path]
LAT, LON = [48.5, -33.9, 52.0], [2.25, 18.4, 4.9]


@pytest.fixture
def folder(write_photo: Write, tmp_path: Path) -> Path:
    for name in "abc":
        write_photo(tmp_path / f"{name}.jpg")
    return tmp_path


def _ingest(path: Path, **options: Any) -> PhotoTable:
    rule = SplitRule(kind="none")
    return ingest(path, out=path.parent / "table", split=rule, options=IngestOptions(**options))


def _rejects(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "table/rejects.csv").open(newline="", encoding="utf-8") as file:
        return [(row["file"], row["line"], row["reason"]) for row in csv.DictReader(file)]


def _geoparquet(path: Path, geometry: pa.Array, facts: dict[str, Any], **columns: Any) -> Path:
    """Write a file as the specification of GeoParquet 1.1 says."""
    files = [f"{name}.jpg" for name in "abcdef"][: len(geometry)]
    table = pa.table({"file": files, **columns, "geometry": geometry})
    metadata = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"], **facts}},
    }
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(metadata)}), path)
    return path


def _wkb(*shapes: Any) -> pa.Array:
    return pa.array(
        [shape if isinstance(shape, bytes | None) else shapely.to_wkb(shape) for shape in shapes], pa.binary()
    )


@pytest.mark.parametrize("name", ["list.parquet", "list.geoparquet"])
@pytest.mark.parametrize(
    "facts",
    [{}, {"crs": CRS.from_epsg(4326).to_dict(projjson=True)}, {"crs": {"id": {"authority": "OGC", "code": "CRS84"}}}],
    ids=["none stated", "EPSG:4326", "CRS84"],
)
def test_points_of_geoparquet_are_longitude_and_latitude(name: str, facts: dict[str, Any], folder: Path) -> None:
    path = _geoparquet(folder / name, _wkb(*shapely.points(LON, LAT)), facts, heading=[1.0, None, 359.0])
    table = _ingest(path)
    assert table.lat_deg.tolist() == LAT
    assert table.lon_deg.tolist() == LON
    assert table.column("heading_deg") == [1, None, 359]


def test_points_encoded_as_fields_are_read(folder: Path) -> None:
    points = pa.StructArray.from_arrays([pa.array(LON), pa.array(LAT)], ["x", "y"])
    table = _ingest(_geoparquet(folder / "list.parquet", points, {"encoding": "point"}))
    assert (table.lat_deg.tolist(), table.lon_deg.tolist()) == (LAT, LON)


@pytest.mark.parametrize("code", [32631, 3857, 28992])
def test_other_coordinate_systems_are_converted(code: int, folder: Path) -> None:
    lat, lon = [52.1, 52.2, 52.3], [4.1, 4.2, 4.3]
    crs = CRS.from_epsg(code)
    x, y = transform(CRS.from_epsg(4326), crs, lon, lat)
    facts = {"crs": crs.to_dict(projjson=True)}
    table = _ingest(_geoparquet(folder / "list.parquet", _wkb(*shapely.points(x, y)), facts))
    np.testing.assert_allclose(table.lat_deg, lat, atol=1e-7)
    np.testing.assert_allclose(table.lon_deg, lon, atol=1e-7)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"crs": None}, "coordinate system of its geometry is unknown"),
        ({"crs": {"type": "ProjectedCRS", "name": "Moon"}}, "'Moon' of its geometry is not understood"),
        ({"encoding": "linestring"}, "encoded as linestring, cannot be read"),
    ],
)
def test_geometry_that_cannot_be_placed_is_refused(facts: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(InputError, match=says):
        _ingest(_geoparquet(folder / "list.parquet", _wkb(*shapely.points(LON, LAT)), facts))


def test_geoparquet_without_its_metadata_is_refused(folder: Path) -> None:
    pq.write_table(pa.table({"file": ["a.jpg"], "lat": [48.0], "lon": [2.0]}), folder / "list.geoparquet")
    with pytest.raises(InputError, match="lacks the metadata of GeoParquet"):
        _ingest(folder / "list.geoparquet")


def test_columns_that_are_named_come_before_the_geometry(folder: Path) -> None:
    path = _geoparquet(
        folder / "list.parquet", _wkb(*shapely.points(LON, LAT)), {}, y=[1.0, 2.0, 3.0], x=[4.0, 5.0, 6.0]
    )
    table = _ingest(path, columns={"lat": "y", "lon": "x"})
    assert (table.lat_deg.tolist(), table.lon_deg.tolist()) == ([1, 2, 3], [4, 5, 6])


def test_what_is_no_point_is_rejected_with_its_row(folder: Path) -> None:
    shapes = [
        shapely.Point(2, 48),
        shapely.LineString([(0, 0), (1, 1)]),
        None,
        b"\x01\x02",
        shapely.Point(),
        shapely.Point(2, 91),
    ]
    table = _ingest(_geoparquet(folder / "list.parquet", _wkb(*shapes), {}))
    assert table.column("file") == ["a.jpg"]
    assert _rejects(folder) == [
        ("b.jpg", "2", "its geometry is a LineString, not a Point"),
        ("c.jpg", "3", "no geometry"),
        ("d.jpg", "4", "its geometry is damaged"),
        ("e.jpg", "5", "no geometry"),
        ("f.jpg", "6", "lat is 91.0, not in -90..90"),
    ]


def _feature(file: str, geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"file": file, **properties}}


def _point(lat: float, lon: float) -> dict[str, Any]:
    return {"type": "Point", "coordinates": [lon, lat, 35.0]}


@pytest.mark.parametrize("form", ["collection", "a feature a line", "after separators"])
def test_geojson_is_read_whole_or_line_by_line(form: str, folder: Path) -> None:
    features = [
        _feature("a.jpg", _point(48.5, 2.25), heading=90, sequence=7, captured_at="2024-05-06T07:08:09Z"),
        _feature("b.jpg", _point(-33.9, 18.4), heading="180", lat=1, lon=1),
    ]
    path = folder / "list.geojson"
    if form == "collection":
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
    else:
        separator = "\x1e" if form == "after separators" else ""
        path.write_text("\n".join(separator + json.dumps(feature) for feature in features) + "\n")
    table = _ingest(path)
    assert (table.lat_deg.tolist(), table.lon_deg.tolist()) == ([48.5, -33.9], [2.25, 18.4])
    assert table.heading_deg.tolist() == [90, 180]
    assert table.column("sequence") == ["7", None]
    assert table.captured_at[0] == np.datetime64("2024-05-06T07:08:09")


def test_features_that_are_no_photos_are_rejected_and_the_others_kept(folder: Path) -> None:
    lines = [
        json.dumps(_feature("a.jpg", _point(48, 2))),
        "{",
        json.dumps(_feature("b.jpg", {"type": "Polygon", "coordinates": []})),
        json.dumps(_feature("b.jpg", None)),
        json.dumps(_feature("b.jpg", {"type": "Point", "coordinates": ["east", 2]})),
        "",
        json.dumps({"type": "Feature", "geometry": _point(48, 2), "properties": None}),
        *(json.dumps(_feature("b.jpg", {"type": "Point", "coordinates": [odd, 2]})) for odd in ("1_0", True, 10**400)),
        '{"a":' + "[" * 100_000,
        json.dumps(_feature("b\ud800.jpg", _point(48, 2))),
        json.dumps(_feature("b.jpg", _point(0, 0))),
        json.dumps(_feature("b.jpg", _point(48, 2), heading=True, width=10**30)),
    ]
    (folder / "list.geojsonl").write_text("\n".join(lines))
    assert _ingest(folder / "list.geojsonl").column("file") == ["a.jpg"]
    assert [(line, reason) for _, line, reason in _rejects(folder)] == [
        ("2", "not JSON of a Feature"),
        ("3", "its geometry is a Polygon, not a Point"),
        ("4", "no geometry"),
        ("5", "its geometry is damaged"),
        ("7", "no file"),
        *((str(line), "its geometry is damaged") for line in (8, 9, 10)),
        ("11", "not JSON of a Feature"),
        ("12", "the file does not exist"),
        ("13", "its position is exactly 0, 0, which devices write when they have none"),
        ("14", "heading is True, not a number"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "is no list of photos"),
        ('{"type": "Point"}', "is no list of photos"),
        ("not json", "not valid JSON"),
        ('{"features": [], "crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::28992"}}}', "WGS84 only"),
    ],
)
def test_json_that_is_no_list_is_refused_in_a_sentence(text: str, says: str, folder: Path) -> None:
    (folder / "list.geojson").write_text(text)
    with pytest.raises(InputError, match=says):
        _ingest(folder / "list.geojson")
