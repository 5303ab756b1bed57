/** The part of the region to search: drawn on the map or typed; a change asks again. */

import { announce, byId } from "./dom.js";
import { boxOf, shape } from "./draw.js";
import { area, parseBox } from "./format.js";
import { areaM2, boxPolygon, distanceM } from "./geo.js";
import { get, set, watch } from "./store.js";

const TOOLS = ["box", "circle", "polygon"];

/** @param {import("./draw.js").Drawing} drawing @param {() => void} ask */
export function startArea(drawing, ask) {
  const search = (region) => {
    set({ region });
    announce(region ? `Searching ${area(region.areaM2)} only.` : "Searching everywhere.");
    ask();
  };
  for (const tool of TOOLS) {
    byId(`area-${tool}`).disabled = !drawing.view.works;
    byId(`area-${tool}`).addEventListener("click", () => {
      if (get().tool === tool) return drawing.stop();
      drawing.start(tool, (points) => search(regionOf(tool, points)), () => set({ tool: null }));
      return set({ tool });
    });
  }
  byId("area-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const bounds = parseBox(byId("area-text").value);
    note(bounds ? "" : "Type four numbers: west, south, east and north in degrees, south below north.");
    if (bounds) search({ text: bounds.join(","), polygon: boxPolygon(bounds), areaM2: areaM2(boxPolygon(bounds)) });
  });
  byId("area-clear").addEventListener("click", () => {
    byId("area-text").value = "";
    search(null);
    byId("area-text").focus();
  });
  watch(["tool"], ({ tool }) => TOOLS.forEach((each) => byId(`area-${each}`).setAttribute("aria-pressed", String(each === tool))));
  watch(["region"], ({ region }) => {
    byId("area-now").hidden = region === null;
    byId("area-line").textContent = region ? `Only ${area(region.areaM2)} are searched.` : "";
    if (region && /^[-\d.,]+$/.test(region.text)) byId("area-text").value = region.text;
  });
  watch(["database"], ({ database }) => {
    if (database) byId("area-text").placeholder = database.bounds.map((degrees) => degrees.toFixed(2)).join(",");
  });
}

/** The region as the service reads it. @param {string} tool @param {{lat: number, lon: number}[]} points */
function regionOf(tool, points) {
  const polygon = shape(tool, points);
  let text = JSON.stringify(polygon);
  if (tool === "box") text = boxOf(points).map((degrees) => degrees.toFixed(6)).join(",");
  if (tool === "circle") {
    const [{ lat, lon }] = points;
    text = `cap:${lat.toFixed(6)},${lon.toFixed(6)},${Math.max(1, distanceM(points[0], points[1])).toFixed(1)}`;
  }
  return { text, polygon, areaM2: areaM2(polygon) };
}

function note(text) {
  byId("area-note").textContent = text;
  byId("area-text").setAttribute("aria-invalid", String(text !== ""));
  if (text) byId("area-text").focus();
}
