/** Short ways to make and find elements. Text is always set as text, never as HTML. */

/** @param {string} id @returns {HTMLElement} */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] - `on...` adds a listener, true an empty attribute; null and false are left out
 * @param {...(Node|string|null)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  inside: "M12 21s-6.5-5.6-6.5-11a6.5 6.5 0 0 1 13 0c0 5.4-6.5 11-6.5 11Zm0-8.4a2.6 2.6 0 1 0 0-5.2 2.6 2.6 0 0 0 0 5.2Z",
  unsure: "M9 9a3 3 0 1 1 4.6 2.5c-1 .7-1.6 1.3-1.6 2.5m0 3.2v.1M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Z",
  outside: "M12 8v5m0 3.2v.1M12 3 2.5 20h19L12 3Z",
  yes: "m5 12.5 4.5 4.5L19 7.5",
  no: "m6 6 12 12M18 6 6 18",
  close: "m7 7 10 10M17 7 7 17",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  out: "M14 5h5v5M19 5l-8 8M17 14v5H5V7h5",
  arrow: "M12 2 18 20 12 16 6 20Z",
};

/** @param {keyof PATHS} name @returns {SVGElement} a small drawing that screen readers skip. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" })) {
    svg.setAttribute(key, value);
  }
  return svg;
}

/** Say something to screen readers. @param {string} text */
export function announce(text) {
  byId("live").textContent = text;
}
