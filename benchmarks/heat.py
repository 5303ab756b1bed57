"""The heat map of a database of about 100,000 cells, all of them with mass: bytes, time to answer, time until it is seen."""

import asyncio
import shutil
import statistics
import time
from pathlib import Path

from report import Row
from served import Served, answer, request, untrained

SIDE_DEG = 0.46  # about 100,000 cells of level 16
REPEATS = 7
FLAGS = (
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
)  # software rendering; often run as root


def measure(folder: Path, photo: bytes) -> list[Row]:
    """Serve such a database and ask for its heat map, by the API and in a browser."""
    cells = untrained(folder / "wide", "tiny", level=16, side_deg=SIDE_DEG)
    with Served(cells.folder, folder / "heat.log") as server:
        with_heat = [asyncio.run(_ask(server.port, photo, heat=True)) for _ in range(REPEATS)]
        without = [asyncio.run(_ask(server.port, photo, heat=False)) for _ in range(REPEATS)]
        shown = _seconds_to_map(server.port, photo)
    rows: list[Row] = [
        {"case": "cells of the heat map's database", "value": float(len(cells.ids)), "unit": "cells"},
        {"case": "heat map of all of them, as sent", "value": with_heat[0][0] / 1000, "unit": "kB"},
        {
            "case": "an answer with its heat map",
            "value": statistics.median(took for _, took in with_heat),
            "unit": "s",
            "against": f"{statistics.median(took for _, took in without):.3f} s without",
        },
    ]
    if shown:
        rows.append({"case": "heat map drawn, after its answer came", "value": statistics.median(shown), "unit": "s"})
        rows.append({"case": "heat map drawn, the slowest", "value": max(shown), "unit": "s"})
    return rows


async def _ask(port: int, photo: bytes, heat: bool) -> tuple[int, float]:
    """Bytes of an answer's body as sent, and its seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    wanted = '--b\r\nContent-Disposition: form-data; name="heat"\r\n\r\ntrue\r\n' if heat else ""
    started = time.perf_counter()
    writer.write(request(photo, wanted))
    status, size = await answer(reader)
    assert status == 200
    writer.close()
    return size, time.perf_counter() - started


def _seconds_to_map(port: int, photo: bytes) -> list[float]:
    """Seconds from the last byte of an answer to a map at rest with its heat, in headless Chromium; [] without one."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import FilePayload, sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        print("no browser (extra ui, and Debian's chromium): the time until the heat map is seen is left out")
        return []
    took = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for _ in range(REPEATS):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("html[data-ready]", state="attached")
            page.evaluate("() => cellcode.map.on('idle', () => { window.rested = performance.now(); })")
            page.set_input_files("#file", files=[FilePayload(name="a.jpg", mimeType="image/jpeg", buffer=photo)])
            page.wait_for_selector("main[aria-busy=false]", timeout=60_000)
            page.wait_for_selector("#answer:not([hidden])", timeout=60_000)
            took.append(page.evaluate(REST) / 1000)
            page.close()
        browser.close()
    return took


# The map is idle when its sources are loaded and drawn and no transition or movement is left. It may rest, and start again
# when a source comes: half a second without a new rest is the last one.
REST = """async () => {
    const came = performance.getEntriesByType("resource").filter((each) => each.name.endsWith("/v1/locate")).at(-1).responseEnd;
    for (let last = -1; ; ) {
        await new Promise((done) => setTimeout(done, 500));
        const resting = (window.rested ?? 0) > came && cellcode.map.loaded() && !cellcode.map.isMoving();
        if (resting && window.rested === last) return last - came;
        last = window.rested;
    }
}"""
