/** How the map is drawn: sources and layers of the style, from the ground up, in two sets of colours. No fonts, no icons. */

import { COLOURS, OPACITIES } from "./heat.js";

const LIGHT = { sea: "#e6ebef", land: "#f6f5f1", border: "#b3bac2", accent: "#0a5cbf", halo: "#ffffff", shade: "#10151a" };
const DARK = { sea: "#12161a", land: "#1d2328", border: "#4a545e", accent: "#7ab8ff", halo: "#06131f", shade: "#000000" };
const CLAIM = { light: "#8a3ffc", dark: "#d0a8ff" };
const FILE = { light: "#a2440a", dark: "#ffb27a" };

const EMPTY = { type: "FeatureCollection", features: [] };
export const SHAPES = ["bounds", "region", "shade", "heat", "circles", "cells", "lines", "draft"];

/**
 * @param {object} database - the answer of GET /v1/database
 * @param {boolean} dark
 * @returns {object} a MapLibre style without the online basemap
 */
export function style(database, dark) {
  const here = location.origin;
  const sources = { world: { type: "geojson", data: `${here}/static/vendor/natural-earth/world.geojson`, attribution: "Natural Earth" } };
  for (const name of SHAPES) sources[name] = { type: "geojson", data: EMPTY, tolerance: 0.1, buffer: 16 };
  if (database.imagery) {
    sources.imagery = {
      type: "raster",
      tiles: [`${here}/v1/tiles/{z}/{x}/{y}.webp`],
      tileSize: 256,
      minzoom: database.imagery.min_zoom,
      maxzoom: database.imagery.max_zoom,
      bounds: database.bounds,
      attribution: escapeHtml([database.imagery.attribution, database.imagery.date].filter(Boolean).join(", ")),
    };
  }
  return { version: 8, sources, layers: layers(database.imagery !== null, dark), transition: { duration: 150 } };
}

/** The online basemap's source. @param {{url: string, attribution: string}} basemap */
export const onlineSource = (basemap) => ({
  type: "raster",
  tiles: [basemap.url],
  tileSize: 256,
  maxzoom: 19,
  attribution: escapeHtml(basemap.attribution),
});

/** @param {boolean} dark */
export const onlineLayer = (dark) => ({
  id: "online",
  type: "raster",
  source: "online",
  paint: dark ? { "raster-brightness-max": 0.7, "raster-saturation": -0.3 } : {},
});

function layers(imagery, dark) {
  const colour = dark ? DARK : LIGHT;
  const theme = dark ? "dark" : "light";
  const kind = (name) => ["==", ["get", "kind"], name];
  const line = (id, source, paint, filter) => ({
    id,
    type: "line",
    source,
    layout: { "line-join": "round", "line-cap": "butt" },
    paint,
    ...(filter && { filter }),
  });
  // The outlines are off by kilometres: they fade out before single streets are seen.
  const fading = (opacity) => ["interpolate", ["linear"], ["zoom"], 7, opacity, 10, 0];
  const made = [
    { id: "sea", type: "background", paint: { "background-color": colour.sea } },
    { id: "land", type: "fill", source: "world", filter: kind("land"), paint: { "fill-color": colour.land, "fill-opacity": fading(1) } },
    line("coast", "world", { "line-color": colour.border, "line-width": 1, "line-opacity": fading(1) }, kind("land")),
    line("borders", "world", { "line-color": colour.border, "line-width": 0.8, "line-opacity": fading(0.8) }, kind("border")),
  ];
  if (imagery) {
    made.push({
      id: "imagery",
      type: "raster",
      source: "imagery",
      paint: { "raster-saturation": -0.45, "raster-brightness-max": dark ? 0.8 : 1, "raster-fade-duration": 100 },
    });
  }
  made.push(
    line("bounds", "bounds", { "line-color": colour.border, "line-width": 1.5 }),
    {
      id: "heat",
      type: "fill",
      source: "heat",
      paint: {
        "fill-antialias": false,
        "fill-color": ["match", ["get", "c"], ...COLOURS.slice(0, 5).flatMap((each, c) => [c, each]), COLOURS[5]],
        "fill-opacity": ["match", ["get", "c"], ...OPACITIES.slice(0, 5).flatMap((each, c) => [c, each]), OPACITIES[5]],
      },
    },
    { id: "shade", type: "fill", source: "shade", paint: { "fill-color": colour.shade, "fill-opacity": 0.35 } },
    line("region", "region", { "line-color": colour.accent, "line-width": 2.5 }),
    line("circles-halo", "circles", { "line-color": colour.halo, "line-width": 5, "line-opacity": 0.75 }),
    line("circle-50", "circles", { "line-color": colour.accent, "line-width": 2.5 }, ["==", ["get", "share"], 50]),
    line("circle-90", "circles", { "line-color": colour.accent, "line-width": 2.5, "line-dasharray": [3, 2] }, ["==", ["get", "share"], 90]),
    line("cells-halo", "cells", { "line-color": colour.halo, "line-width": ["case", ["get", "active"], 6, 4], "line-opacity": 0.9 }),
    line("cells", "cells", { "line-color": colour.accent, "line-width": ["case", ["get", "active"], 4, 1.5] }),
    line("lines-halo", "lines", { "line-color": colour.halo, "line-width": 6, "line-opacity": 0.85 }),
    line("lines", "lines", { "line-color": ["match", ["get", "kind"], "claim", CLAIM[theme], FILE[theme]], "line-width": 3, "line-dasharray": [3, 1] }),
    { id: "draft-fill", type: "fill", source: "draft", paint: { "fill-color": colour.accent, "fill-opacity": 0.15 } },
    line("draft", "draft", { "line-color": colour.accent, "line-width": 2.5, "line-dasharray": [2, 1] }),
  );
  return made;
}

/** Attributions are somebody's text and MapLibre takes HTML. */
function escapeHtml(text) {
  return text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
