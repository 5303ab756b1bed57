/** The map: one MapLibre map whose shapes and markers are set by name. Without WebGL the page works on, without a map. */

import * as maplibregl from "../vendor/maplibre-gl/maplibre-gl.mjs";
import { headers } from "./api.js";
import { byId, el, icon } from "./dom.js";
import { SHAPES, onlineLayer, onlineSource, style } from "./layers.js";

const ATTRIBUTION_MS = 5000; // on a phone it then folds to a button, as it does when the map is moved
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** A map in the element `map`; shapes survive a change of the theme. */
export class MapView {
  /** @param {object} database - the answer of GET /v1/database @param {boolean} dark */
  constructor(database, dark) {
    this.database = database;
    this.dark = dark;
    this.online = false;
    this.hidden = {};
    this.shapes = new Map();
    this.markers = new Map();
    this.map = open(database, dark);
    if (!this.map) return;
    this.map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "top-right");
    this.map.addControl(new maplibregl.ScaleControl({ maxWidth: 110 }), "bottom-left");
    this.map.addControl(new maplibregl.AttributionControl({ compact: innerWidth < 760 }), "bottom-right");
    this.map.getCanvas().setAttribute("aria-label", "Map. Arrow keys move it, plus and minus zoom.");
    this.map.on("error", () => {}); // a tile outside the imagery is no news
    this.map.once("load", () => this.#restore());
    if (innerWidth < 760) setTimeout(foldAttribution, ATTRIBUTION_MS);
  }

  /** Whether there is a map at all. */
  get works() {
    return Boolean(this.map);
  }

  /** Set a shape. @param {string} name - one of SHAPES @param {object[]} features - GeoJSON; none clears it */
  setShape(name, features) {
    const data = { type: "FeatureCollection", features };
    this.shapes.set(name, data);
    this.map?.getSource(name)?.setData(data);
  }

  /**
   * Set a marker, made of HTML; it is for the pointer only, the panel says the same to keyboards and screen readers.
   * @param {string} name @param {{lat: number, lon: number}|null} place - null removes it
   * @param {HTMLElement} [element] @param {object} [options] - of a MapLibre marker
   */
  setMarker(name, place, element, options = {}) {
    this.markers.get(name)?.remove();
    this.markers.delete(name);
    if (!this.map || !place) return;
    element.setAttribute("aria-hidden", "true");
    const marker = new maplibregl.Marker({ element, ...options }).setLngLat([place.lon, place.lat]).addTo(this.map);
    this.markers.set(name, marker);
    element.removeAttribute("tabindex");
    element.removeAttribute("role");
    element.removeAttribute("aria-label");
  }

  /** Remove the markers whose names begin so. @param {string} prefix */
  clearMarkers(prefix) {
    for (const name of [...this.markers.keys()]) if (name.startsWith(prefix)) this.setMarker(name, null);
  }

  /** Show a box. @param {number[]} bounds - west, south, east, north in degrees @param {number} [maxZoom] */
  fit([west, south, east, north], maxZoom = 16.5) {
    const box = [[west, south], [east < west ? east + 360 : east, north]];
    this.map?.fitBounds(box, { padding: roomFor(this.map.getContainer()), maxZoom, duration: calm.matches ? 0 : 700 });
  }

  /** Bring a place into the middle. @param {{lat: number, lon: number}} place - degrees @param {number} zoom - at least this */
  show(place, zoom) {
    this.map?.easeTo({
      center: [place.lon, place.lat],
      zoom: Math.max(this.map.getZoom(), zoom),
      duration: calm.matches ? 0 : 600,
    });
  }

  /** @param {boolean} dark */
  setTheme(dark) {
    if (!this.map || dark === this.dark) return;
    this.dark = dark;
    if (this.map.getLayer("sea")) this.#paint();
  }

  /** @param {boolean} on */
  setHeat(on) {
    this.#visible("heat", on);
  }

  /** @param {boolean} on */
  setImagery(on) {
    this.#visible("imagery", on);
  }

  /** Show or remove the online basemap, the only thing that asks another host. @param {boolean} on */
  setOnline(on) {
    this.online = on;
    if (!this.map?.getLayer("sea") || !this.database.basemap) return;
    if (this.map.getLayer("online")) this.map.removeLayer("online");
    if (this.map.getSource("online")) this.map.removeSource("online");
    if (!on) return;
    this.map.addSource("online", onlineSource(this.database.basemap));
    this.map.addLayer(onlineLayer(this.dark), this.map.getLayer("imagery") ? "imagery" : "bounds");
  }

  #visible(layer, on) {
    this.hidden[layer] = !on;
    if (this.map?.getLayer(layer)) this.map.setLayoutProperty(layer, "visibility", on ? "visible" : "none");
  }

  #paint() {
    for (const { id, paint } of style(this.database, this.dark).layers) {
      for (const [name, value] of Object.entries(paint)) this.map.setPaintProperty(id, name, value);
    }
    if (this.online) this.setOnline(true);
  }

  /** What was set before the map was ready. */
  #restore() {
    this.#paint();
    for (const name of SHAPES) if (this.shapes.has(name)) this.map.getSource(name)?.setData(this.shapes.get(name));
    for (const [layer, off] of Object.entries(this.hidden)) this.#visible(layer, !off);
  }
}

/** A marker with a number. @param {number} rank - 1 is the best @param {Record<string, unknown>} listeners */
export const rankMarker = (rank, listeners) => el("div", { class: "marker rank", ...listeners }, String(rank));

/** A marker with a letter and a name for those who point at it. @param {string} kind - claim or file @param {string} title */
export const flagMarker = (kind, title) => el("div", { class: `marker flag ${kind}`, title }, kind === "claim" ? "C" : "F");

/** An arrow that `rotation` turns. */
export const arrowMarker = () => el("div", { class: "marker arrow" }, icon("arrow"));

function foldAttribution() {
  const control = document.querySelector(".maplibregl-ctrl-attrib");
  control?.removeAttribute("open");
  control?.classList.remove("maplibregl-compact-show");
}

/** Room around what is shown, for the key at the left and the buttons at the right; pixels. */
function roomFor({ clientWidth, clientHeight }) {
  const side = Math.min(48, clientHeight / 8);
  const key = byId("map-box").open && clientWidth > 700 ? byId("map-box").offsetWidth : 0;
  return { top: side, bottom: side, left: side + key, right: Math.min(64, clientWidth / 6) };
}

function open(database, dark) {
  const [west, south, east, north] = database.bounds;
  try {
    return new maplibregl.Map({
      container: "map",
      style: style(database, dark),
      bounds: [[west, south], [east < west ? east + 360 : east, north]],
      fitBoundsOptions: { padding: roomFor(byId("map")) },
      attributionControl: false,
      dragRotate: false,
      pitchWithRotate: false,
      touchPitch: false,
      maxZoom: 20,
      fadeDuration: 0,
      // The key goes to this service only, never to the host of an online basemap.
      transformRequest: (url) => (url.startsWith(`${location.origin}/`) ? { url, headers: headers() } : { url }),
    });
  } catch {
    byId("map").replaceChildren(
      el("p", { class: "no-map" }, "This browser cannot draw the map (it has no WebGL). Everything else on this page works without it."),
    );
    return null;
  }
}
