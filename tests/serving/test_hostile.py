"""Clients that are slow, silent or no HTTP, and photos that end their decoder: each is told so, and others are answered."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from urllib.parse import urljoin

import pytest
import requests
from tests.faults import hostile

from cellcode.client import Client, ServiceError
from cellcode.serving import decoding

Photos = list[tuple[str, bytes]]
FORM = b"Host: a\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
BATCH, LOCATE = b"POST /v1/batch HTTP/1.1\r\n" + FORM, b"POST /v1/locate HTTP/1.1\r\n" + FORM


@pytest.fixture(scope="module")
def hasty(starts):
    """Two places for requests, and little patience."""
    return starts(requests=2, idle_seconds=0.5, photo_seconds=1.0, connections=12, body_bytes=3_000_000)


def _connect(url: str, sent: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(sent)
    return connection


def _answer(connection: socket.socket) -> tuple[int, str]:
    """Status and code of what is answered before the connection is closed."""
    data = b""
    while more := connection.recv(65536):
        data += more
    connection.close()
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    assert b"content-security-policy" in head.lower()
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message", "action"}
    return int(head.split()[1]), error["code"]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/x\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/locate HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000, 431, "headers_too_large"),
        (b"GET /" + b"a" * 70_000, 414, "address_too_long"),
        (BATCH[:40], 408, "too_slow"),
        (
            BATCH[:-2].replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked") + b"\r\nzz\r\n",
            400,
            "bad_request",
        ),
    ],
)
def test_errors_of_the_protocol_have_the_one_format(hasty, sent: bytes, status: int, code: str) -> None:
    assert _answer(_connect(hasty.url, sent)) == (status, code)
    assert hasty.get("/healthz").ok


def test_redirects_are_relative(server) -> None:
    for path, there in (
        ("/v1/database/", "/v1/database"),
        ("/v1/database/?a=1", "/v1/database?a=1"),
        ("/static", "/static/"),
    ):
        headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        answer = requests.get(server.url + path, headers=headers, allow_redirects=False, timeout=60)
        assert answer.status_code == 307
        assert "evil" not in str(answer.headers)
        assert (
            urljoin(f"https://proxy.example/town{path}", answer.headers["location"])
            == f"https://proxy.example/town{there}"
        )
    for path in ("//evil.example/", "//evil.example/v1/database/", "/%2fevil.example/", "/v1/database/%0d%0aX:1/"):
        connection = _connect(server.url, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert _answer(connection) == (404, "not_found")


@pytest.mark.parametrize(
    "start", [BATCH, BATCH + PART, LOCATE, LOCATE + PART], ids=["batch", "in a photo", "locate", "photo"]
)
def test_silent_clients_take_no_place_and_are_given_up(hasty, photos: Photos, start: bytes) -> None:
    silent = [_connect(hasty.url, start) for _ in range(8)]
    assert hasty.post("/v1/locate", photos[:1]).ok
    assert hasty.post("/v1/verify", photos[:1], lat=52, lon=3).ok
    assert hasty.state.memory.held < 2000
    assert {_answer(each) for each in silent} == {(408, "too_slow")}
    assert (hasty.state.working, hasty.state.memory.held) == (0, 0)


def test_a_photo_that_drips_is_given_up(hasty) -> None:
    connection, started = _connect(hasty.url, BATCH + PART), time.perf_counter()
    while time.perf_counter() - started < 10:
        time.sleep(0.2)
        try:
            connection.sendall(b"x")
        except OSError:
            break
    assert time.perf_counter() - started < 5


def test_of_too_many_connections_the_silent_ones_are_closed(hasty, photos: Photos) -> None:
    waiting = [_connect(hasty.url) for _ in range(40)]
    assert hasty.post("/v1/locate", photos[:1]).ok
    assert waiting[0].recv(1) == b""
    for each in waiting:
        each.close()


def test_answers_that_are_not_read_are_given_up(hasty) -> None:
    asked = b"GET /static/vendor/natural-earth/world.geojson HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n"
    connection = _connect(hasty.url)
    connection.sendall(asked * 50)
    time.sleep(1.5)
    got = 0
    try:
        while more := connection.recv(1 << 20):
            got += len(more)
    except OSError:  # reset
        pass
    assert got < 50 * len(hasty.get("/static/vendor/natural-earth/world.geojson").content)


def test_bodies_share_one_memory(hasty, photos: Photos) -> None:
    for body in (hostile.jpeg() + bytes(4_000_000), bytes(4_000_000)):
        answer = hasty.post("/v1/locate", [("a.jpg", body)])
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    with pytest.raises(ServiceError, match="fill the memory"):
        Client(hasty.url, wait_s=0).locate(bytes(4_000_000))
    assert hasty.state.memory.held == 0
    assert len(hasty.post("/v1/batch", photos * 3).text.splitlines()) == 18


def test_json_of_millions_of_parts_is_refused(server) -> None:
    body = b'{"photos": [' + b"[]," * 300_000 + b"[]]}"
    answer = requests.post(server.url + "/v1/locate", body, headers={"content-type": "application/json"}, timeout=60)
    assert answer.json()["error"] | {"action": ""} == {
        "code": "bad_request", "message": "the JSON has more than 200,000 parts", "action": "",
    }  # fmt: skip


def test_a_photo_that_takes_too_long_is_given_up_and_the_others_are_answered(starts, server, photos: Photos) -> None:
    quick = starts(decode_seconds=0.01)
    slow = ("slow.png", hostile.flat("PNG", (6000, 4000)))
    problem = quick.post("/v1/locate", [slow]).json()["error"]
    assert (problem["code"], problem["message"]) == (
        "photo_unreadable",
        "slow.png: it takes longer than 0.01 s to decode",
    )
    first, second, third = server.post("/v1/locate", [photos[0], slow, ("a.eps", hostile.EPS)]).json()["answers"]
    assert first["file"] == photos[0][0]
    assert second["file"] == "slow.png"  # within the ordinary limit
    assert third["error"]["code"] == "photo_unreadable"


def test_decoders_that_ended_are_replaced(server, photos: Photos) -> None:
    assert server.post("/v1/locate", photos).ok
    for worker in list(decoding._idle):
        os.kill(worker.process.pid, signal.SIGKILL)
    answers = server.post("/v1/locate", photos).json()["answers"]
    assert [answer["file"] for answer in answers] == [name for name, _ in photos]
    assert all("error" not in answer for answer in answers)
