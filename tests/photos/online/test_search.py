"""All photos of a region are found, whatever the server's cap, and none is taken for all when some are left."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.geography import Region
from cellcode.http import Politeness, RemoteError
from cellcode.photos import IngestOptions
from cellcode.photos.sources.online.record import Record
from cellcode.photos.sources.online.source import OnlineSource
from cellcode.photos.sources.registry import open_source
from cellcode.photos.table.item import Reject

QUICK = Politeness(requests_per_s=1e6, tries=2, timeout_s=20.0, patience_s=60.0, first_wait_s=0.001)
Start = Callable[..., Any]


def find(spec: str, region: Region, **options: Any) -> tuple[list[Record], list[Reject]]:
    """What a service finds, cut to the region."""
    asked = IngestOptions(politeness=QUICK, **options)
    service = open_source(spec, out=Path("unused"), region=region, options=asked)
    assert isinstance(service, OnlineSource)
    found = [each for page in service.find() for each in page]
    records = [each for each in found if isinstance(each, Record)]
    keep = region.contains(np.array([r.lat_deg for r in records]), np.array([r.lon_deg for r in records]))
    inside = [record for record, kept in zip(records, keep, strict=True) if kept]
    return inside, [each for each in found if isinstance(each, Reject)]


def inside(photos: list[dict[str, Any]], region: Region) -> list[str]:
    """The same by brute force."""
    keep = region.contains(np.array([p["lat"] for p in photos]), np.array([p["lon"] for p in photos]))
    return sorted(photo["id"] for photo, kept in zip(photos, keep, strict=True) if kept)


@pytest.mark.parametrize(
    ("kind", "cap", "photos"),
    [
        ("panoramax", 3, 40),
        ("panoramax", 10, 150),
        ("mapillary", 21, 300),
        ("panoramax", 299, 300),
        ("mapillary", 2000, 300),
    ],
)
def test_a_region_is_found_whole_whatever_the_cap(
    kind: str, cap: int, photos: int, town: list[dict[str, Any]], here: Region, request: pytest.FixtureRequest
) -> None:
    """The server truncates without a word, and at less than it was asked for."""
    server = request.getfixturevalue(kind)(town[:photos], cap=cap)
    records, rejects = find(server.spec, here)
    assert sorted(record.id for record in records) == inside(town[:photos], here)
    assert rejects == []


def test_no_more_is_asked_than_needed(town: list[dict[str, Any]], here: Region, panoramax: Start) -> None:
    """One question finds all; the fullest box is then asked in quarters, to see whether the server cuts."""
    server = panoramax(town)
    find(server.spec, here)
    assert server.count("/search") <= 13


def test_a_region_across_the_antimeridian(mapillary: Start, town: list[dict[str, Any]]) -> None:
    for photo in town:
        for name in ("lon", "raw_lon"):
            photo[name] = (photo[name] - 3.01 + 180 + 180) % 360 - 180
    region = Region.bbox(179.995, 51, -179.995, 51.02)
    records, _ = find(mapillary(town, cap=20).spec, region)
    assert sorted(record.id for record in records) == inside(town, region) != []


def test_large_boxes_are_asked_in_parts(mapillary: Start, panoramax: Start, town: list[dict[str, Any]]) -> None:
    """The limit of Mapillary is known; that of another server is learned from its refusals."""
    wide = Region.bbox(2.9, 50.9, 3.2, 51.2)
    for server in (mapillary(town), panoramax(town, max_area=0.003)):
        records, rejects = find(server.spec, wide)
        assert (len(records), rejects) == (300, [])
        assert server.count("/") < 100


def test_a_lower_limit_is_learned(panoramax: Start, town: list[dict[str, Any]], here: Region) -> None:
    server = panoramax(town, cap=40, max_limit=40)
    records, rejects = find(server.spec, here)
    assert sorted(record.id for record in records) == inside(town, here)
    assert rejects == []


def test_next_pages_are_followed_where_a_server_has_them(
    panoramax: Start, town: list[dict[str, Any]], here: Region
) -> None:
    server = panoramax(town, cap=40)
    server.paging = True
    records, _ = find(server.spec, here)
    assert sorted(record.id for record in records) == inside(town, here)
    assert server.count("/search") == 8  # 300 photos, 40 a page, one box


def test_a_cap_reached_at_one_place_is_told(mapillary: Start, town: list[dict[str, Any]], here: Region) -> None:
    """More photos than the cap at the very same place, as a parked car takes them: no box is small enough."""
    for photo in town[:60]:
        photo.update(lat=51.01, lon=3.01, raw_lat=51.01, raw_lon=3.01)
    records, rejects = find(mapillary(town, cap=50).spec, here)
    assert len(records) == len(inside(town, here)) - 10
    assert [(each.reason, each.transient) for each in rejects] == [
        ("part of the region not listed: more photos at one place than the server gives at once", True)
    ]
    west, south, east, north = (float(edge) for edge in rejects[0].file.removeprefix("mapillary/").split(","))
    assert west <= 3.01 <= east
    assert south <= 51.01 <= north


def test_dates_are_asked_of_the_server(mapillary: Start, panoramax: Start, town: list[dict[str, Any]]) -> None:
    everywhere = Region.bbox(2.99, 50.99, 3.03, 51.03)
    days = sorted({photo["captured_at"] for photo in town})
    for server in (mapillary(town), panoramax(town)):
        records, _ = find(server.spec, everywhere, since=days[3], until=days[5])
        expected = sorted(photo["id"] for photo in town if days[3] <= photo["captured_at"] <= days[5])
        assert sorted(record.id for record in records) == expected != []


def test_a_passing_fault_is_asked_again_and_a_lasting_one_ends_the_listing(
    mapillary: Start, town: list[dict[str, Any]], here: Region
) -> None:
    server = mapillary(town)
    server.faults["/images"] = ("busy", 1)
    assert len(find(server.spec, here)[0]) == len(inside(town, here))
    server.faults["/images"] = ("500", 10**6)
    with pytest.raises(RemoteError, match="the server failed"):
        find(server.spec, here)


def test_a_box_that_the_server_fails_at_is_asked_in_quarters(
    panoramax: Start, town: list[dict[str, Any]], here: Region
) -> None:
    """As answers that take the server too long do."""
    server = panoramax(town)
    server.faults["/search"] = ("500", 2)  # both tries of the first box
    records, rejects = find(server.spec, here)
    assert sorted(record.id for record in records) == inside(town, here)
    assert rejects == []


def test_a_private_address_is_asked_only_if_it_is_allowed(
    panoramax: Start, town: list[dict[str, Any]], here: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = panoramax(town)
    monkeypatch.delenv("CELLCODE_ALLOW_PRIVATE")
    with pytest.raises(RemoteError, match="--allow-private"):
        find(server.spec, here)
    assert server.asked == []


@pytest.mark.parametrize("body", ["html", "cut", "elsewhere"])
def test_damaged_answers_are_no_answers(body: str, panoramax: Start, town: list[dict[str, Any]], here: Region) -> None:
    server = panoramax(town)
    server.faults["/search"] = (body, 1)
    assert sorted(record.id for record in find(server.spec, here)[0]) == inside(town, here)


def test_a_sequence_is_read_page_by_page(panoramax: Start, town: list[dict[str, Any]]) -> None:
    server = panoramax(town, cap=7)
    everywhere = Region.bbox(-180, -90, 180, 90)
    records, _ = find(f"{server.spec}/collections/s2", everywhere)
    assert [record.id for record in records] == [photo["id"] for photo in town if photo["sequence"] == "s2"]


@pytest.mark.parametrize("sequence", ["", "/collections/s2"])
def test_pages_with_the_same_photos_under_new_links_end(
    sequence: str, panoramax: Start, town: list[dict[str, Any]], here: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, numbers = panoramax(town), count()
    features = server.features

    def endless(photos: list[Any], links: list[dict[str, str]]) -> tuple[int, bytes]:
        path = f"{sequence}/items?limit=1000" if sequence else "/search?bbox=2,50,4,52&limit=1000"
        return features(photos, [{"rel": "next", "href": f"{server.url}/api{path}&token={next(numbers)}"}])

    monkeypatch.setattr(server, "features", endless)
    records, _ = find(f"{server.spec}{sequence}", here)
    wanted = [photo for photo in town if not sequence or photo["sequence"] == "s2"]
    assert sorted(record.id for record in records) == inside(wanted, here)
    assert len(server.asked) <= 3


@pytest.mark.parametrize(
    ("link", "reason"),
    [("/api/search?bbox=3,51,4,52", "endless pages"), ("http://127.0.0.9/x", "redirect to another host")],
)
def test_next_pages_that_do_not_end_or_lead_away_are_refused(
    link: str, reason: str, panoramax: Start, town: list[dict[str, Any]], here: Region
) -> None:
    server = panoramax(town)
    server.links = [{"rel": "next", "href": link}]
    with pytest.raises(RemoteError) as caught:
        find(server.spec, here)
    assert caught.value.reason == reason
