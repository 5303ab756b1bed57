/** Files of the answers, made in the browser: GeoJSON (RFC 7946, longitude first) and CSV (RFC 4180). */

import { byId } from "./dom.js";
import { circlePolygon } from "./geo.js";
import { polygon } from "./s2.js";
import { get, watch } from "./store.js";

/** Start both buttons. */
export function startExports() {
  byId("export-geojson").addEventListener("click", () => save("cellcode.geojson", "application/geo+json", JSON.stringify(toGeojson(good()), null, 1)));
  byId("export-csv").addEventListener("click", () => save("cellcode.csv", "text/csv", toCsv(good())));
  watch(["answers"], () => (byId("export").hidden = good().length === 0));
}

/** @param {object[]} answers @returns {object} FeatureCollection: of each answer the cells by rank and the two circles */
export function toGeojson(answers) {
  const feature = (geometry, properties) => ({ type: "Feature", geometry, properties });
  const { database, region } = get();
  const features = answers.flatMap((answer) => {
    const file = nameOf(answer);
    const facts = { in_region: answer.in_region, inside_probability: answer.inside_probability };
    return [
      feature({ type: "Point", coordinates: [answer.lon, answer.lat] }, { kind: "answer", file, cell: answer.cell, ...circles(answer), ...facts }),
      ...answer.candidates.map(({ lat, lon, cell, score, probability }, index) =>
        feature(polygon(cell), { kind: "candidate", file, rank: index + 1, lat, lon, cell, score, probability }),
      ),
      ...[[0.5, answer.radius_50_m], [0.9, answer.radius_90_m]]
        .filter(([, radius_m]) => radius_m !== null)
        .map(([share, radius_m]) => feature(circlePolygon(answer, radius_m), { kind: "circle", file, share, radius_m })),
    ];
  });
  const about = { name: database.name, identity: database.identity, region: region?.text ?? null, attributions: database.attributions };
  return { type: "FeatureCollection", features, cellcode: about };
}

/** @param {object[]} answers @returns {string} a row for each candidate of each answer */
export function toCsv(answers) {
  const header = ["file", "rank", "lat", "lon", "cell", "score", "probability", "radius_50_m", "radius_90_m", "in_region", "inside_probability"];
  const rows = answers.flatMap((answer) =>
    answer.candidates.map(({ lat, lon, cell, score, probability }, index) => [
      ...[nameOf(answer), index + 1, lat, lon, cell, score, probability],
      ...[answer.radius_50_m, answer.radius_90_m, answer.in_region, answer.inside_probability],
    ]),
  );
  return [header, ...rows].map((row) => `${row.map(cellText).join(",")}\r\n`).join("");
}

const good = () => get().answers.filter((answer) => !answer.error);
const nameOf = (answer) => answer.file ?? answer.files.join(" + ");
const circles = ({ radius_50_m, radius_90_m }) => ({ radius_50_m, radius_90_m });

function cellText(value) {
  if (typeof value !== "string") return value === null || value === undefined ? "" : String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value; // a file's name must not become a formula
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
