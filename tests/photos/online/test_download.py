"""Every photo is fetched once, whole, or told by name and reason; a run that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.photos.items import read_online

from cellcode.geography import Region
from cellcode.http import Politeness
from cellcode.photos import IngestOptions
from cellcode.photos.sources.registry import estimate, open_source
from cellcode.photos.table.item import Reject

QUICK = Politeness(requests_per_s=1e6, tries=3, timeout_s=0.4, patience_s=30.0, first_wait_s=0.001)
CALM = Politeness(requests_per_s=1e6, tries=3, timeout_s=30.0, patience_s=60.0, first_wait_s=0.001)
EVERYWHERE = Region.bbox(2.9, 50.95, 3.1, 51.1)
FEW = 12
Start = Callable[..., Any]
Photos = list[dict[str, Any]]


def fetch(server: Any, out: Path, politeness: Politeness = CALM, **options: Any) -> tuple[Photos, list[Reject]]:
    """Rows and rejects; every row's file is there and decodes."""
    items = list(read_online(server.spec, EVERYWHERE, out, politeness=politeness, **{"min_width_px": 40, **options}))
    rows = [item for item in items if not isinstance(item, Reject)]
    for row in rows:
        with Image.open(out / row["file"]) as image:
            image.load()
            assert image.size == (row["width_px"], row["height_px"])
    return rows, [item for item in items if isinstance(item, Reject)]


def ids(rows: Photos) -> list[str]:
    return [Path(row["file"]).stem for row in rows]


@pytest.mark.parametrize("kind", ["mapillary", "panoramax"])
def test_files_are_kept_as_served(kind: str, town: Photos, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)(town[:FEW])
    rows, rejects = fetch(server, tmp_path)
    assert sorted(ids(rows)) == [photo["id"] for photo in town[:FEW]]
    assert rejects == []
    path, query, headers = next(asked for asked in server.asked if "/picture" in asked[0])
    name = next(photo["id"] for photo in town if photo["id"] in path)
    row = next(row for row in rows if name in row["file"])
    assert (tmp_path / row["file"]).read_bytes() == server.answer(path, query, headers)[1]
    assert not list((tmp_path / "images").rglob(".*"))


@pytest.mark.parametrize("fault", ["429", "busy", "500", "503", "cut", "html", "elsewhere", "too_long", "hang"])
def test_a_passing_fault_is_asked_again(fault: str, mapillary: Start, town: Photos, tmp_path: Path) -> None:
    server = mapillary(town[:FEW])
    server.faults[f"/picture/{town[3]['id']}"] = (fault, 1)
    rows, rejects = fetch(server, tmp_path, QUICK if fault == "hang" else CALM)
    assert (len(rows), rejects) == (FEW, [])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "too many requests"),
        ("busy_for_long", "too many requests"),
        ("500", "server error"),
        ("cut", "cut body"),
        ("html", "not an image"),
        ("elsewhere", "redirect to another host"),
        ("hang", "timeout"),
    ],
)
def test_a_lasting_fault_is_told_by_name(
    fault: str, reason: str, mapillary: Start, town: Photos, tmp_path: Path
) -> None:
    """As a passing one: a later run finds the photo."""
    server, name = mapillary(town[:FEW]), town[3]["id"]
    server.faults[f"/picture/{name}"] = (fault, 10**6)
    rows, rejects = fetch(server, tmp_path, QUICK if fault == "hang" else CALM)
    assert len(rows) == FEW - 1
    assert rejects == [Reject(f"mapillary/{name}", None, f"not fetched: {reason}", transient=True)]
    assert not list(tmp_path.rglob(f"*{name}*"))
    server.faults.clear()
    asked = server.count("/")
    rows, rejects = fetch(server, tmp_path)
    assert (len(rows), rejects) == (FEW, [])
    assert server.count("/") == asked + 1  # nothing but that photo


def test_a_photo_that_is_served_damaged_is_told(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    """The same twice in a row: asked again later, it would be the same."""
    server, name = panoramax(town[:FEW]), town[3]["id"]
    server.faults[f"/pictures/{name}"] = ("too_long", 10**6)
    rows, rejects = fetch(server, tmp_path)
    assert len(rows) == FEW - 1
    assert [(each.file, each.transient) for each in rejects] == [(f"panoramax/{name}", False)]
    assert server.count(f"/pictures/{name}") == 2


def test_links_that_have_expired_are_renewed_once(mapillary: Start, town: Photos, tmp_path: Path) -> None:
    server = mapillary(town[:FEW])
    estimate(server.spec, EVERYWHERE, IngestOptions(politeness=CALM, min_width_px=40), out=tmp_path)
    server.generation += 1
    server.asked.clear()
    rows, rejects = fetch(server, tmp_path)
    assert (len(rows), rejects) == (FEW, [])
    assert (server.count("/picture/"), server.count("/images")) == (2 * FEW, 0)


def test_a_link_that_stays_refused_and_a_deleted_photo(mapillary: Start, town: Photos, tmp_path: Path) -> None:
    server, refused, deleted = mapillary(town[:FEW]), town[3]["id"], town[4]["id"]
    server.faults[f"/picture/{refused}"] = ("403", 10**6)
    server.deleted.add(deleted)
    rows, rejects = fetch(server, tmp_path)
    assert len(rows) == FEW - 2
    assert {(each.file, each.reason, each.transient) for each in rejects} == {
        (f"mapillary/{refused}", "not fetched: refused", False),
        (f"mapillary/{deleted}", "deleted since it was listed", False),
    }
    assert server.count(f"/picture/{refused}") == 2


def test_a_token_that_expires_during_a_run(mapillary: Start, town: Photos, tmp_path: Path) -> None:
    """Photos whose links are still good are fetched; the others are missing until there is another token."""
    server = mapillary(town[:FEW])
    estimate(server.spec, EVERYWHERE, IngestOptions(politeness=CALM, min_width_px=40), out=tmp_path)
    server.token = "another"
    server.faults[f"/picture/{town[3]['id']}"] = ("410", 1)
    rows, rejects = fetch(server, tmp_path)
    assert len(rows) == FEW - 1
    assert [(each.reason, each.transient) for each in rejects] == [("not fetched: token refused", True)]


def test_a_photo_deleted_from_panoramax(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    server = panoramax(town[:FEW])
    server.faults[f"/pictures/{town[3]['id']}"] = ("404", 10**6)
    rows, rejects = fetch(server, tmp_path)
    assert len(rows) == FEW - 1
    assert [(each.reason, each.transient) for each in rejects] == [("deleted since it was listed", False)]
    assert server.count(f"/pictures/{town[3]['id']}") == 1


def test_panoramax_leads_to_where_its_pictures_lie(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    """An instance may answer with a redirect to an object store; it is followed for pictures alone."""
    server = panoramax(town[:FEW])
    server.faults["/pictures/"] = ("elsewhere", FEW)
    assert len(fetch(server, tmp_path)[0]) == FEW


def test_a_server_that_is_down_is_not_asked_for_every_photo(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    server = panoramax(town[:100])
    server.faults["/pictures/"] = ("500", 10**6)
    rows, rejects = fetch(server, tmp_path)
    assert rows == []
    assert Counter(each.transient for each in rejects) == {True: 100}
    assert set(Counter(each.reason for each in rejects)) == {
        "not fetched: server error",
        "not fetched: the server fails at every photo",
    }
    assert server.count("/pictures/") < 30 * CALM.tries


def test_a_byte_budget(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    server = panoramax(town[:60])
    estimate(server.spec, EVERYWHERE, IngestOptions(politeness=CALM), out=tmp_path)
    rows, rejects = fetch(server, tmp_path, Politeness(requests_per_s=1e6, budget_bytes=20_000))
    assert 0 < len(rows) < 60
    assert {(each.reason, each.transient) for each in rejects} == {("not fetched: byte budget spent", True)}
    assert len(rows) + len(rejects) == 60


def test_a_run_that_was_cut_off_goes_on(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    server = panoramax(town[:80])
    run = read_online(server.spec, EVERYWHERE, tmp_path, politeness=CALM, min_width_px=40)
    taken = [next(run) for _ in range(20)]
    run.close()
    there = len(list((tmp_path / "images").rglob("*.jpg")))
    assert 20 <= there < 80
    searches = server.count("/search")
    rows, _ = fetch(server, tmp_path)
    assert rows[:20] == taken
    assert len(rows) == 80
    assert server.count("/search") == searches
    assert server.count("/pictures/") == 80


@pytest.mark.parametrize("change", ["age", "dates", "region", "damage"])
def test_when_a_listing_is_asked_for_again(change: str, panoramax: Start, town: Photos, tmp_path: Path) -> None:
    server = panoramax(town[:FEW])
    fetch(server, tmp_path)
    searches = server.count("/search")
    fetch(server, tmp_path, min_width_px=30, max_photos=5)  # what is chosen from a listing does not change it
    assert server.count("/search") == searches
    head = tmp_path / "listing.json"
    region, options = EVERYWHERE, IngestOptions(politeness=CALM, min_width_px=40)
    if change == "age":
        old = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        head.write_text(json.dumps({**json.loads(head.read_text()), "made_at": old}))
    elif change == "dates":
        options = IngestOptions(politeness=CALM, min_width_px=40, since=datetime(2020, 1, 1))
    elif change == "region":
        region = Region.bbox(2.9, 50.95, 3.1, 51.2)
    else:
        head.write_text("{")
    assert len(list(open_source(server.spec, out=tmp_path, region=region, options=options).items())) == FEW
    assert server.count("/search") > searches
    assert server.count("/pictures/") == FEW  # photos that are there stay


def test_a_listing_with_gaps_is_told_and_not_kept(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    for photo in town[:25]:
        photo.update(lat=51.01, lon=3.01)
    server = panoramax(town[:30], cap=20)
    _, rejects = fetch(server, tmp_path)
    assert [each.transient for each in rejects] == [True]
    assert rejects[0].reason.startswith("part of the region not listed")
    server.cap = 2000
    rows, rejects = fetch(server, tmp_path)
    assert (len(rows), rejects) == (30, [])


def test_a_choice_is_random_but_always_the_same(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    server = panoramax(town)
    first, _ = fetch(server, tmp_path / "a", max_photos=10)
    assert len(first) == 10
    assert len({row["sequence"] for row in first}) > 2
    server.photos = [*town[::-1], {**town[0], "id": "new"}]
    again, _ = fetch(server, tmp_path / "b", max_photos=10)
    assert len(set(ids(first)) & set(ids(again))) >= 9


def test_offer(mapillary: Start, town: Photos, tmp_path: Path) -> None:
    server = mapillary(town)
    options = IngestOptions(politeness=CALM, min_width_px=40, min_quality=0.5, max_photos=50)
    offer = estimate(server.spec, EVERYWHERE, options, out=tmp_path)
    good = sum(photo["quality"] >= 0.5 for photo in town)
    assert (offer.found, offer.accepted, offer.photos, offer.present) == (300, good, 50, 0)
    assert offer.licences == {"CC-BY-SA-4.0": 50}
    assert offer.left_out == {"quality score under 0.5": 300 - good}
    assert server.count("/picture/") == 4
    assert not (tmp_path / "images").exists()
    searches = server.count("/images")
    rows = [
        row for row in read_online(server.spec, EVERYWHERE, tmp_path, **dict(options)) if not isinstance(row, Reject)
    ]
    assert server.count("/images") == searches
    fetched = sum((tmp_path / row["file"]).stat().st_size for row in rows)
    assert offer.bytes == pytest.approx(fetched, rel=0.2)
    text = offer.describe()
    for words in ("300 photos in the region, 50 to fetch", "licence CC-BY-SA-4.0: 50", f"out of {good}", "MB"):
        assert words in text
    again = estimate(server.spec, EVERYWHERE, options, out=tmp_path)
    assert (again.present, again.bytes) == (50, 0)


def test_offer_of_a_place_without_photos(panoramax: Start, tmp_path: Path) -> None:
    offer = estimate(panoramax([]).spec, EVERYWHERE)
    assert (offer.found, offer.photos, offer.bytes) == (0, 0, 0)
    assert list(read_online(panoramax([]).spec, EVERYWHERE, tmp_path)) == []


def test_offer_when_no_sample_can_be_fetched(panoramax: Start, town: Photos) -> None:
    server = panoramax(town[:FEW])
    server.faults["/pictures/"] = ("404", 10**6)
    offer = estimate(server.spec, EVERYWHERE, IngestOptions(politeness=CALM, min_width_px=40))
    assert (offer.photos, offer.bytes) == (FEW, None)
    assert "unknown number of bytes" in offer.describe()
