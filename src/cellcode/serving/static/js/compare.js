/** Pictures beside each other: the photo as its taker saw it, and places as seen from above. */

import { image } from "./api.js";
import { el } from "./dom.js";

/** @param {string} url - object URL @param {string} name - of the file @returns {HTMLElement} */
export function photoFigure(url, name) {
  const failed = (event) => event.target.replaceWith(el("p", { class: "no-picture" }, "This browser cannot show the photo."));
  return figure(el("img", { src: url, alt: `Your photo ${name}`, class: "whole", onerror: failed }), "Your photo");
}

/**
 * The aerial crop of a cell, north up, twice as wide as the cell.
 * @param {string|null} path - null where the database has no imagery
 * @param {string} caption @param {number} edgeM - of the cell, metres
 * @returns {HTMLElement} filled in when the picture has come
 */
export function aerialFigure(path, caption, edgeM) {
  const frame = el("div", { class: "aerial" });
  const text = `Aerial image, ${caption}, about ${Math.round(2 * edgeM)} m wide, north up`;
  if (path === null) frame.append(noImage());
  else {
    image(path).then(
      (url) => frame.replaceChildren(el("img", { src: url, alt: text }), el("span", { class: "cell-frame", "aria-hidden": "true" })),
      () => frame.replaceChildren(noImage()),
    );
  }
  return figure(frame, caption);
}

/** @param {string} token - of a cell @param {number} [sizePx] @returns {string} where its aerial crop is */
export const aerialPath = (token, sizePx = 256) => `/v1/cells/${token}/aerial.jpg?size_px=${sizePx}`;

function figure(picture, caption) {
  return el("figure", { class: "picture" }, picture, el("figcaption", {}, caption));
}

const noImage = () => el("p", { class: "no-picture" }, "No aerial image here.");
