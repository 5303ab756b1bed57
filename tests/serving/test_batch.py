"""POST /v1/batch: lines in the photos' order, as soon as they are known, whatever else goes wrong."""

from __future__ import annotations

import json
import socket

from cellcode.search import Locator

Photos = list[tuple[str, bytes]]


def test_every_photo_has_its_line(server, photos: Photos, locator: Locator) -> None:
    sent = [*photos, ("notes.txt", b"not a photo"), *photos]
    answer = server.post("/v1/batch", sent, top=2)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["file"] for line in lines] == [name for name, _ in sent]
    assert lines[len(photos)]["error"]["code"] == "photo_unreadable"
    for (_, data), line in zip(photos, lines, strict=False):
        assert line["cell"] == locator.locate(data).best.cell
        assert len(line["candidates"]) == 2


def test_lines_come_while_the_body_is_still_sent(server, photos: Photos) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/batch HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        stream = connection.makefile("rb")
        connection.sendall(b"5\r\n--b\r\n\r\n")
        for name, data in photos[:3]:
            part = f'Content-Disposition: form-data; name="photo"; filename="{name}"\r\n\r\n'.encode() + data
            part += b"\r\n--b--\r\n" if name == photos[2][0] else b"\r\n--b\r\n"
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            while not (line := stream.readline()).startswith(b"{"):
                assert line, "the connection was closed"
            assert json.loads(line)["file"] == name
        connection.sendall(b"0\r\n\r\n")
        assert b"error" not in stream.read()


def test_what_is_wrong_at_first_is_an_error(server, photos: Photos) -> None:
    for fields, code in (({"region": "x"}, "region_invalid"), ({"top": "-1"}, "bad_request")):
        answer = server.post("/v1/batch", photos[:1], **fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code
    assert server.post("/v1/batch").status_code == 400


def test_what_goes_wrong_later_ends_the_lines_with_an_error(starts, photos: Photos) -> None:
    short = starts(batch_photos=2)
    lines = [json.loads(line) for line in short.post("/v1/batch", photos[:4]).text.splitlines()]
    assert [line.get("file") for line in lines] == [photos[0][0], photos[1][0], None]
    assert lines[-1]["error"]["code"] == "too_many_photos"
