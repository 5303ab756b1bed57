"""GeoTIFFs behind http and in S3: a server of byte ranges on loopback, which counts what it is asked for."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.aerial import open_source
from cellcode.aerial.rasters.geotiff import GeoTiffSource
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, RemoteError

Write = Callable[..., Any]
LAT, LON = 48.85, 2.35


class RangeServer:
    """Serves `files` by path, in ranges as GDAL and S3 clients want them.

    Attributes:
        fail: number of requests for ranges, after the first, that are answered with 503.
        ranges: whether ranges are served.
        asked: method, path, range and Authorization of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.fail, self.ranges, self.sent = 0, True, 0
        self.asked: list[tuple[str, str, str, str]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                part, path = self.headers.get("Range", ""), self.path.partition("?")[0]
                served.asked.append((self.command, path, part, self.headers.get("Authorization", "")))
                body = served.files.get(path)
                if body is None:
                    return self.answer(404, b"")
                if served.fail and part and len(served.asked) > 1:
                    served.fail -= 1
                    return self.answer(503, b"")
                if not part or not served.ranges:
                    return self.answer(200, body)
                first, _, last = part.removeprefix("bytes=").partition("-")
                chosen = body[int(first) : int(last) + 1]
                span = f"bytes {first}-{int(first) + len(chosen) - 1}/{len(body)}"
                return self.answer(206, chosen, Content_Range=span)

            def answer(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", served.tags.get(self.path.partition("?")[0], '"1"'))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command == "GET":
                    served.sent += len(body)
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # GDAL closes connections as it likes
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setenv("CELLCODE_ALLOW_PRIVATE", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_S3_ENDPOINT", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    server = RangeServer()
    yield server
    server.close()


@pytest.fixture
def noise(write_ramp: Write, tmp_path: Path) -> Any:
    """A tiled file of 3 MB, so that reading all of it can be told from reading a part."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1024, 1024), dtype=np.uint8)
    return write_ramp(
        tmp_path / "a.tif",
        "EPSG:32631",
        LAT,
        LON,
        size=(1024, 1024),
        pixels=pixels,
        tiled=True,
        blockxsize=128,
        blockysize=128,
    )


def test_remote_file_reads_as_the_local_one_and_only_in_parts(ranges: RangeServer, noise: Any) -> None:
    ranges.files["/a.tif"] = noise.path.read_bytes()
    source = open_source(f"http://{ranges.host}/a.tif?token=s3cret")
    crop, expected = (each.read(LAT, LON, 60, 96, 20) for each in (source, GeoTiffSource(noise.path)))
    np.testing.assert_array_equal(crop.pixels, expected.pixels)
    np.testing.assert_array_equal(crop.mask, expected.mask)
    assert ranges.sent < len(ranges.files["/a.tif"]) / 4
    assert {path for _, path, _, _ in ranges.asked} == {"/a.tif"}  # no files beside it are looked for
    assert "s3cret" not in str(source.path)  # type: ignore[attr-defined]


def test_identity_follows_the_version_that_the_server_has(ranges: RangeServer, noise: Any) -> None:
    for path in ("/a.tif", "/b.tif", "/c.tif"):
        ranges.files[path] = noise.path.read_bytes()
    ranges.tags["/c.tif"] = '"2"'
    first, same, newer = (
        open_source(f"http://{ranges.host}{path}").identity for path in ("/a.tif", "/b.tif", "/c.tif")
    )
    assert first == same != newer


def test_passing_faults_are_asked_again(ranges: RangeServer, noise: Any) -> None:
    ranges.files["/fault.tif"] = noise.path.read_bytes()
    source = open_source(f"http://{ranges.host}/fault.tif")
    ranges.fail = 1
    assert source.read(LAT, LON, 60, 96).mask.all()
    assert ranges.fail == 0


def test_fault_that_lasts_ends_the_reading_with_a_sentence(
    ranges: RangeServer, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellcode.aerial.rasters import raster_file

    monkeypatch.setitem(raster_file._GDAL, "GDAL_HTTP_RETRY_DELAY", "0.01")
    ranges.files["/down.tif"] = noise.path.read_bytes()
    source = open_source(f"http://{ranges.host}/down.tif?sig=s3cret")
    ranges.fail = 1000
    with pytest.raises(InputError, match="could not be fetched in 5 tries; run this again later") as caught:
        source.read(LAT, LON, 60, 96)
    assert "s3cret" not in str(caught.value)
    ranges.fail = 0
    assert source.read(LAT, LON, 60, 96).mask.all()


def test_server_without_ranges_and_file_that_is_no_tiff_are_refused(
    ranges: RangeServer, noise: Any, hasty: Client
) -> None:
    ranges.files |= {"/a.tif": noise.path.read_bytes(), "/page.tif": b"<html>sign in</html>"}
    with pytest.raises(RemoteError, match="it is not a TIFF"):
        GeoTiffSource(f"http://{ranges.host}/page.tif", hasty)
    with pytest.raises(RemoteError, match="not there"):
        GeoTiffSource(f"http://{ranges.host}/none.tif", hasty)
    ranges.ranges = False
    with pytest.raises(InputError, match="does not support range requests; download the file"):
        open_source(f"http://{ranges.host}/a.tif")


def test_private_address_is_refused(ranges: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLCODE_ALLOW_PRIVATE")
    monkeypatch.setenv("AWS_S3_ENDPOINT", f"http://{ranges.host}")
    for spec in (f"http://{ranges.host}/a.tif", "s3://bucket/a.tif"):
        with pytest.raises(RemoteError, match="private address"):
            open_source(spec)
    assert not ranges.asked


@pytest.mark.parametrize("keys", [False, True])
def test_file_in_s3(ranges: RangeServer, noise: Any, keys: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/bucket/ortho/{keys}.tif"
    ranges.files[path] = noise.path.read_bytes()
    monkeypatch.setenv("AWS_S3_ENDPOINT", f"http://{ranges.host}")
    if keys:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    source = open_source(f"s3:/{path}")
    crop, expected = (each.read(LAT, LON, 60, 96) for each in (source, GeoTiffSource(noise.path)))
    np.testing.assert_array_equal(crop.pixels, expected.pixels)
    signed = {
        authorization.startswith("AWS4-HMAC-SHA256 Credential=someone/") for _, _, _, authorization in ranges.asked
    }
    assert signed == {keys}
    assert ranges.sent < len(ranges.files[path]) / 4
    ranges.tags[path] = '"2"'
    assert open_source(f"s3:/{path}").identity != source.identity


def test_file_in_s3_that_is_not_there_is_named(ranges: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_S3_ENDPOINT", f"http://{ranges.host}")
    with pytest.raises(InputError, match=r"s3://bucket/none\.tif does not exist"):
        open_source("s3://bucket/none.tif")
    with pytest.raises(UsageError, match="s3://BUCKET/KEY"):
        open_source("s3://none.tif")
