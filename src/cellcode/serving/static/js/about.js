/** What the database is made of: the line under the name, licences, attributions, limits. */

import { byId, el } from "./dom.js";
import { several } from "./format.js";
import { watch } from "./store.js";

/** Show them once the database is known. */
export function startAbout() {
  watch(["database"], ({ database }) => database && show(database));
}

function show(database) {
  const edge = Math.round(database.cell_edge_m);
  byId("database-line").textContent = `${database.name || "Database"}: ${several(database.cells.total, "cell")} of about ${edge} m`;
  const { imagery } = database;
  const outside = database.tells_outside
    ? "It can tell that a photo was probably taken elsewhere."
    : "It cannot tell that a photo was taken elsewhere: every photo gets a place in this region.";
  const both = database.cells.both.toLocaleString("en");
  byId("about").replaceChildren(
    el(
      "details",
      { class: "block" },
      el("summary", {}, el("h2", {}, "About the data")),
      el(
        "div",
        { class: "small" },
        el(
          "p",
          {},
          `Learned from ${several(database.training_photos, "photo")}; of ${several(database.cells.total, "cell")}, ${both} know both photos and ` +
            `aerial imagery, ${database.cells.aerial_only.toLocaleString("en")} only imagery. ${outside}`,
        ),
        list("Licences", database.licences),
        list("Attributions", database.attributions),
        imagery ? list("Imagery", [[imagery.attribution, imagery.date].filter(Boolean).join(", ")]) : null,
        el("p", {}, "Country outlines: Natural Earth, public domain. Map: MapLibre GL, BSD licence."),
        el("p", { class: "muted" }, `Database ${database.identity}, cellcode ${database.version}.`),
      ),
    ),
    el(
      "p",
      { class: "muted small" },
      "The answer is a statistical guess from what the photo shows. Do not use it to find a person against their will, and do not publish it as a fact without a second source.",
    ),
  );
}

function list(title, texts) {
  if (!texts.length) return null;
  return el("p", {}, el("strong", {}, `${title}: `), texts.join("; "));
}
