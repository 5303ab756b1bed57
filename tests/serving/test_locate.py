"""POST /v1/locate: what it answers is what the Locator answers, whatever way it is asked."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import requests

from cellcode.client import Client, ServiceError
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.photos.reading.image import FORMAT_NAMES
from cellcode.search import Locator, together
from cellcode.search.searcher import probabilities

Photos = list[tuple[str, bytes]]


def test_multipart_and_json_answer_what_the_locator_does(server, photos: Photos, locator: Locator) -> None:
    form = server.post("/v1/locate", photos, top=3).json()["answers"]
    encoded = [{"name": name, "data": base64.b64encode(data).decode()} for name, data in photos]
    body = requests.post(server.url + "/v1/locate", json={"photos": encoded, "top": 3}, timeout=60).json()["answers"]
    assert [each["file"] for each in form] == [name for name, _ in photos]
    for (_, data), one, two in zip(photos, form, body, strict=True):
        truth = locator.locate(data, top=3)
        for answer in (one, two):
            assert [each["cell"] for each in answer["candidates"]] == [each.cell for each in truth.candidates]
            assert answer["probability"] == pytest.approx(truth.best.probability, rel=1e-4)
            assert answer["radius_90_m"] == pytest.approx(truth.radius_90_m, rel=1e-4)
            assert answer["heat"] is None


def test_a_photo_that_cannot_be_read_costs_only_itself(server, photos: Photos) -> None:
    sent = [photos[0], ("notes.txt", b"not a photo at all"), photos[1]]
    first, failed, last = server.post("/v1/locate", sent).json()["answers"]
    assert (first["file"], last["file"]) == (photos[0][0], photos[1][0])
    assert failed == {
        "file": "notes.txt",
        "error": {
            "code": "photo_unreadable",
            "message": f"notes.txt: not an image that can be read; formats are {FORMAT_NAMES}",
            "action": "send a JPEG, PNG or WebP of a photo",
        },
    }


def test_only_unreadable_photos_are_an_error(server) -> None:
    answer = server.post("/v1/locate", [("a.jpg", b"x"), ("b.jpg", b"")])
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "photo_unreadable"


def test_a_region_restricts_the_answer(server, photos: Photos, locator: Locator) -> None:
    west, south, east, north = locator.database.region_bounds
    middle = (west + east) / 2
    ring = [[west, south], [middle, south], [middle, north], [west, north], [west, south]]
    forms = [
        f"{west},{south},{middle},{north}",
        json.dumps({"type": "Polygon", "coordinates": [ring]}),
        json.dumps({"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}),
    ]
    truth = locator.locate(photos[0][1], region=forms[0])
    for form in forms:
        answer = server.post("/v1/locate", photos[:1], region=form).json()["answers"][0]
        assert answer["cell"] == truth.best.cell
        assert answer["lon"] <= middle
    near = server.post("/v1/locate", photos[:1], region=f"cap:{truth.lat},{truth.lon},250").json()["answers"][0]
    assert distance.haversine_m(truth.lat, truth.lon, near["lat"], near["lon"]) <= 250


def test_fused_photos_are_one_answer(server, photos: Photos, locator: Locator) -> None:
    broken = ("broken.png", photos[2][1][:300])
    (answer,) = server.post("/v1/locate", [photos[0], broken, photos[1]], fuse="true").json()["answers"]
    truth = together.locate(locator, [photos[0][1], photos[1][1]])
    assert answer["cell"] == truth.best.cell
    assert answer["probability"] == pytest.approx(truth.best.probability, rel=1e-4)
    assert answer["files"] == [photos[0][0], photos[1][0]]
    assert [each["file"] for each in answer["unreadable"]] == ["broken.png"]


def test_the_heat_is_the_posterior(server, photos: Photos, locator: Locator) -> None:
    answer = server.post("/v1/locate", photos[:1], heat="true").json()["answers"][0]
    query = locator.embed_one(photos[0][1])[None]
    temperature = locator.database.calibration.temperature
    hits = locator.searcher.search(query, locator.searcher.count(), None, temperature)
    truth = dict(zip(s2.tokens(hits.cell_ids[0]), probabilities(hits, temperature)[0], strict=True))
    heat = answer["heat"]
    assert set(heat["tokens"]) == set(truth)
    assert np.allclose(heat["mass"], [truth[token] for token in heat["tokens"]], rtol=6e-3)
    assert heat["rest"] == pytest.approx(0, abs=1e-6)


def test_what_the_file_tells_is_told_and_not_used(
    server, photos: Photos, town_photos: PhotoTable, locator: Locator
) -> None:
    answer = server.post("/v1/locate", photos[:1], heading_deg="123").json()["answers"][0]
    row = [str(file).endswith(photos[0][0]) for file in town_photos.files].index(True)
    lat, lon = town_photos.lat_deg[row], town_photos.lon_deg[row]
    told = answer["metadata"]
    assert (told["lat"], told["lon"]) == pytest.approx((lat, lon), abs=1e-6)
    assert told["distance_m"] == pytest.approx(
        float(distance.haversine_m(lat, lon, answer["lat"], answer["lon"])), abs=0.5
    )
    assert answer["heading_deg"] == 123
    stripped = locator.locate(_without_exif(photos[0][1]))
    assert stripped.best.cell == answer["cell"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"top": "0"}, "bad_request"),
        ({"top": "many"}, "bad_request"),
        ({"tops": "3"}, "bad_request"),
        ({"fuse": "perhaps"}, "bad_request"),
        ({"region": "somewhere"}, "region_invalid"),
        ({"region": "/etc/passwd"}, "region_invalid"),
        ({"region": "3,52,4"}, "region_invalid"),
        ({"region": "4,53,5,52"}, "region_invalid"),
        ({"region": "nan,52,5,53"}, "region_invalid"),
        ({"region": "{"}, "region_invalid"),
        ({"region": '{"type": "Point", "coordinates": [3, 52]}'}, "region_invalid"),
        ({"region": "-10,-10,-9,-9"}, "region_empty"),
        ({"region": "cap:52,3,-1"}, "region_invalid"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(server, photos: Photos, fields: dict[str, str], code: str) -> None:
    answer = server.post("/v1/locate", photos[:1], **fields)
    error = answer.json()["error"]
    assert error["code"] == code
    assert answer.status_code in (400, 422)
    assert error["message"]
    assert "root:" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"photos": []}', "application/json"),
        (b'{"photos": [{"data": "?"}]}', "application/json"),
        (b'{"photos": [{"data": 3}]}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"nothing", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (b"photo", "text/plain"),
    ],
)
def test_damaged_bodies_are_bad_requests(server, body: bytes, kind: str) -> None:
    answer = requests.post(server.url + "/v1/locate", data=body, headers={"content-type": kind}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_request"


def _without_exif(data: bytes) -> bytes:
    """Cut the APP1 segments out of a JPEG: the same pixels."""
    out, at = bytearray(data[:2]), 2
    while data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != 0xE1:
            out += data[at : at + size]
        at += size
    return bytes(out + data[at:])


def test_the_client_gets_the_same_answers(server, photos: Photos, locator: Locator) -> None:
    client = Client(server.url)
    truth = locator.locate(photos[0][1])
    assert client.locate(photos[0][1]).cell == truth.best.cell
    several = list(client.locate_many([data for _, data in photos]))
    assert [each.cell for each in several] == [locator.locate(data).best.cell for _, data in photos]
    west, south, east, north = client.database().bounds
    assert client.verify(photos[0][1], (south + north) / 2, (west + east) / 2).verdict
    assert client.crop(truth.best.cell)[:2] == b"\xff\xd8"
    with pytest.raises(ServiceError, match="no cell of the database"):
        client.locate(photos[0][1], region=[-10, -10, -9, -9])
