/** Drawing on the map with clicks or taps: a box by two corners, a circle by centre and edge, a polygon by its corners, a point. */

import { byId } from "./dom.js";
import { boxPolygon, circlePolygon, distanceM } from "./geo.js";

/** @typedef {{lat: number, lon: number}} Place - degrees */

const HINTS = {
  box: ["Click one corner of the box.", "Click the opposite corner."],
  circle: ["Click the centre of the circle.", "Click where the circle ends."],
  polygon: ["Click the first corner.", "Click the second corner.", "Click the third corner.", "Click more corners; then press Finish or Enter."],
  claim: ["Click the place that is claimed."],
};

/** One drawing at a time; Escape ends it. */
export class Drawing {
  /** @param {import("./map.js").MapView} view @param {number} mostVertices - corners a polygon may have */
  constructor(view, mostVertices) {
    this.view = view;
    this.most = mostVertices;
    this.tool = null;
    this.points = [];
    view.map?.on("click", (event) => this.#click(placeOf(event)));
    view.map?.on("mousemove", (event) => this.#draft(placeOf(event)));
    byId("draw-cancel").addEventListener("click", () => this.stop());
    byId("draw-finish").addEventListener("click", () => this.#finish());
    document.addEventListener("keydown", (event) => {
      if (!this.tool) return;
      if (event.key === "Escape") this.stop();
      if (event.key === "Enter" && this.tool === "polygon" && this.points.length > 2 && event.target.tagName !== "BUTTON") this.#finish();
    });
  }

  /**
   * @param {"box"|"circle"|"polygon"|"claim"} tool
   * @param {(points: Place[]) => void} done - box: two corners; circle: centre and a point of the edge; polygon: corners; claim: one
   * @param {() => void} ended - called at the end in any case
   */
  start(tool, done, ended) {
    this.stop();
    Object.assign(this, { tool, done, ended, points: [] });
    this.view.map?.doubleClickZoom.disable();
    this.view.map?.getCanvas().classList.add("drawing");
    this.#hint();
  }

  /** End without a result. */
  stop() {
    const ended = this.ended;
    Object.assign(this, { tool: null, points: [], ended: null });
    this.view.setShape("draft", []);
    this.view.map?.doubleClickZoom.enable();
    this.view.map?.getCanvas().classList.remove("drawing");
    byId("map-hint").hidden = true;
    ended?.();
  }

  #click(place) {
    if (!this.tool) return;
    const last = this.points.at(-1);
    if (last && last.lat === place.lat && last.lon === place.lon) return; // the second half of a double click
    this.points.push(place);
    const enough = { claim: 1, box: 2, circle: 2, polygon: this.most }[this.tool];
    if (this.points.length >= enough) this.#finish();
    else {
      this.#hint();
      this.#draft(place);
    }
  }

  #finish() {
    const { points, done } = this;
    this.stop();
    done(points);
  }

  #hint() {
    const hints = HINTS[this.tool];
    byId("map-hint").hidden = false;
    byId("map-hint-text").textContent = hints[Math.min(this.points.length, hints.length - 1)];
    byId("draw-finish").hidden = !(this.tool === "polygon" && this.points.length > 2);
  }

  /** The shape as it would be if the pointer's place were clicked. */
  #draft(place) {
    if (!this.tool || !this.points.length) return;
    const geometry = shape(this.tool, [...this.points, place]);
    this.view.setShape("draft", [{ type: "Feature", properties: {}, geometry }]);
  }
}

/** @param {string} tool @param {Place[]} points @returns {object} GeoJSON geometry */
export function shape(tool, points) {
  if (tool === "box") return boxPolygon(boxOf(points));
  if (tool === "circle") return circlePolygon(points[0], Math.max(1, distanceM(points[0], points[1])));
  const ring = points.map(({ lat, lon }) => [lon, lat]);
  if (points.length < 3) return { type: "LineString", coordinates: ring };
  return { type: "Polygon", coordinates: [[...ring, ring[0]]] };
}

/** @param {Place[]} points - two corners @returns {number[]} west, south, east, north in degrees */
export function boxOf([a, b]) {
  return [Math.min(a.lon, b.lon), Math.min(a.lat, b.lat), Math.max(a.lon, b.lon), Math.max(a.lat, b.lat)];
}

const placeOf = (event) => ({ lat: event.lngLat.lat, lon: event.lngLat.lng });
