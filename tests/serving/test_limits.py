"""Limits: what is too much is refused at once, in the one format, and the service goes on."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image

Photos = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def small(starts):
    return starts(photo_bytes=200_000, photo_pixels=1_000_000, photos=3, region_vertices=8, batch_photos=4)


def _error(answer: requests.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"}
    return answer.status_code, answer.json()["error"]["code"]


def test_a_large_file_is_refused(small, photos: Photos) -> None:
    padded = photos[0][1] + bytes(200_000)
    assert _error(small.post("/v1/locate", [("big.jpg", padded)])) == (413, "photo_too_large")
    body = {"photos": [{"data": base64.b64encode(padded).decode()}]}
    assert _error(requests.post(small.url + "/v1/locate", json=body, timeout=60)) == (413, "photo_too_large")
    assert small.post("/v1/locate", photos[:1]).ok


def test_a_decompression_bomb_is_refused_before_it_is_decoded(server) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((12_000, 12_000), bool)).save(out, "PNG")
    assert len(out.getvalue()) < 100_000
    started = time.perf_counter()
    assert _error(server.post("/v1/locate", [("bomb.png", out.getvalue())])) == (413, "photo_too_large")
    assert time.perf_counter() - started < 5  # decoded it would be 144 MB, and 430 MB as RGB


def test_many_pixels_are_refused(small) -> None:
    out = io.BytesIO()
    Image.new("RGB", (1100, 1000)).save(out, "JPEG")
    assert _error(small.post("/v1/locate", [("wide.jpg", out.getvalue())])) == (413, "photo_too_large")


def test_many_photos_are_refused(small, photos: Photos) -> None:
    assert _error(small.post("/v1/locate", photos[:4])) == (413, "too_many_photos")
    body = {"photos": [{"data": base64.b64encode(data).decode()} for _, data in photos[:4]]}
    assert _error(requests.post(small.url + "/v1/locate", json=body, timeout=60)) == (413, "too_many_photos")


def test_many_vertices_are_refused(small, photos: Photos) -> None:
    ring = [[3 + 0.01 * np.cos(a), 52 + 0.01 * np.sin(a)] for a in np.linspace(0, 2 * np.pi, 9)]
    region = str({"type": "Polygon", "coordinates": [[*ring[:-1], ring[0]]]}).replace("'", '"')
    region = region.replace("np.float64(", "").replace(")", "")
    assert _error(small.post("/v1/locate", photos[:1], region=region)) == (400, "region_invalid")


def test_overload_is_answered_at_once_and_passes(starts, photos: Photos) -> None:
    narrow = starts(requests=2)
    held = threading.Event()
    service = narrow.state.holder.current
    embed = service.locator.embed

    def slow(pixels):  # an encoder that is busy until it is let go
        held.wait(20)
        return embed(pixels)

    service.locator.embed = slow
    with ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(narrow.post, "/v1/locate", photos[:1]) for _ in range(2)]
        while narrow.state.working < 2:
            time.sleep(0.01)
        started = time.perf_counter()
        answer = narrow.post("/v1/locate", photos[:1])
        assert _error(answer) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert time.perf_counter() - started < 2
        assert narrow.get("/healthz").ok
        held.set()
        assert all(each.result().ok for each in waiting)
    assert narrow.post("/v1/locate", photos[:1]).ok


def test_a_request_that_takes_too_long_is_given_up(starts, photos: Photos) -> None:
    hasty = starts(request_seconds=0.3)
    service, held = hasty.state.holder.current, threading.Event()
    embed = service.locator.embed
    service.locator.embed = lambda pixels: (held.wait(5), embed(pixels))[1]
    assert _error(hasty.post("/v1/locate", photos[:1])) == (504, "timeout")
    held.set()
    service.locator.embed = embed
    assert hasty.state.working == 0


def test_a_rate_is_of_each_key(starts, photos: Photos) -> None:
    keys = ["a-key-of-one-user", "a-key-of-another-user"]
    metered = starts(keys=frozenset(keys), rate_per_minute=2)

    def ask(key: str) -> requests.Response:
        return requests.post(
            metered.url + "/v1/locate",
            files=[("photo", photos[0])],
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
        )

    assert [ask(keys[0]).status_code for _ in range(3)] == [200, 200, 429]
    assert 1 <= int(ask(keys[0]).headers["retry-after"]) <= 60
    assert ask(keys[1]).ok


def test_keys_are_needed_where_there_are_keys(starts, photos: Photos) -> None:
    closed = starts(keys=frozenset(["the-key-of-this-service"]))
    for headers in ({}, {"authorization": "Bearer wrong-key"}, {"authorization": "Basic the-key-of-this-service"}):
        for path in ("/v1/database", "/v1/tiles/12/1/1.webp", "/v1/cells/47d/aerial.jpg"):
            assert _error(closed.get(path, headers=headers)) == (401, "unauthorized")
    given = {"authorization": "Bearer the-key-of-this-service"}
    assert closed.get("/v1/database", headers=given).json()["keys_needed"] is True
    assert closed.get("/").ok
    assert closed.get("/healthz").ok


def test_every_answer_has_the_security_headers(server) -> None:
    for path in ("/", "/v1/database", "/nothing", "/static/nothing.js", "/healthz"):
        headers = server.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert headers["x-request-id"]


def test_other_origins_are_closed_unless_named(starts, server) -> None:
    asked = {"origin": "https://friend.example"}
    assert "access-control-allow-origin" not in server.get("/v1/database", headers=asked).headers
    open_one = starts(cors=("https://friend.example",))
    assert (
        open_one.get("/v1/database", headers=asked).headers["access-control-allow-origin"] == "https://friend.example"
    )
    other = open_one.get("/v1/database", headers={"origin": "https://stranger.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    "path",
    ["/static/../settings.py", "/static/..%2fsettings.py", "/static/%2e%2e/%2e%2e/config.py", "/static//etc/passwd"],
)
def test_paths_do_not_leave_the_static_folder(server, path: str) -> None:
    prepared = requests.Request("GET", server.url).prepare()
    prepared.url = server.url + path
    answer = requests.Session().send(prepared, timeout=60)
    assert _error(answer) == (404, "not_found")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("maplibre-gl/maplibre-gl.mjs", "text/javascript"),
        ("maplibre-gl/maplibre-gl.css", "text/css"),
        ("natural-earth/world.geojson", "application/"),
    ],
)
def test_compressed_files_of_the_page_are_sent_as_they_are_or_unpacked(server, name: str, kind: str) -> None:
    packed = server.get(f"/static/vendor/{name}", headers={"accept-encoding": "gzip"})
    plain = server.get(f"/static/vendor/{name}", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert len(plain.content) > 2 * int(packed.headers["content-length"])
    for answer in (packed, plain):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "no-cache"


def test_a_jagged_polygon_around_the_earth_costs_no_more_than_the_database(server, photos: Photos) -> None:
    turns = np.linspace(0, 2 * np.pi, 1999, endpoint=False)
    radius = np.where(
        np.arange(len(turns)) % 2, 70, 20
    )  # its boundary crosses thousands of cells for every cell of the town
    ring = np.stack([radius * np.cos(turns) * 2, radius * np.sin(turns)], axis=1).round(6).tolist()
    region = json.dumps({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
    started = time.perf_counter()
    answer = server.post("/v1/locate", photos[:1], region=region)
    assert answer.status_code in (200, 422)
    assert time.perf_counter() - started < 5  # half a minute, were it searched whole


def test_photos_of_one_request_are_bounded_together(starts, photos: Photos) -> None:
    narrow = starts(request_bytes=2_000_000, photo_bytes=1_900_000)
    padded = [(name, data + bytes(1_800_000)) for name, data in photos[:2]]
    assert narrow.post("/v1/locate", padded[:1]).ok
    assert _error(narrow.post("/v1/locate", padded)) == (413, "photo_too_large")
