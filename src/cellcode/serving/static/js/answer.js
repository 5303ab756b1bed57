/** The answer's part of the panel: verdict, coordinates, links, what the file says, the pictures, the numbers. */

import { announce, byId, el, icon } from "./dom.js";
import { coordinates, direction, distance, percent, several } from "./format.js";
import { aerialFigure, aerialPath, photoFigure } from "./compare.js";
import { currentAnswer, currentPhotos, get, set, watch } from "./store.js";
import { problemBox } from "./ask.js";
import { kindOf, wording } from "./verdict.js";

const ICONS = { found: "inside", unsure: "unsure", outside: "outside" };

/** Show the answer whenever it changes. */
export function startAnswer() {
  watch(["answers", "current"], show);
  watch(["selected"], () => {
    const old = byId("comparison");
    if (old && currentAnswer()) old.replaceWith(comparison(currentAnswer()));
  });
}

/** @param {object} answer @returns {number|null} direction of view: as typed, else as the file says; degrees */
export const headingOf = (answer) => answer.heading_deg ?? answer.metadata?.heading_deg ?? null;

function show({ answers, current }) {
  const section = byId("answer");
  const answer = currentAnswer();
  section.hidden = answers.length === 0;
  if (answer) section.replaceChildren(...parts(answer));
  else if (answers[current]?.error) section.replaceChildren(problemBox(answers[current].error));
  else section.replaceChildren();
}

function parts(answer) {
  const { database, region } = get();
  const kind = kindOf(answer, database, region);
  const { title, text } = wording(kind, answer, database, region !== null);
  const missing = answer.search?.missing ?? [];
  const banner = el(
    "div",
    { class: `verdict ${kind}`, "data-kind": kind },
    icon(ICONS[kind]),
    el("div", {}, el("h2", { id: "answer-title" }, title), el("p", {}, text)),
  );
  return [
    banner,
    fileBanner(answer),
    ...(answer.unreadable ?? []).map(({ file, error }) => problemBox({ message: `${file}: ${error.message}`, action: error.action })),
    missing.length ? problemBox({ message: `A part of the database was not searched: ${missing.join(", ")}.`, action: "Ask again later." }) : null,
    place(answer, kind),
    comparison(answer),
    numbers(answer, database),
  ].filter(Boolean);
}

/** The position that the file carries, which the answer does not use. */
function fileBanner(answer) {
  const facts = answer.metadata;
  if (!facts || facts.lat === null || facts.lat === undefined) return null;
  const toggle = el("input", { type: "checkbox", id: "show-metadata", checked: get().showMetadata });
  toggle.addEventListener("change", () => set({ showMetadata: toggle.checked }));
  return el(
    "div",
    { class: "file-banner", id: "file-banner" },
    el("p", {}, el("strong", {}, "The photo contains a position; it was not used."), ` It lies ${distance(facts.distance_m)} from the answer. Anyone can write such a position into a file.`),
    el("label", {}, toggle, ` Show it on the map (${coordinates(facts)})`),
  );
}

function place(answer, kind) {
  const text = coordinates(answer);
  const copy = el("button", { type: "button", id: "copy", class: "small-button" }, icon("copy"), el("span", {}, "Copy"));
  copy.addEventListener("click", async () => {
    const done = await copyText(text);
    copy.lastChild.textContent = done ? "Copied" : "Select and copy by hand";
    announce(done ? `Copied ${text}` : "Copying is not allowed here; select the coordinates.");
    setTimeout(() => (copy.lastChild.textContent = "Copy"), 2500);
  });
  const label = kind === "found" ? "Answer" : "Best match";
  const heading = headingOf(answer);
  return el(
    "div",
    { class: "place" },
    el("p", { class: "place-label muted small" }, `${label}: latitude, longitude`),
    el("p", { class: "row place-row" }, el("span", { class: "coordinates", id: "coordinates" }, text), copy),
    heading === null
      ? null
      : el("p", { class: "small" }, `Looking ${direction(heading)}, ${answer.heading_deg === null || answer.heading_deg === undefined ? "as the file says" : "as you said"}.`),
    links(answer, heading),
  );
}

/** Outgoing links; the site one goes to learns the coordinates, and nothing of this page. */
function links({ lat, lon }, heading) {
  const at = `${lat.toFixed(6)},${lon.toFixed(6)}`;
  const targets = [
    ["OpenStreetMap", `https://www.openstreetmap.org/?mlat=${lat.toFixed(6)}&mlon=${lon.toFixed(6)}#map=17/${lat.toFixed(6)}/${lon.toFixed(6)}`],
    ["Panoramax", `https://api.panoramax.xyz/#focus=map&map=17/${lat.toFixed(6)}/${lon.toFixed(6)}`],
    ["Street View", `https://www.google.com/maps/@?api=1&map_action=pano&viewpoint=${at}${heading === null ? "" : `&heading=${Math.round(heading)}`}`],
  ];
  return el(
    "ul",
    { class: "links", "aria-label": "See the place on other sites" },
    ...targets.map(([name, href]) =>
      el("li", {}, el("a", { href, target: "_blank", rel: "noopener noreferrer" }, name, icon("out"), el("span", { class: "visually-hidden" }, " (new tab)"))),
    ),
  );
}

/** The photo beside the candidate that is selected. */
function comparison(answer) {
  const { database, selected } = get();
  const candidate = answer.candidates[selected] ?? answer.candidates[0];
  const [photo] = currentPhotos();
  return el(
    "div",
    { class: "comparison", id: "comparison", "data-cell": candidate.cell },
    photo ? photoFigure(photo.url, photo.file.name) : null,
    aerialFigure(database.imagery ? aerialPath(candidate.cell) : null, `Place ${selected + 1} from above`, database.cell_edge_m),
  );
}

function numbers(answer, database) {
  const rows = [
    ["Half of such photos within", answer.radius_50_m === null ? "not known" : distance(answer.radius_50_m)],
    ["Nine of ten within", answer.radius_90_m === null ? "not known" : distance(answer.radius_90_m)],
    ["Probability of the best cell", percent(answer.probability)],
    ["Looks as if taken in this region", answer.inside_probability === null ? "not known" : percent(answer.inside_probability)],
    ["Cell (S2 token)", answer.cell],
    ["Similarity of photo and cell", answer.score.toFixed(3)],
    ["Cells compared", `${several(answer.search.cells, "cell")}${answer.search.exact ? "" : ", the closest ones exactly"}`],
  ];
  return el(
    "details",
    { class: "numbers" },
    el("summary", {}, "The numbers"),
    el("dl", {}, ...rows.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)])),
    el(
      "p",
      { class: "muted small" },
      "The circles were measured on photos whose places are known. The probability is shared among all cells of about " +
        `${Math.round(database.cell_edge_m)} m that were compared; the similarity of one photo cannot be compared with another’s.`,
    ),
  );
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection()?.selectAllChildren(byId("coordinates"));
    return false;
  }
}
