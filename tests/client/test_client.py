"""The client: what it sends and how it waits, against a scripted service. tests/serving has the real one."""

from __future__ import annotations

import email.parser
import email.policy
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cellcode.client import Answer, Client, Failure, ServiceError, transport
from cellcode.client.answers import name_of
from cellcode.errors import InputError, UsageError

PLACE = {"lat": 52.1, "lon": 5.2, "cell": "47c6", "score": 0.5, "probability": 0.25}
ANSWER = {
    **PLACE, "file": "sent.jpg", "radius_50_m": 10.0, "radius_90_m": 90.0, "in_region": None, "inside_probability": None,
    "mean_lat": 52.0, "mean_lon": 5.0, "candidates": [PLACE], "heading_deg": None, "metadata": None, "heat": None,
    "search": {"method": "exact", "cells": 9, "exact": True, "scored_again": 0, "missing": []}, "from_later": 1,
}  # fmt: skip


def at(lat: float) -> dict[str, Any]:
    """Return the answer of another latitude."""
    return {**ANSWER, "lat": lat, "candidates": [{**PLACE, "lat": lat}]}


Reply = tuple[int, dict[str, str], bytes]


def refusal(status: int, code: str, **headers: str) -> Reply:
    body = {"error": {"code": code, "message": f"it is {code}", "action": "do something"}}
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()


def lines(*values: dict[str, Any]) -> Reply:
    return 200, {}, b"".join(json.dumps(value).encode() + b"\n" for value in values)


def error_line(code: str, **more: str) -> dict[str, Any]:
    return {**more, "error": {"code": code, "message": f"it is {code}", "action": "do something"}}


@dataclass
class Script:
    """A service that gives the next reply and remembers what it was sent."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def parts(self, number: int = -1) -> list[tuple[str, str | None, bytes]]:
        """Name, file name and content of the parts of a form, read by the standard library's mail parser."""
        _, _, headers, body = self.seen[number]
        whole = f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(whole)
        return [
            (str(part.get_param("name", header="content-disposition")), part.get_filename(), part.get_content())
            if isinstance(part.get_content(), bytes)
            else (
                str(part.get_param("name", header="content-disposition")),
                part.get_filename(),
                part.get_content().encode(),
            )
            for part in message.iter_parts()
        ]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    made = Script()
    monkeypatch.setattr(transport, "_LEAST_PAUSE_S", 0.0)

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.seen.append((self.command, self.path, headers, body))
            status, more, answer = made.replies.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(answer)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _reply

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def located(*answers: dict[str, Any]) -> Reply:
    return 200, {}, json.dumps({"answers": answers}).encode()


def test_it_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, cellcode.client; print([m for m in ('torch', 'numpy', 'pydantic', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_photo_is_sent_as_a_form_under_its_name_alone(script: Script, tmp_path: Path) -> None:
    photo = tmp_path / 'my "house".jpg'
    photo.write_bytes(bytes(range(256)))
    script.replies = [located(ANSWER)]
    answer = Client(f"{script.url}/geo/", key="k" * 20).locate(photo, top=3, region=(3, 52, 3.5, 52.25), heat=True)
    method, path, headers, body = script.seen[0]
    assert (method, path, headers["authorization"]) == ("POST", "/geo/v1/locate", f"Bearer {'k' * 20}")
    assert str(tmp_path).encode() not in body
    assert script.parts() == [
        ("top", None, b"3"),
        ("region", None, b"3.0,52.0,3.5,52.25"),
        ("heat", None, b"true"),
        ("photo", "my %22house%22.jpg", bytes(range(256))),
    ]
    assert answer.file == str(photo)  # the name it has here, not the one it was sent under
    assert (answer.lat, answer.candidates[0].cell, answer.search.missing) == (52.1, "47c6", ())


def test_a_refusal_is_the_services_sentence_and_code(script: Script) -> None:
    script.replies = [refusal(422, "photo_unreadable"), (502, {}, b"<html>Bad gateway</html>"), (200, {}, b"<html>")]
    client = Client(script.url)
    with pytest.raises(ServiceError, match="it is photo_unreadable; do something") as caught:
        client.locate(b"no photo")
    assert (caught.value.code, caught.value.status) == ("photo_unreadable", 422)
    with pytest.raises(ServiceError, match="HTTP status 502"):
        client.database()
    with pytest.raises(ServiceError, match="did not answer in JSON"):
        client.database()
    assert len(script.seen) == 3  # none of them is tried again


def test_it_waits_for_a_busy_service_as_long_as_it_is_told(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 20))
    script.replies = [
        refusal(429, "rate_limited", Retry_After="7"),
        refusal(503, "overloaded", Retry_After=date),
        located(ANSWER),
    ]
    assert Client(script.url, wait_s=60).locate(b"photo").lat == 52.1
    assert slept[0] == 7
    assert 15 < slept[1] <= 20
    script.replies = [refusal(503, "overloaded", Retry_After="40"), refusal(503, "overloaded", Retry_After="40")]
    with pytest.raises(ServiceError, match="it is overloaded"):
        Client(script.url, wait_s=60).locate(b"photo")
    assert slept[2:] == [40]  # 40 s more would be too long: no use in waiting at all


def test_many_photos_are_answered_in_order_with_failures_in_their_places(script: Script, tmp_path: Path) -> None:
    photos: list[Any] = [b"one", tmp_path / "missing.jpg", b"two", b"three"]
    script.replies = [lines(at(1.0), error_line("photo_unreadable", file="x")), lines(at(3.0))]
    found = list(Client(script.url).locate_many(photos, at_once=3))
    assert [each.lat if isinstance(each, Answer) else each.code for each in found] == [
        1.0, "photo_unreadable", "photo_unreadable", 3.0,
    ]  # fmt: skip
    assert isinstance(found[1], Failure)
    assert "missing.jpg cannot be read" in found[1].message
    assert [part[2] for part in script.parts(0) if part[0] == "photo"] == [b"one", b"two"]


def test_photos_that_a_busy_service_left_are_sent_again(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda pause_s: None)
    script.replies = [
        lines(at(1.0), error_line("rate_limited")),
        refusal(429, "rate_limited", Retry_After="1"),
        lines(error_line("overloaded", file="x"), at(9.0)),
        lines(at(2.0), at(3.0)),
    ]
    found = list(Client(script.url).locate_many([b"1", b"2", b"3"]))
    assert [each.lat for each in found if isinstance(each, Answer)] == [1, 2, 3]
    assert [part[2] for part in script.parts(-1) if part[0] == "photo"] == [b"2", b"3"]


def test_a_batch_that_breaks_off_is_said(script: Script) -> None:
    script.replies = [lines(at(1.0))]
    found = Client(script.url).locate_many([b"1", b"2"])
    assert next(found).lat == 1.0  # type: ignore[union-attr]
    with pytest.raises(ServiceError, match="broke off in the middle"):
        next(found)
    script.replies = [lines(error_line("timeout"))]
    with pytest.raises(ServiceError, match="it is timeout"):
        list(Client(script.url).locate_many([b"1"]))


def test_one_answer_for_photos_of_one_place(script: Script) -> None:
    fused = {**ANSWER, "files": ["a.jpg", "b.jpg"], "unreadable": [error_line("photo_unreadable", file="c.jpg")]}
    del fused["file"]
    script.replies = [located(fused)]
    answer = Client(script.url).locate_together([b"a", b"b", b"c"])
    assert ("fuse", None, b"true") in script.parts()
    assert answer.files == ("a.jpg", "b.jpg")
    assert answer.unreadable[0].file == "c.jpg"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://host/?a=b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of a service"):
        Client(url)


def test_what_cannot_be_sent_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="printable ASCII"):
        Client("http://localhost", key="a\r\nHost: b")
    client = Client("http://127.0.0.1:9", timeout_s=5)  # discard: nothing listens there
    with pytest.raises(InputError, match=r"missing\.jpg cannot be read"):
        client.locate(tmp_path / "missing.jpg")
    with pytest.raises(ServiceError, match="cannot be reached") as caught:
        client.database()
    assert caught.value.code == "unreachable"


def test_names_of_files_that_are_not_utf_8_can_be_printed_and_written():
    assert name_of(Path("caf\udce9.jpg")) == "caf\\udce9.jpg"
    assert name_of("ä.jpg").encode() == "ä.jpg".encode()
