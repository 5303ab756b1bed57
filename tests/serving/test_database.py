"""GET routes: what is searched, cells, and pictures of the imagery against rasterio's own projection."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from PIL import Image
from rasterio.transform import from_bounds

from cellcode.database import Database, split
from cellcode.geography import s2
from cellcode.search import Locator
from cellcode.simulation import Simulation

RADIUS_M = 6_378_137.0


def test_the_database_is_described(server, locator: Locator) -> None:
    said = server.get("/v1/database").json()
    database = locator.database
    assert said["identity"] == database.identity
    assert said["cells"]["total"] == len(database.ids)
    assert tuple(said["bounds"]) == database.region_bounds
    assert said["licences"] == ["CC0-1.0"]
    assert said["imagery"]["attribution"]
    assert said["limits"]["heat_cells"] == 10_000
    assert said["keys_needed"] is False


def test_a_cell_is_described(server, locator: Locator) -> None:
    cell = locator.database.ids[7]
    token = s2.tokens([cell])[0]
    said = server.get(f"/v1/cells/{token}").json()
    ring = np.array(said["polygon"]["coordinates"][0])
    assert np.allclose(ring[:4, ::-1], s2.cell_polygons([cell])[0])
    assert (ring[0] == ring[4]).all()
    assert (said["lat"], said["lon"]) == pytest.approx([float(v[0]) for v in s2.cell_centers([cell])])
    assert said["training_photos"] == locator.database.facts.photos[7]
    picture = server.get(said["aerial"] + "?size_px=64")
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (64, 64)


def test_a_tile_lies_where_web_mercator_puts_it(server, town: Simulation) -> None:
    with rasterio.open(town.aerial_path) as raster:
        west, south, east, north = rasterio.warp.transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
        lat, lon = (south + north) / 2, (west + east) / 2
        z = 16
        x = int((lon + 180) / 360 * 2**z)
        y = int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**z)
        edge = 2 * math.pi * RADIUS_M / 2**z
        left, top = x * edge - math.pi * RADIUS_M, math.pi * RADIUS_M - y * edge
        truth = np.zeros((3, 256, 256), np.uint8)
        rasterio.warp.reproject(
            raster.read([1, 2, 3]),
            truth,
            src_transform=raster.transform,
            src_crs=raster.crs,
            dst_transform=from_bounds(left, top - edge, left + edge, top, 256, 256),
            dst_crs="EPSG:3857",
            resampling=rasterio.warp.Resampling.average,
        )
    answer = server.get(f"/v1/tiles/{z}/{x}/{y}.webp")
    made = np.asarray(Image.open(io.BytesIO(answer.content)), np.float64).mean(axis=2)
    want = truth.astype(np.float64).mean(axis=0)
    assert abs(_shift(made, want)).max() < 0.6  # pixels


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/cells/zzz", 400, "bad_request"),
        ("/v1/cells/47d", 404, "not_found"),
        ("/v1/cells/ffffffffffffffff", 404, "not_found"),
        ("/v1/tiles/3/1/1.webp", 404, "not_found"),
        ("/v1/tiles/14/99999999/1.webp", 404, "not_found"),
        ("/v1/tiles/14/1/1.webp", 404, "not_found"),
        ("/v1/tiles/a/b/c.webp", 400, "bad_request"),
        ("/v1/nothing", 404, "not_found"),
        ("/v1/locate", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_told_in_one_format(server, path: str, status: int, code: str) -> None:
    answer = server.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_without_imagery_there_are_no_pictures(starts, locator: Locator) -> None:
    plain = starts(aerial=None)
    assert plain.get("/v1/database").json()["imagery"] is None
    token = s2.tokens(locator.database.ids[:1])[0]
    assert plain.get(f"/v1/cells/{token}").json()["aerial"] is None
    assert plain.get(f"/v1/cells/{token}/aerial.jpg").json()["error"]["code"] == "not_found"


def test_counters_are_told(server) -> None:
    server.get("/v1/database")
    text = server.get("/metrics").text
    assert 'cellcode_requests_total{route="/v1/database",status="200"}' in text
    assert server.get("/readyz").json() == {"status": "ok"}


def _shift(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Phase correlation: rows and columns by which the two pictures differ, to a fraction of a pixel."""
    window = np.outer(np.hanning(len(one)), np.hanning(len(one)))
    spectrum = np.fft.fft2((one - one.mean()) * window) * np.conj(np.fft.fft2((two - two.mean()) * window))
    peak = np.fft.ifft2(spectrum / np.maximum(np.abs(spectrum), 1e-9)).real
    at = np.array(np.unravel_index(peak.argmax(), peak.shape))
    size = len(one)
    near = [(at + np.array([i, j])) % size for i in (-1, 0, 1) for j in (-1, 0, 1)]
    weights = np.array([max(peak[tuple(each)], 0) for each in near])
    offsets = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    centre = (at + size / 2) % size - size / 2
    return centre + (weights[:, None] * offsets).sum(axis=0) / weights.sum()


def test_a_folder_of_shards_is_served_as_the_whole(
    server, starts, town_cells: Database, photos: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    """Through the HTTP API: answers, maps of the posterior, claims, facts of the database and of its cells."""
    split(town_cells, 2, out=tmp_path / "shards")
    shards = starts(cells=tmp_path / "shards")
    lat, lon = (float(value[0]) for value in s2.cell_centers(town_cells.ids[7:8]))
    token = s2.tokens(town_cells.ids[7:8])[0]
    for path, count, fields in (
        ("/v1/locate", 3, {"top": 50, "heat": "true"}),
        ("/v1/locate", 3, {"top": 3, "fuse": "true"}),
        ("/v1/verify", 1, {"lat": lat, "lon": lon}),
    ):
        assert shards.post(path, photos[:count], **fields).json() == server.post(path, photos[:count], **fields).json()
    for path in ("/v1/database", f"/v1/cells/{token}"):
        assert shards.get(path).json() == server.get(path).json()
