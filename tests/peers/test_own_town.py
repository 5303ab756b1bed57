"""One's own town, from a box on the map to an evaluated database: what comes from servers gives what local files give."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from cellcode import build, evaluate, ingest, train
from cellcode.config import Config
from cellcode.database import Database
from cellcode.http import Politeness
from cellcode.photos import IngestOptions, PhotoTable, SplitRule
from cellcode.simulation import Simulation

HALF_M = 20_037_508.342789244
RADIUS = "200"


class TownServer:
    """The rendered town as Panoramax and a tile service would have it."""

    def __init__(self, town: Simulation) -> None:
        with town.truth_path.open(encoding="utf-8") as file:
            self.photos = list(csv.DictReader(file))
        self.folder, self.raster = town.truth_path.parent, town.aerial_path
        self.asked = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str, query: dict[str, str]) -> tuple[str, bytes]:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "search"]:
            west, south, east, north = (float(edge) for edge in query["bbox"].split(","))
            found = [
                self._item(number, photo)
                for number, photo in enumerate(self.photos)
                if west <= float(photo["lon"]) <= east and south <= float(photo["lat"]) <= north
            ]
            body = {"type": "FeatureCollection", "features": found[: int(query["limit"])], "links": []}
            return "application/json", json.dumps(body).encode()
        if parts[:2] == ["api", "pictures"]:
            return "image/jpeg", (self.folder / self.photos[int(parts[2])]["file"]).read_bytes()
        return "image/png", self._tile(*(int(part) for part in path.removesuffix(".png").split("/")[2:]))

    def _item(self, number: int, photo: dict[str, str]) -> dict[str, Any]:
        return {
            "type": "Feature",
            "id": str(number),
            "collection": photo["sequence"],
            "geometry": {"type": "Point", "coordinates": [float(photo["lon"]), float(photo["lat"])]},
            "properties": {
                "datetime": f"{photo['captured_at']}+00:00",
                "license": photo["licence"],
                "view:azimuth": round(float(photo["heading"])),
            },
            "assets": {"hd": {"href": f"{self.url}/api/pictures/{number}"}},
        }

    def _tile(self, z: int, x: int, y: int) -> bytes:
        span = 2 * HALF_M / 2**z
        place = from_origin(x * span - HALF_M, HALF_M - y * span, span / 256, span / 256)
        options = {"crs": "EPSG:3857", "transform": place, "width": 256, "height": 256, "add_alpha": True}
        with (
            rasterio.open(self.raster) as raster,
            WarpedVRT(raster, resampling=Resampling.average, **options) as warped,
        ):
            pixels = warped.read()
        body = io.BytesIO()
        Image.fromarray(np.moveaxis(pixels, 0, 2)).save(body, "PNG", compress_level=1)
        return body.getvalue()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                server.asked += 1
                kind, body = server.answer(parts.path, {name: each[0] for name, each in parse_qs(parts.query).items()})
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def server(town: Simulation) -> Iterator[TownServer]:
    running = TownServer(town)
    yield running
    running.http.shutdown()
    running.http.server_close()


def walk(photos: str, aerial: str, town: Simulation, config: Config, folder: Path) -> tuple[PhotoTable, Database]:
    """The tutorial's steps, up to the database."""
    options = IngestOptions(min_width_px=64, politeness=Politeness(requests_per_s=1000.0))  # rendered photos are small
    table = ingest(photos, out=folder / "photos", region=town.region, split=SplitRule(kind="date"), options=options)
    made = train(config, table, aerial, out=folder / "run")
    return table, build(made, aerial, town.region, out=folder / "town.cells")


def bounds(town: Simulation) -> str:
    return ",".join(f"{edge:.7f}" for edge in town.region.bounds)


def assert_same_recall(table: PhotoTable, cells: Database, town_photos: PhotoTable, town_cells: Database) -> None:
    """Recall is that of the local files, within the 95 % interval of a difference of two shares."""
    served, local = (evaluate(*each).values for each in ((cells, table), (town_cells, town_photos)))
    count = local["photos"]
    assert served["photos"] == count
    for system in ("hybrid", "prototypes", "aerial"):
        p, q = (each["systems"][system]["recall"]["10"][RADIUS] for each in (served, local))
        mean = (p + q) / 2
        assert abs(p - q) <= 1.96 * np.sqrt(2 * mean * (1 - mean) / count) + 1 / count, system


def test_served_town_is_the_local_town(
    server: TownServer,
    town: Simulation,
    town_photos: PhotoTable,
    town_cells: Database,
    town_config: Config,
    loopback: None,
    tmp_path: Path,
) -> None:
    template = f"{server.url}/tiles/{{z}}/{{x}}/{{y}}.png#max_zoom=18&attribution=rendered&bounds={bounds(town)}"
    table, cells = walk(f"panoramax:{server.url}/api", template, town, town_config, tmp_path)
    assert len(table) == len(town_photos)
    np.testing.assert_allclose(np.sort(table.lat_deg), np.sort(town_photos.lat_deg), atol=1e-6)
    assert {table.split.tolist().count(name) for name in ("train", "test")} == {
        town_photos.split.tolist().count(name) for name in ("train", "test")
    }
    np.testing.assert_array_equal(cells.ids, town_cells.ids)
    assert "rendered" in cells.manifest["attributions"]
    assert_same_recall(table, cells, town_photos, town_cells)


@pytest.mark.peers
def test_town_behind_geovisio_and_titiler_is_the_local_town(
    geovisio: Any,
    titiler: str,
    town: Simulation,
    town_photos: PhotoTable,
    town_cells: Database,
    town_config: Config,
    loopback: None,
    tmp_path: Path,
) -> None:
    geovisio.upload("the rendered town", sorted(town.photos_dir.glob("*.jpg")))
    raster = quote(str(town.aerial_path), safe="")
    template = f"{titiler}/cog/tiles/WebMercatorQuad/{{z}}/{{x}}/{{y}}.png?tilesize=256&url={raster}"
    template += f"#max_zoom=18&bounds={bounds(town)}"
    table, cells = walk(f"panoramax:{geovisio.api_url}", template, town, town_config, tmp_path)
    assert len(table) == len(town_photos)
    assert_same_recall(table, cells, town_photos, town_cells)
