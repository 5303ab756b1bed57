from __future__ import annotations

import functools
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import rasterio
import rasterio.warp
from PIL import Image
from rasterio.transform import Affine

from cellcode.http import Client, Politeness
from cellcode.types import Float64, UInt8


def _carry(source: str, target: str, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    a, b = rasterio.warp.transform(source, target, np.ravel(x), np.ravel(y))
    return np.reshape(a, x.shape), np.reshape(b, y.shape)


@dataclass(frozen=True)
class Ramp:
    """A raster whose colours are its own pixel positions: red is the column, green the row (both modulo 256).

    Blue is 255 less red, so that a shift can be told from a change of brightness.
    """

    path: Path
    crs: str
    transform: Affine
    width: int
    height: int
    lat_deg: float
    lon_deg: float

    def at(
        self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0
    ) -> tuple[Float64, Float64]:
        """Column and row (centre of the first pixel = 0) of every pixel of a crop, by PROJ alone.

        Distance and azimuth on the ellipsoid are those of the azimuthal equidistant projection around the crop's centre.
        """
        along = (np.arange(size_px) + 0.5) * size_m / size_px - size_m / 2
        right, up = np.meshgrid(along, -along)
        turn = np.deg2rad(bearing_deg)
        east, north = right * np.cos(turn) + up * np.sin(turn), up * np.cos(turn) - right * np.sin(turn)
        local = f"+proj=aeqd +lat_0={float(lat_deg)!r} +lon_0={float(lon_deg)!r} +ellps=WGS84 +units=m"
        lon, lat = _carry(local, "EPSG:4326", east, north)
        x, y = _carry("EPSG:4326", self.crs, lon, lat)
        if self.crs == "EPSG:4326":
            x = x + 360 * np.round((self.transform.c - x) / 360)
        inverse = ~self.transform
        return inverse.a * x + inverse.b * y + inverse.c - 0.5, inverse.d * x + inverse.e * y + inverse.f - 0.5

    def moved(self, columns: float, rows: float) -> tuple[float, float]:
        """Latitude and longitude of the point that many pixels right of and below the raster's middle."""
        x, y = self.transform.c, self.transform.f
        x += self.transform.a * (self.width / 2 + columns) + self.transform.b * (self.height / 2 + rows)
        y += self.transform.d * (self.width / 2 + columns) + self.transform.e * (self.height / 2 + rows)
        lon, lat = rasterio.warp.transform(self.crs, "EPSG:4326", [x], [y])
        return lat[0], lon[0]


@pytest.fixture
def write_ramp() -> Callable[..., Ramp]:
    """Write a ramp centred on a point, with square pixels of about `pixel_m` on the ground, turned by `turn_deg`.

    `pixels` gives other bands than these; `options` go to rasterio, `after` to the open file.
    """

    def write(
        path: Path,
        crs: str,
        lat_deg: float,
        lon_deg: float,
        *,
        pixel_m: float = 0.5,
        size: tuple[int, int] = (256, 256),
        turn_deg: float = 0.0,
        pixels: UInt8 | None = None,
        after: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> Ramp:
        width, height = size
        lon, lat = np.array([lon_deg]), np.array([lat_deg])
        x, y = _carry("EPSG:4326", crs, lon, lat)
        if crs == "EPSG:4326":
            x = lon  # 180 stays 180
        # Size of a pixel in units of the CRS, along each axis, from a short geodesic.
        local = f"+proj=aeqd +lat_0={float(lat_deg)!r} +lon_0={float(lon_deg)!r} +ellps=WGS84 +units=m"
        east, north = _carry("EPSG:4326", crs, *_carry(local, "EPSG:4326", np.array([10.0, 0]), np.array([0, 10.0])))
        step_x = np.hypot((east[0] - x[0] + 180) % 360 - 180 if crs == "EPSG:4326" else east[0] - x[0], north[0] - y[0])
        step_y = np.hypot((east[1] - x[0] + 180) % 360 - 180 if crs == "EPSG:4326" else east[1] - x[0], north[1] - y[0])
        transform = (
            Affine.translation(x[0], y[0])
            @ Affine.rotation(turn_deg)
            @ Affine.scale(step_x * pixel_m / 10, -step_y * pixel_m / 10)
            @ Affine.translation(-width / 2, -height / 2)
        )
        if pixels is None:
            columns, rows = np.meshgrid(np.arange(width) % 256, np.arange(height) % 256)
            pixels = np.stack([columns, rows, 255 - columns]).astype(np.uint8)
        profile = {"driver": "GTiff", "width": width, "height": height, "count": len(pixels), "dtype": "uint8"}
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", **{**profile, "crs": crs, "transform": transform, **options}) as dataset:
            dataset.write(pixels.astype(dataset.dtypes[0]))
            if after is not None:
                after(dataset)
        return Ramp(path, crs, transform, width, height, lat_deg, lon_deg)

    return write


class Waves:
    """Imagery that is known everywhere: smooth waves over Web Mercator, so that a shift shows as a change of colour."""

    LENGTHS_M = (41.0, 53.0, 67.0)  # of the waves of red, green and blue

    def colours(self, x: Float64, y: Float64) -> Float64:
        """Red, green and blue at positions in Web Mercator."""
        red, green, blue = (2 * np.pi / length for length in self.LENGTHS_M)
        return np.stack(
            [
                128 + 60 * np.sin(red * x) + 40 * np.cos(green * y),
                128 + 60 * np.cos(green * (x + y)),
                120 + 50 * np.sin(blue * y) + 30 * np.cos(red * (x - y)),
            ],
            axis=-1,
        )

    def box(self, left: float, bottom: float, right: float, top: float, side_px: int, crs: str = "EPSG:3857") -> UInt8:
        """A picture of a box of Web Mercator, or of another CRS."""
        along = (np.arange(side_px) + 0.5) / side_px
        x, y = np.meshgrid(left + (right - left) * along, top - (top - bottom) * along)
        if crs != "EPSG:3857":
            x, y = _carry(crs, "EPSG:3857", x, y)
        return np.rint(self.colours(x, y)).astype(np.uint8)

    @functools.lru_cache(maxsize=500)  # noqa: B019 - the waves are the same for ever
    def tile(self, z: int, x: int, y: int, side_px: int = 256) -> UInt8:
        """A tile of the web, y from the north."""
        half, side = np.pi * 6_378_137, 2 * np.pi * 6_378_137 / 2**z
        return self.box(x * side - half, half - (y + 1) * side, (x + 1) * side - half, half - y * side, side_px)

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Float64:
        """What a crop shows, by PROJ alone."""
        along = (np.arange(size_px) + 0.5) * size_m / size_px - size_m / 2
        right, up = np.meshgrid(along, -along)
        turn = np.deg2rad(bearing_deg)
        east, north = right * np.cos(turn) + up * np.sin(turn), up * np.cos(turn) - right * np.sin(turn)
        local = f"+proj=aeqd +lat_0={lat_deg!r} +lon_0={lon_deg!r} +ellps=WGS84 +units=m"
        return self.colours(*_carry(local, "EPSG:3857", east, north))


class TileServer:
    """A real server on loopback that answers as `route` says, and misbehaves where `faults` says so.

    Attributes:
        route: takes the path and the query (names in lower case) and returns a body, or None for 404.
        faults: what is done instead, by path: one each time the path is asked for; the last one for ever if it ends with "...".
        asked: paths with their queries, and headers, in order.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.faults: dict[str, list[str]] = {}
        self.route: Callable[[str, dict[str, str]], bytes | None] = lambda path, query: None
        self.etags = False
        self.hung = threading.Event()  # lets go of requests that hang
        self._lock = threading.Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                with served._lock:
                    served.asked.append((self.path, dict(self.headers)))
                    waiting = served.faults.get(parts.path, [])
                    fault = waiting[0] if waiting else ""
                    if waiting and not fault.endswith("..."):
                        waiting.pop(0)
                query = {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
                body = served.route(parts.path, query)
                if fault:
                    self.misbehave(fault.removesuffix("..."), body or b"")
                elif body is None:
                    self.answer(404, b"no such tile", "text/plain")
                elif served.etags and self.headers.get("If-None-Match") == f'"{hashlib.sha1(body).hexdigest()}"':
                    self.answer(304, b"")
                else:
                    self.answer(200, body)

            def answer(self, status: int, body: bytes, kind: str = "image/png", **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if served.etags and status == 200:
                    self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                for name, value in ({"Content_Length": str(len(body))} | headers).items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def misbehave(self, fault: str, body: bytes) -> None:
                self.close_connection = fault in ("hang", "cut", "long")
                if fault == "hang":
                    served.hung.wait(10)
                elif fault in ("cut", "long"):
                    part = body[: len(body) // 2] if fault == "cut" else body
                    self.answer(200, part, Content_Length=str(len(body) + 100))
                elif fault == "truncated":  # whole by its length, but half an image
                    self.answer(200, body[: len(body) // 2])
                elif fault == "html":
                    self.answer(200, b"<html>sorry</html>", "text/html")
                elif fault == "elsewhere":
                    self.answer(302, b"", Location="http://127.0.0.2:1/")
                elif fault == "429 after":
                    self.answer(429, b"", Retry_After="0")
                elif fault == "empty":
                    self.answer(200, b"")
                else:
                    self.answer(int(fault), b"", "text/plain")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def paths(self) -> list[str]:
        """What was asked for, without queries."""
        return [urlsplit(path).path for path, _ in self.asked]

    def close(self) -> None:
        self.hung.set()
        self._server.shutdown()
        self._server.server_close()


@functools.lru_cache(maxsize=500)
def _png(shape: tuple[int, ...], data: bytes) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.frombuffer(data, np.uint8).reshape(shape)).save(out, "PNG", compress_level=1)
    return out.getvalue()


_WAVES = Waves()


@pytest.fixture
def waves() -> Waves:
    return _WAVES


@pytest.fixture
def encode() -> Callable[[UInt8], bytes]:
    """Pixels as a PNG file."""
    return lambda pixels: _png(pixels.shape, pixels.tobytes())


@pytest.fixture
def tile_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TileServer]:
    """The server, which may be asked although it is on this machine; the cache is in the test's folder."""
    monkeypatch.setenv("CELLCODE_ALLOW_PRIVATE", "1")
    monkeypatch.setenv("CELLCODE_CACHE", str(tmp_path / "cache"))
    server = TileServer()
    yield server
    server.close()


@pytest.fixture
def hasty() -> Client:
    """A client that gives up soon."""
    return Client(
        Politeness(requests_per_s=2000, tries=3, timeout_s=5, patience_s=30, first_wait_s=0.01), allow_private=True
    )
