"""The client against a server on loopback that misbehaves."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cellcode.http import Client, MissingError, Politeness, RemoteError

HASTY = Politeness(requests_per_s=1000, tries=3, timeout_s=0.3, patience_s=5, first_wait_s=0.01)


@pytest.fixture
def client():
    return Client(HASTY, headers={"X-Secret": "s3cr3t"}, allow_private=True)


def asked(server, path):
    return sum(each.split("?")[0] == path for each, _ in server.asked)


def test_whole_answer(server, client):
    reply = client.get(f"{server.url}/image", expect="image")
    assert reply.status == 200
    assert reply.headers["content-type"] == "image/png"
    assert client.fetched_bytes == len(reply.body)
    assert client.json(f"{server.url}/json", {"x": "1 2", "y": [1, 2]}) == {"a": [1]}
    assert server.asked[-1][0] == "/json?x=1+2&y=1&y=2"
    assert server.asked[-1][1]["User-Agent"].startswith("cellcode/")


def test_condition_that_still_holds(server, client):
    first = client.get(f"{server.url}/conditional", expect="image")
    again = client.get(f"{server.url}/conditional", headers={"If-None-Match": first.headers["ETag"]}, expect="image")
    assert not first.not_modified
    assert again.not_modified
    assert again.body == b""


def test_passing_fault_is_overcome(server, client):
    assert client.get(f"{server.url}/busy-twice", expect="image").status == 200
    assert asked(server, "/busy-twice") == 3


def test_named_wait_is_kept(server, client):
    client.get(f"{server.url}/busy-until", expect="image")
    assert server.times[1] - server.times[0] >= 1.0


def test_wait_beyond_patience_gives_up_at_once(server, client):
    with pytest.raises(RemoteError, match="requires a wait of 3600 s") as caught:
        client.get(f"{server.url}/busy-long")
    assert (caught.value.reason, caught.value.status, caught.value.lasting) == ("too many requests", 429, False)
    assert asked(server, "/busy-long") == 1
    client.get(f"{server.url}/image")  # it refuses one address only
    for _ in range(6):
        with pytest.raises(RemoteError, match="requires a wait of 3600 s"):
            client.get(f"{server.url}/busy-long")
    # It refuses all: the next photo, or the next step of the recipe, does not ask it, and does not wait for it either.
    for another in (client, Client(HASTY, allow_private=True)):
        with pytest.raises(
            RemoteError, match=r"is not requested: the server requires a wait of 3(600|599) s"
        ) as caught:
            another.get(f"{server.url}/ok")
        assert (caught.value.reason, caught.value.lasting) == ("too many requests", False)
    assert len(server.asked) == 8


@pytest.mark.parametrize(
    ("path", "expect", "reason"),
    [
        ("broken", "any", "server error"),
        ("html", "image", "not an image"),
        ("html", "json", "not JSON"),
        ("cut", "image", "cut body"),
        ("hang", "any", "timeout"),
        ("elsewhere", "image", "redirect to another host"),
        ("loop", "image", "redirect loop"),
        ("nowhere", "image", "redirect to another host"),
        ("busy-for-ever", "image", "too many requests"),
        ("half", "image", "cut body"),
    ],
)
def test_lasting_trouble_is_named_after_all_tries(server, client, path, expect, reason):
    with pytest.raises(RemoteError, match="tried 3 times") as caught:
        client.get(f"{server.url}/{path}", expect=expect)
    assert caught.value.reason == reason
    assert not caught.value.lasting
    assert asked(server, f"/{path}") >= 3


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "missing"),
        ("gone", "missing"),
        ("refused", "refused"),
        ("odd", "bad request"),
        ("large", "too large"),
        ("bomb", "too large"),
    ],
)
def test_what_asking_again_cannot_mend_is_asked_once(server, path, reason):
    client = Client(Politeness(requests_per_s=1000, max_body_bytes=1_000_000), allow_private=True)
    with pytest.raises(RemoteError) as caught:
        client.get(f"{server.url}/{path}")
    assert caught.value.reason == reason
    assert caught.value.lasting
    assert asked(server, f"/{path}") == 1
    assert isinstance(caught.value, MissingError) == (reason == "missing")


def test_drip_ends_with_patience(server):
    client = Client(Politeness(tries=1, timeout_s=1, patience_s=0.3), allow_private=True)
    began = time.monotonic()
    with pytest.raises(RemoteError) as caught:
        client.get(f"{server.url}/drip")
    assert caught.value.reason == "timeout"
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("path", ["endless-headers", "continued"])
def test_headers_without_an_end_are_cut(server, path):
    client = Client(Politeness(tries=1, timeout_s=0.1, patience_s=5), allow_private=True)
    began = time.monotonic()
    with pytest.raises(RemoteError) as caught:
        client.get(f"{server.url}/{path}")
    assert caught.value.reason in ("timeout", "unreachable")
    assert time.monotonic() - began < 1.5


def test_packed_answer_is_unpacked(server, client):
    assert client.get(f"{server.url}/packed", expect="image").body == client.get(f"{server.url}/image").body


def test_nobody_listens(client):
    with pytest.raises(RemoteError, match="no connection") as caught:
        client.get("http://127.0.0.1:9")
    assert caught.value.reason == "unreachable"


def test_damaged_body_is_asked_for_again(server, client):
    bodies = []

    def verify(body):
        bodies.append(body)
        if len(bodies) < 2:
            raise ValueError("bad checksum")

    client.get(f"{server.url}/image", expect="image", verify=verify)
    assert len(bodies) == 2


def test_redirects(server, client):
    assert client.get(f"{server.url}/moved", expect="image").url == f"{server.url}/image"
    assert server.asked[-1][1]["X-Secret"] == "s3cr3t"
    reply = client.get(f"{server.url}/elsewhere", expect="image", follow="anywhere")
    assert reply.url.startswith("http://127.0.0.2:")
    assert "X-Secret" not in server.asked[-1][1]


def test_budget_of_bytes(server):
    client = Client(Politeness(requests_per_s=1000, budget_bytes=150), allow_private=True)
    client.get(f"{server.url}/image")
    client.get(f"{server.url}/image")
    with pytest.raises(RemoteError) as caught:
        client.get(f"{server.url}/image")
    assert caught.value.reason == "byte budget spent"


def test_rate_and_connections_are_bounded(server):
    client = Client(Politeness(requests_per_s=50, connections=2), allow_private=True)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: client.get(f"{server.url}/slow"), range(10)))
    assert server.busiest <= 2
    assert server.times[-1] - server.times[0] >= 9 / 50 - 0.005


def test_secrets_are_not_told(server, client):
    with pytest.raises(RemoteError) as caught:
        client.get(f"{server.url}/broken", {"access_token": "MLY|123", "x": 1})
    assert "MLY" not in str(caught.value)
    assert "access_token=***" in str(caught.value)
    assert json.dumps(server.asked[0][0]).count("MLY") == 1
