/** The posterior as coloured cells. Colour tells the probability per finest cell, so that a large cell is not redder for its size. */

import { polygon } from "./s2.js";
import { byId, el } from "./dom.js";
import { percent } from "./format.js";

/**
 * Six steps of the colour map inferno: lightness rises evenly, so the order is seen with every kind of colour vision and in
 * grey (S. van der Walt, N. Smith, matplotlib 1.5).
 */
export const COLOURS = ["#2c105c", "#711f81", "#b63679", "#ee605e", "#fdae78", "#fcfdbf"];
export const OPACITIES = [0.06, 0.3, 0.45, 0.55, 0.6, 0.62];

/**
 * @param {{tokens: string[], mass: number[]}} heat - of the service
 * @param {number} cellLevel - level of the finest cells
 * @returns {{features: object, breaks: number[]}} GeoJSON with the class 0..5 of each cell as `c`; the lower bounds of the
 *     classes 1..5 as probability per finest cell, ascending
 */
export function classify(heat, cellLevel) {
  const perCell = heat.tokens.map((token, k) => heat.mass[k] / 4 ** (cellLevel - level(token)));
  const breaks = steps(perCell.reduce((most, value) => Math.max(most, value), 0));
  const features = heat.tokens.map((token, k) => ({
    type: "Feature",
    properties: { c: breaks.filter((bound) => perCell[k] >= bound).length },
    geometry: polygon(token),
  }));
  return { features: { type: "FeatureCollection", features }, breaks };
}

/**
 * Show what the colours mean.
 * @param {number[]|null} breaks - null hides it
 * @param {number} edgeM - of the finest cells, metres
 * @param {number} rest - share of the probability in cells that are not drawn
 */
export function showLegend(breaks, edgeM, rest) {
  const legend = byId("legend");
  legend.hidden = breaks === null;
  if (breaks === null) return;
  const rows = COLOURS.map((_, c) => {
    const text = c === 0 ? `below ${percent(breaks[0])}` : `${percent(breaks[c - 1])}${c === 5 ? " and more" : ""}`;
    return el("li", {}, el("span", { class: `swatch heat-${c}`, "aria-hidden": "true" }), text);
  });
  byId("legend-title").textContent = `Probability per cell of ${Math.round(edgeM)} m`;
  byId("legend-rows").replaceChildren(...rows.reverse());
  byId("legend-rest").textContent = rest < 0.005 ? "" : `${percent(rest)} lies in cells that are not drawn.`;
}

/** Five lower bounds, 1 or 3 times a power of ten, the last one below the largest value. */
function steps(largest) {
  if (!(largest > 0)) return [1e-5, 3e-5, 1e-4, 3e-4, 1e-3];
  let exponent = Math.floor(Math.log10(largest));
  let three = largest >= 3 * 10 ** exponent;
  const made = [];
  for (let k = 0; k < 5; k += 1) {
    made.unshift((three ? 3 : 1) * 10 ** exponent);
    if (!three) exponent -= 1;
    three = !three;
  }
  return made;
}

/** The level of a token without decoding it: its last digit and its length tell. */
function level(token) {
  const last = parseInt(token.at(-1), 16);
  const zeros = 4 * (16 - token.length) + (31 - Math.clz32(last & -last));
  return 30 - zeros / 2;
}
