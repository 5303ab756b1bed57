"""What people do with the page, in a real browser against a real server: each asserts that page and API agree."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cellcode.geography.distance import haversine_m

from .conftest import Found, Served, Visit, answered, settle

pytestmark = pytest.mark.ui
Give = Callable[..., None]
PROJECT = "(at) => { const point = cellcode.map.project(at); return [point.x, point.y]; }"


def hand_over(page: Any, photo: Path, event: str) -> None:
    """Drop or paste a photo, as an event with the file in it."""
    page.evaluate(
        """([data, name, event]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, { type: "image/jpeg" }));
            const made = event === "paste"
                ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true })
                : new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true });
            document.querySelector("#drop").dispatchEvent(made);
        }""",
        [base64.b64encode(photo.read_bytes()).decode(), photo.name, event],
    )
    answered(page)


def listed(page: Any) -> list[str]:
    """Tokens of the ranked list."""
    return [button.get_attribute("data-cell") for button in page.locator(".place-button").all()]


def shown(page: Any) -> tuple[float, float]:
    """Coordinates of the answer as they are written."""
    lat, lon = page.inner_text("#coordinates").split(", ")
    return float(lat), float(lon)


def assert_same(page: Any, answer: dict[str, Any]) -> None:
    """The page shows what the API answers: coordinates, list, and the marker over its place on the map."""
    assert shown(page) == pytest.approx((answer["lat"], answer["lon"]), abs=6e-6)
    assert listed(page) == [candidate["cell"] for candidate in answer["candidates"]]
    settle(page)
    x, y = page.evaluate(PROJECT, [answer["lon"], answer["lat"]])
    box, area = page.locator(".marker.best").bounding_box(), page.locator("#map").bounding_box()
    assert (box["x"] + box["width"] / 2 - area["x"], box["y"] + box["height"] / 2 - area["y"]) == pytest.approx(
        (x, y), abs=2
    )
    assert 0 <= x <= area["width"]
    assert 0 <= y <= area["height"]


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_photo_is_shown_where_it_was_taken(visit: Visit, found: list[Found], event: str) -> None:
    photo = found[0]
    assert (
        haversine_m(photo.lat, photo.lon, photo.answer["lat"], photo.answer["lon"]) < 150
    )  # a cell's diagonal and a bit
    page = visit.ready()
    visit.shot(page, "start")
    hand_over(page, photo.path, event)
    assert_same(page, photo.answer)
    lat, lon = page.evaluate(
        """() => { const map = cellcode.map.getContainer().getBoundingClientRect();
            const marker = document.querySelector(".marker.best").getBoundingClientRect();
            const at = cellcode.map.unproject([marker.x + marker.width / 2 - map.x, marker.y + marker.height / 2 - map.y]);
            return [at.lat, at.lng]; }"""
    )
    assert haversine_m(photo.lat, photo.lon, lat, lon) < 200
    heat = "([lon, lat]) => cellcode.map.queryRenderedFeatures(cellcode.map.project([lon, lat]), { layers: ['heat'] }).length"
    assert page.evaluate(heat, [photo.answer["lon"], photo.answer["lat"]]) >= 1
    assert page.locator("#legend-rows li").count() == 6
    page.wait_for_selector("#comparison .aerial img")
    visit.shot(page, "answer")


def test_photos_of_one_place_are_one_question_or_several(
    visit: Visit, served: Served, found: list[Found], give: Give
) -> None:
    photos = [each.path for each in found[:2]]
    page = visit.ready()
    give(page, *photos)
    (together,) = served.post("/v1/locate", photos, fuse="true")["answers"]
    assert_same(page, together)
    visit.shot(page, "several-one-place")
    page.click("#fuse")
    answered(page)
    page.wait_for_selector(".thumb-show")
    assert_same(page, found[0].answer)
    page.locator(".thumb-show").nth(1).click()
    assert_same(page, found[1].answer)
    visit.shot(page, "several-apart")
    page.locator(".thumb-remove").nth(0).click()
    page.wait_for_selector("main[aria-busy=false]")
    assert_same(page, found[1].answer)


def test_a_typed_box_changes_the_answer(visit: Visit, served: Served, found: list[Found], give: Give) -> None:
    answer = found[0].answer
    west, south, east, north = served.database()["bounds"]
    middle = (west + east) / 2
    half = (middle, south, east, north) if answer["lon"] < middle else (west, south, middle, north)
    text = ",".join(f"{degrees:.5f}" for degrees in half)
    page = visit.ready()
    give(page, found[0].path)
    page.click("#area-block summary")
    page.fill("#area-text", "1,2,3")
    page.click("#area-apply")
    assert "four numbers" in page.inner_text("#area-note")
    page.fill("#area-text", text)
    page.click("#area-apply")
    page.wait_for_selector("#area-now:not([hidden])")
    answered(page)
    restricted = served.locate(found[0].path, region=text)
    assert restricted["cell"] != answer["cell"]
    assert_same(page, restricted)
    visit.shot(page, "area-typed")
    page.click("#area-clear")
    answered(page)
    assert_same(page, answer)


@pytest.mark.parametrize("tool", ["box", "circle", "polygon"])
def test_a_drawn_area_changes_the_answer(
    visit: Visit, served: Served, found: list[Found], give: Give, tool: str
) -> None:
    page = visit.ready()
    give(page, found[0].path)
    page.click("#area-block summary")
    west, south, east, north = served.database()["bounds"]
    page.evaluate(
        "(bounds) => cellcode.map.fitBounds(bounds, { padding: 120, duration: 0 })", [[west, south], [east, north]]
    )
    settle(page)
    # The half of the region that does not hold the answer.
    middle, edge = (west + east) / 2, west if found[0].answer["lon"] > (west + east) / 2 else east
    centre = ((middle + edge) / 2, (south + north) / 2)
    corners = {
        "box": [(middle, south), (edge, north)],
        "circle": [centre, (edge, centre[1])],
        "polygon": [(middle, south), (edge, south), (edge, north), (middle, north)],
    }[tool]
    page.click(f"#area-{tool}")
    area = page.locator("#map").bounding_box()
    for lon, lat in corners:
        x, y = page.evaluate(PROJECT, [lon, lat])
        page.mouse.move(area["x"] + x, area["y"] + y, steps=3)
        page.wait_for_timeout(350)  # two quick clicks would be a double click
        page.mouse.click(area["x"] + x, area["y"] + y)
    if tool == "polygon":
        visit.shot(page, "drawing")
        page.keyboard.press("Enter")
    page.wait_for_selector("#area-now:not([hidden])")
    answered(page)
    region = page.evaluate("() => cellcode.state().region.text")
    if tool == "polygon":
        assert json.loads(region)["type"] == "Polygon"
    restricted = served.locate(found[0].path, region=region)
    assert restricted["cell"] != found[0].answer["cell"]
    assert_same(page, restricted)
    visit.shot(page, f"area-{tool}")


def test_true_and_false_claims(visit: Visit, served: Served, found: list[Found], give: Give) -> None:
    photo = found[0]
    everything = served.locate(photo.path, top=min(100, served.database()["cells"]["total"]))["candidates"]
    far = max(everything, key=lambda each: float(haversine_m(photo.lat, photo.lon, each["lat"], each["lon"])))
    claims = {"true": (photo.lat, photo.lon), "false": (far["lat"], far["lon"]), "elsewhere": (-33.86, 151.21)}
    page = visit.ready()
    give(page, photo.path)
    page.click("#claim-block summary")
    percentiles = {}
    for name, (lat, lon) in claims.items():
        said = served.post("/v1/verify", [photo.path], lat=round(lat, 5), lon=round(lon, 5))
        page.fill("#claim-text", f"{lat:.5f}, {lon:.5f}")
        page.click("#claim-check")
        page.wait_for_selector(f"#claim-result [data-verdict={said['verdict']}]")
        assert said["reason"] in page.inner_text("#claim-result")
        assert page.locator(".marker.claim").count() == 1
        percentiles[name] = said["claim"]["percentile"]
        page.locator("#claim-block").scroll_into_view_if_needed()
        visit.shot(page, f"claim-{name}")
    assert percentiles["true"] > percentiles["false"]
    assert percentiles["elsewhere"] is None
    assert page.locator("#claim-result [data-verdict=outside_database]").count() == 1


def test_a_claim_is_clicked_on_the_map(visit: Visit, found: list[Found], give: Give) -> None:
    page = visit.ready()
    give(page, found[0].path)
    page.click("#claim-block summary")
    page.click("#claim-pick")
    area = page.locator("#map").bounding_box()
    at = (area["x"] + area["width"] * 0.6, area["y"] + area["height"] * 0.6)
    place = page.evaluate(
        "([x, y]) => cellcode.map.unproject([x, y]).toArray()", [at[0] - area["x"], at[1] - area["y"]]
    )
    page.mouse.click(*at)
    page.wait_for_selector("#claim-result [data-verdict]")
    lat, lon = (float(part) for part in page.input_value("#claim-text").split(", "))
    assert (lon, lat) == pytest.approx(tuple(place), abs=1e-4)


def test_outside_and_not_sure_look_unlike_an_answer(
    visit: Visit, served: Served, found: list[Found], give: Give, tmp_path: Path
) -> None:
    page = visit.ready()
    kinds = {}
    for photo in [each for each in found if each.answer["in_region"] is not False][:1]:
        give(page, photo.path)
        kinds["inside"] = page.get_attribute("#answer .verdict", "data-kind")
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)).save(noise)
    if (answer := served.locate(noise))["in_region"] is not False:
        answer["in_region"] = False  # this database is too small to tell
        page.route("**/v1/locate", lambda route: route.fulfill(json={"answers": [answer]}))
    give(page, noise)
    page.wait_for_selector("#answer [data-kind=outside]")
    assert "Probably not taken in this region" in page.inner_text("#answer-title")
    assert page.evaluate("async () => (await cellcode.map.getSource('circles').getData()).features.length") == 0
    visit.shot(page, "outside")
    page.unroute_all()
    sure = {**found[0].answer, "in_region": True, "radius_90_m": 1e6}
    page.route("**/v1/locate", lambda route: route.fulfill(json={"answers": [sure]}))
    give(page, found[0].path)
    page.wait_for_selector("#answer [data-kind=unsure]")
    visit.shot(page, "not-sure")
    page.unroute_all()
    page.route(
        "**/v1/locate", lambda route: route.fulfill(json={"answers": [{**sure, "radius_50_m": 60, "radius_90_m": 200}]})
    )
    give(page, found[0].path)
    page.wait_for_selector("#answer [data-kind=found]")
    visit.shot(page, "found")
    assert kinds["inside"] in {"found", "unsure"}


def test_the_position_in_the_file_is_told_and_not_used(visit: Visit, found: list[Found], give: Give) -> None:
    page = visit.ready()
    give(page, found[0].path)
    banner = page.inner_text("#file-banner")
    assert "contains a position; it was not used" in banner
    assert page.locator(".marker.file").count() == 0
    page.click("#show-metadata")
    assert page.locator(".marker.file").count() == 1
    assert page.locator(".marker.arrow").count() == 1  # the file has a direction of view, too
    visit.shot(page, "position-in-file")


def test_exports(visit: Visit, found: list[Found], give: Give) -> None:
    answer = found[0].answer
    page = visit.ready()
    give(page, found[0].path)
    with page.expect_download() as geojson:
        page.click("#export-geojson")
    features = json.loads(Path(geojson.value.path()).read_text())["features"]
    assert features[0]["geometry"] == {"type": "Point", "coordinates": [answer["lon"], answer["lat"]]}
    cells = [feature for feature in features if feature["properties"]["kind"] == "candidate"]
    assert [cell["properties"]["cell"] for cell in cells] == [candidate["cell"] for candidate in answer["candidates"]]
    with page.expect_download() as table:
        page.click("#export-csv")
    rows = list(csv.DictReader(Path(table.value.path()).read_text().splitlines()))
    assert [(row["cell"], float(row["lat"]), float(row["probability"])) for row in rows] == [
        (candidate["cell"], candidate["lat"], candidate["probability"]) for candidate in answer["candidates"]
    ]
    assert rows[0]["file"] == found[0].path.name


def test_links_tell_the_other_site_only_the_place(visit: Visit, found: list[Found], give: Give) -> None:
    page = visit.ready(permissions=["clipboard-read", "clipboard-write"])
    give(page, found[0].path)
    links = page.locator(".links a").all()
    assert len(links) == 3
    for link in links:
        assert f"{found[0].answer['lat']:.6f}" in link.get_attribute("href")
        assert (link.get_attribute("rel"), link.get_attribute("target")) == ("noopener noreferrer", "_blank")
    page.click("#copy")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.inner_text("#coordinates")
