"""The page for everybody: keyboard alone, names and contrast, a phone, dark colours, keys, errors, waiting, other hosts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .conftest import Found, Served, Visit, answered

pytestmark = pytest.mark.ui
Give = Callable[..., None]

# Contrast of each text with what is behind it (WCAG 2.2, 1.4.3); colours are read from a pixel, so every notation is known.
CONTRAST = """() => {
    const brush = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        brush.clearRect(0, 0, 1, 1);
        brush.fillStyle = colour;
        brush.fillRect(0, 0, 1, 1);
        return [...brush.getImageData(0, 0, 1, 1).data];
    };
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] > 200) return colour;
        }
        return rgba(getComputedStyle(document.body).backgroundColor);
    };
    const poor = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest(".visually-hidden, :disabled, svg")) continue;
        const style = getComputedStyle(element);
        const [a, b] = [luminance(rgba(style.color)), luminance(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return poor;
}"""

NAMELESS = """() => [...document.querySelectorAll("button, input, a[href], summary, select")].filter((element) => {
    const labels = [...(element.labels ?? [])].map((label) => label.textContent).join("");
    return !(element.getAttribute("aria-label") || element.title || labels || element.textContent || "").trim();
}).map((element) => element.outerHTML.slice(0, 120))"""


def focused(page: Any) -> str:
    """The id of what has the focus, else its first class."""
    return str(page.evaluate("() => document.activeElement.id || document.activeElement.classList[0]"))


def tab_to(page: Any, wanted: str, most: int = 60) -> None:
    """Press Tab until something has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if focused(page) == wanted:
            return
    raise AssertionError(f"Tab does not reach {wanted}")


def test_keyboard_alone(visit: Visit, served: Served, found: list[Found]) -> None:
    page = visit.ready()
    page.on("filechooser", lambda chooser: chooser.set_files(str(found[0].path)))
    page.keyboard.press("Tab")
    assert focused(page) == "skip"
    tab_to(page, "choose", 5)
    page.keyboard.press("Enter")
    answered(page)
    tab_to(page, "place-button")
    page.keyboard.press("ArrowDown")
    second = page.evaluate("() => document.activeElement.dataset.cell")
    assert second == found[0].answer["candidates"][1]["cell"]
    assert "active" in page.locator(".marker.rank").nth(1).get_attribute("class")
    page.keyboard.press("Enter")
    assert page.get_attribute("#comparison", "data-cell") == second
    visit.shot(page, "keyboard-second-place")
    # A claim and an area, typed.
    for block, field, text in (
        ("claim-block", "claim-text", f"{found[0].lat:.5f}, {found[0].lon:.5f}"),
        ("area-block", "area-text", ",".join(str(degrees) for degrees in served.database()["bounds"])),
    ):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement.parentElement?.id") == block:
                break
        page.keyboard.press("Enter")
        tab_to(page, field, 8)
        page.keyboard.type(text)
        page.keyboard.press("Enter")
    page.wait_for_selector("#area-now:not([hidden])")
    answered(page)
    assert listed(page) == [candidate["cell"] for candidate in found[0].answer["candidates"]]


def listed(page: Any) -> list[str]:
    """Tokens of the ranked list."""
    return [button.get_attribute("data-cell") for button in page.locator(".place-button").all()]


def test_pointing_at_the_list_and_at_the_map(visit: Visit, found: list[Found], give: Give) -> None:
    page = visit.ready()
    give(page, found[0].path)
    page.locator(".place-button").nth(2).hover()
    assert "active" in page.locator(".marker.rank").nth(2).get_attribute("class")
    page.locator(".place-button").nth(2).click()
    page.wait_for_timeout(800)  # the map moves there
    page.locator(".marker.rank").nth(2).hover()
    assert "active" in page.locator(".place-button").nth(2).get_attribute("class")
    assert page.locator(".place-button[aria-pressed=true]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_and_contrast(visit: Visit, found: list[Found], give: Give, scheme: str) -> None:
    page = visit.ready(color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    give(page, found[0].path)
    page.evaluate("() => document.querySelectorAll('details').forEach((details) => (details.open = true))")
    page.fill("#claim-text", f"{found[0].lat}, {found[0].lon}")
    page.click("#claim-check")
    page.wait_for_selector("#claim-result [data-verdict]")
    page.mouse.move(1, 1)
    page.wait_for_timeout(300)  # colours change gradually
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(NAMELESS) == []
    assert page.locator("main, header, footer, section[aria-label=Map]").count() == 4
    visit.shot(page, f"everything-{scheme}")
    page.locator("#answer").scroll_into_view_if_needed()
    visit.shot(page, f"answer-{scheme}")


def test_the_switch_of_colours_is_remembered(visit: Visit) -> None:
    page = visit.ready(color_scheme="light")
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    page.reload()
    page.wait_for_selector("html[data-ready][data-theme=dark]", state="attached")
    visit.shot(page, "start-dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_of_360_pixels(visit: Visit, found: list[Found], give: Give, scheme: str) -> None:
    page = visit.ready(
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
        color_scheme=scheme,
    )

    def overflow() -> int:
        return max(page.evaluate("() => ['html', '#panel'].map((part) => document.querySelector(part).scrollWidth)"))

    assert page.get_attribute("#camera", "capture") == "environment"
    assert page.is_visible("#take")
    assert overflow() <= 360
    visit.shot(page, f"phone-{scheme}-start")
    give(page, found[0].path)
    assert overflow() <= 360
    visit.shot(page, f"phone-{scheme}-answered")
    page.tap("#handle")
    assert page.get_attribute("#handle", "aria-expanded") == "true"
    page.evaluate("() => document.querySelectorAll('details').forEach((details) => (details.open = true))")
    page.fill("#claim-text", f"{found[0].lat}, {found[0].lon}")
    page.tap("#claim-check")
    page.wait_for_selector("#claim-result [data-verdict]")
    assert overflow() <= 360
    for part in ("answer", "places", "claim-result", "area-block", "about"):
        page.evaluate("(id) => document.getElementById(id).scrollIntoView()", part)
        visit.shot(page, f"phone-{scheme}-{part}")


def test_a_service_with_keys_asks_for_one(visit: Visit, guarded: Served, found: list[Found], give: Give) -> None:
    visit.hosts.add(guarded.url.removeprefix("http://"))
    page = visit(url=guarded.url + "/")
    page.wait_for_selector("#key-dialog[open]")
    page.wait_for_timeout(300)
    page.screenshot(path=visit.folder / "key.png")
    page.fill("#key-field", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-refused:not([hidden])")
    page.fill("#key-field", guarded.key)
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-ready]", state="attached")
    give(page, found[0].path)
    page.wait_for_selector("#comparison .aerial img")  # pictures carry the key as well
    assert listed(page) == [candidate["cell"] for candidate in found[0].answer["candidates"]]
    assert page.evaluate("() => document.cookie + JSON.stringify(localStorage)") == "{}"


def test_what_cannot_be_read_is_said(visit: Visit, found: list[Found], give: Give, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is not a photo")
    page = visit.ready()
    with page.expect_response("**/v1/locate") as response:
        page.set_input_files("#file", str(broken))
    error = response.value.json()["error"]
    page.wait_for_selector("#problem .problem")
    assert error["message"] in page.inner_text("#problem")
    assert error["action"] in page.inner_text("#problem")
    visit.shot(page, "unreadable")
    page.set_input_files("#file", [str(found[0].path)] * 40)
    assert "At most" in page.inner_text("#problem")
    give(page, found[0].path)
    assert page.inner_text("#problem") == ""


def test_waiting_can_be_cancelled(visit: Visit, found: list[Found]) -> None:
    page = visit.ready()
    held: list[Any] = []
    page.route("**/v1/locate", lambda route: held.append(route))  # never answered
    page.set_input_files("#file", str(found[0].path))
    page.wait_for_selector("#wait:not([hidden])")
    visit.shot(page, "waiting")
    page.click("#cancel")
    assert page.is_hidden("#wait")
    assert page.is_hidden("#answer")
    assert page.inner_text("#live") == "Cancelled."


def test_another_host_is_asked_only_for_the_online_map_and_only_if_wanted(visit: Visit, served: Served) -> None:
    basemap = served.database()["basemap"]
    host = basemap["url"].split("/")[2]
    drawn = io.BytesIO()
    Image.new("RGB", (256, 256), "ivory").save(drawn, "PNG")
    page = visit.ready()
    asked: list[dict[str, str]] = []

    def answer(route: Any) -> None:
        asked.append(route.request.headers)
        route.fulfill(body=drawn.getvalue(), content_type="image/png", headers={"Access-Control-Allow-Origin": "*"})

    page.route(f"https://{host}/**", answer)
    visit.shot(page, "no-online-map")
    assert visit.elsewhere == []
    with page.expect_request(f"https://{host}/**"):
        page.check("#show-online")
    visit.shot(page, "online-map")
    assert asked
    assert not any("authorization" in headers or "referer" in headers for headers in asked)
    page.uncheck("#show-online")
    assert {request.url.split("/")[2] for request in visit.elsewhere} == {host}
    visit.elsewhere.clear()


def test_the_language_and_the_title(visit: Visit) -> None:
    page = visit.ready()
    assert page.get_attribute("html", "lang") == "en"
    assert "Where was this photo taken?" in page.title()
    assert json.loads(page.evaluate("() => JSON.stringify(cellcode.state().database.name)"))
