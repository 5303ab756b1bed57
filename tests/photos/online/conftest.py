"""Two photo services on loopback with a few hundred photos, limits like the real ones, and faults on demand."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image

from cellcode.geography import Region

TOKEN = "MLY|4711|0123456789abcdef"
FIRST_DAY = datetime(2024, 3, 1, tzinfo=UTC)
Photo = dict[str, Any]
Query = dict[str, str]


def picture(name: str, width: int = 96, height: int = 64) -> bytes:
    """A JPEG of its own for every name."""
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    body = io.BytesIO()
    Image.fromarray(((ramp + sum(name.encode()) * 7) % 256).astype(np.uint8)).save(body, "JPEG")
    return body.getvalue()


class PhotoServer:
    """What both services have in common.

    Attributes:
        photos: truth: id, lat, lon and whatever else the service tells.
        cap: an answer holds no more photos. max_limit, max_area: a question for more is refused with 400.
        faults: what a path (a part of it) does instead of answering, and how often; see `Handler`.
    """

    def __init__(self, photos: list[Photo], cap: int, max_limit: int, max_area: float = 1e9) -> None:
        self.photos, self.cap, self.max_limit, self.max_area = photos, cap, max_limit, max_area
        self.asked: list[tuple[str, Query, dict[str, str]]] = []
        self.faults: dict[str, tuple[str, int]] = {}
        self.http = ThreadingHTTPServer(("0.0.0.0", 0), _handler(self))
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str, query: Query, headers: dict[str, str]) -> tuple[int, bytes]:
        raise NotImplementedError

    def fault(self, path: str) -> str | None:
        for part, (kind, times) in self.faults.items():
            if part in path and times > 0:
                self.faults[part] = (kind, times - 1)
                return kind
        return None

    def within(self, query: Query, latitude: str, longitude: str) -> list[Photo] | None:
        """Photos of the question's box, cut to its limit; None if it asks for too much."""
        west, south, east, north = (float(edge) for edge in query["bbox"].split(","))
        limit = int(query["limit"])
        if limit > self.max_limit or (east - west) * (north - south) >= self.max_area:
            return None
        return self.inside_box(query, latitude, longitude)[: min(limit, self.cap)]

    def inside_box(self, query: Query, latitude: str, longitude: str) -> list[Photo]:
        west, south, east, north = (float(edge) for edge in query["bbox"].split(","))
        return [p for p in self.photos if south <= p[latitude] <= north and west <= p[longitude] <= east]

    def count(self, part: str) -> int:
        """How often a path was asked for."""
        return sum(part in path for path, _, _ in self.asked)


def _handler(server: PhotoServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            server.asked.append((parts.path, query, dict(self.headers)))
            fault = server.fault(parts.path)
            if fault is None:
                self.reply(*server.answer(parts.path, query, dict(self.headers)))
            elif fault.isdigit():
                self.reply(int(fault), b"no")
            else:
                getattr(self, fault)(parts.path, query)

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def busy(self, path: str, query: Query) -> None:
            self.reply(429, b"", Retry_After="0")

        def busy_for_long(self, path: str, query: Query) -> None:
            self.reply(429, b"", Retry_After="3600")

        def hang(self, path: str, query: Query) -> None:
            time.sleep(0.5)
            self.close_connection = True

        def cut(self, path: str, query: Query) -> None:
            status, body = server.answer(path, query, dict(self.headers))
            self.reply(status, body[: len(body) // 2], Content_Length=str(len(body)))
            self.close_connection = True

        def too_long(self, path: str, query: Query) -> None:
            """The length of half the body: a wrong one that looks whole."""
            status, body = server.answer(path, query, dict(self.headers))
            self.reply(status, body, Content_Length=str(len(body) // 2), Connection="close")
            self.close_connection = True

        def html(self, path: str, query: Query) -> None:
            self.reply(200, b"<html>Please sign in</html>", Content_Type="text/html")

        def elsewhere(self, path: str, query: Query) -> None:
            self.reply(302, b"", Location=f"http://127.0.0.3:{server.port}{path}?{urlencode(query)}")

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class MapillaryServer(PhotoServer):
    """Version 4: pictures on another host, links that expire, positions as uploaded and corrected.

    Attributes:
        generation: of the links that are valid.
        deleted: photos that are listed and not there any more.
    """

    generation = 1
    token = TOKEN

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deleted: set[str] = set()
        self.spec = f"mapillary:{self.url}"

    def answer(self, path: str, query: Query, headers: dict[str, str]) -> tuple[int, bytes]:
        if path.startswith("/picture/"):
            _, _, name, width = path.split("/")
            valid = int(query["generation"]) >= self.generation and name not in self.deleted
            return (200, picture(name, int(width), 64)) if valid else (403, b"URL signature expired")
        if headers.get("Authorization") != f"OAuth {self.token}":
            return 401, b"{}"
        if path != "/images":
            image = next((p for p in self.photos if path == f"/{p['id']}" and p["id"] not in self.deleted), None)
            return (400, b"{}") if image is None else (200, json.dumps(self.entity(image, query)).encode())
        found = self.within(query, "raw_lat", "raw_lon")
        if found is None:
            return 400, b'{"error": {"message": "too large"}}'
        for name, later in (("start_captured_at", True), ("end_captured_at", False)):
            if name in query:
                end = datetime.fromisoformat(query[name])
                found = [p for p in found if (p["captured_at"] >= end if later else p["captured_at"] <= end)]
        return 200, json.dumps({"data": [self.entity(p, query) for p in found]}).encode()

    def entity(self, photo: Photo, query: Query) -> dict[str, Any]:
        link = f"http://127.0.0.2:{self.port}/picture/{photo['id']}/{{}}?generation={self.generation}".format
        fields = {
            "id": photo["id"],
            "geometry": {"type": "Point", "coordinates": [photo["raw_lon"], photo["raw_lat"]]},
            "computed_geometry": {"type": "Point", "coordinates": [photo["lon"], photo["lat"]]},
            "compass_angle": photo["heading"] + 9,
            "computed_compass_angle": photo["heading"],
            "captured_at": round(photo["captured_at"].timestamp() * 1000),
            "sequence": photo["sequence"],
            "camera_type": "perspective",
            "camera_parameters": [0.75, 0.01, 0.0],
            "make": "Acme",
            "model": "One",
            "width": 96,
            "height": 64,
            "quality_score": photo["quality"],
            "creator": {"id": "7", "username": "ann"},
            "thumb_1024_url": link(48),
            "thumb_original_url": link(96),
            **photo.get("fields", {}),
        }
        wanted = query["fields"].split(",")
        return {name: value for name, value in fields.items() if name in wanted and value is not None}


class PanoramaxServer(PhotoServer):
    """GeoVisio's part of STAC.

    Attributes:
        paging: a search names its next page, as GeoVisio does not. links: further ones of every search.
    """

    paging = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.links: list[dict[str, str]] = []
        self.spec = f"panoramax:{self.url}/api"

    def answer(self, path: str, query: Query, headers: dict[str, str]) -> tuple[int, bytes]:
        if path.startswith("/api/pictures/"):
            _, _, _, name, file = path.split("/")
            photo = next((p for p in self.photos if p["id"] == name), None)
            size = {"hd.jpg": (96, 64), "sd.jpg": (72, 48), "thumb.jpg": (48, 32)}[file]
            return (404, b"") if photo is None else (200, picture(name, *photo.get("size", size)))
        if path.startswith("/api/collections/"):
            return self.sequence(path, query)
        found = self.within({"limit": "10", **query}, "lat", "lon")
        if found is None:
            return 400, b'{"message": "Parameter limit must be a number between 1 and 10000"}'
        start, end = query.get("datetime", "../..").split("/")
        found = [p for p in found if start == ".." or p["captured_at"] >= datetime.fromisoformat(start)]
        found = [p for p in found if end == ".." or p["captured_at"] <= datetime.fromisoformat(end)]
        links = [{"rel": "root", "href": f"{self.url}/api"}, *self.links]
        if self.paging:
            page, found = int(query.get("page", "0")), self.inside_box(query, "lat", "lon")
            if (page + 1) * self.cap < len(found):
                following = urlencode({**query, "page": str(page + 1)})
                links.append({"rel": "next", "href": f"/api/search?{following}"})
            found = found[page * self.cap : (page + 1) * self.cap]
        return self.features(found, links)

    def sequence(self, path: str, query: Query) -> tuple[int, bytes]:
        members = [p for p in self.photos if path == f"/api/collections/{p['sequence']}/items"]
        first, limit = int(query.get("startAfterRank", "0")), min(int(query["limit"]), self.cap)
        links = []
        if first + limit < len(members):
            links = [{"rel": "next", "href": f"{self.url}{path}?limit={limit}&startAfterRank={first + limit}"}]
        return self.features(members[first : first + limit], links)

    def features(self, photos: list[Photo], links: list[dict[str, str]]) -> tuple[int, bytes]:
        body = {"type": "FeatureCollection", "features": [self.feature(p) for p in photos], "links": links}
        return 200, json.dumps(body).encode()

    def feature(self, photo: Photo) -> dict[str, Any]:
        sizes = ("hd", "sd", "thumb")
        properties = {
            "datetime": photo["captured_at"].isoformat(),
            "license": "etalab-2.0",
            "view:azimuth": round(photo["heading"]),
            "pers:interior_orientation": {
                "camera_manufacturer": "Acme",
                "camera_model": "One",
                "field_of_view": 70,
                "sensor_array_dimensions": [96, 64],
            },
            "quality:horizontal_accuracy": photo["accuracy"],
            **photo.get("properties", {}),
        }
        links = [{"rel": "next", "href": "http://127.0.0.1/the/next/photo/of/the/sequence"}]
        feature = {
            "type": "Feature",
            "id": photo["id"],
            "collection": photo["sequence"],
            "geometry": {"type": "Point", "coordinates": [photo["lon"], photo["lat"]]},
            "providers": [{"name": "bob", "roles": ["producer"]}],
            "properties": {name: value for name, value in properties.items() if value is not None},
            "assets": {size: {"href": f"{self.url}/api/pictures/{photo['id']}/{size}.jpg"} for size in sizes},
            "links": links,
            **photo.get("feature", {}),
        }
        return {name: value for name, value in feature.items() if value is not None}


def make_photos(
    count: int, seed: int = 0, west: float = 3.0, south: float = 51.0, size_deg: float = 0.02
) -> list[Photo]:
    """Photos along streets and in one dense place, as people take them."""
    rng = np.random.default_rng(seed)
    lat, lon = south + rng.random(count) * size_deg, west + rng.random(count) * size_deg
    dense = rng.random(count) < 0.3
    lat[dense] = south + size_deg * (0.7 + 0.002 * rng.random(dense.sum()))
    lon[dense] = west + size_deg * (0.2 + 0.002 * rng.random(dense.sum()))
    return [
        {
            "id": f"{10_000 + number}",
            "lat": float(lat[number]),
            "lon": float(lon[number]),
            "raw_lat": float(lat[number] + rng.uniform(-1e-4, 1e-4)),
            "raw_lon": float(lon[number] + rng.uniform(-1e-4, 1e-4)),
            "heading": float(rng.uniform(0, 350)),
            "captured_at": FIRST_DAY + timedelta(days=int(rng.integers(0, 20))),
            "sequence": f"s{number // 50}",
            "quality": float(rng.random()),
            "accuracy": float(rng.uniform(0.5, 8)),
        }
        for number in range(count)
    ]


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLCODE_ALLOW_PRIVATE", "1")
    monkeypatch.setenv("MAPILLARY_TOKEN", TOKEN)


@pytest.fixture
def start() -> Iterator[Callable[..., PhotoServer]]:
    """Start a server of a kind; it ends with the test."""
    running: list[PhotoServer] = []

    def started(kind: type[PhotoServer], photos: list[Photo], cap: int = 2000, **limits: Any) -> PhotoServer:
        running.append(kind(photos, cap, **{"max_limit": 2000, **limits}))
        return running[-1]

    yield started
    for server in running:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def mapillary(start: Callable[..., PhotoServer]) -> Callable[..., PhotoServer]:
    return partial(start, MapillaryServer, max_area=0.01)


@pytest.fixture
def panoramax(start: Callable[..., PhotoServer]) -> Callable[..., PhotoServer]:
    return partial(start, PanoramaxServer)


@pytest.fixture
def town() -> list[Photo]:
    return make_photos(300)


@pytest.fixture
def here() -> Region:
    """Most of the town, not a box: a part of the boxes' photos lies outside."""
    corners = [[3.001, 51.001], [3.018, 51.0], [3.02, 51.017], [3.006, 51.02], [3.001, 51.001]]
    return Region.geojson({"type": "Polygon", "coordinates": [corners]})
