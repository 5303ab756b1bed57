/** The check of a claimed place: typed or clicked; verdict, how it compares with all other cells, both places from above. */

import { form, json } from "./api.js";
import { problemBox, problemOf } from "./ask.js";
import { aerialFigure, photoFigure } from "./compare.js";
import { announce, byId, el, icon } from "./dom.js";
import { coordinates, distance, parsePlace, percent } from "./format.js";
import { currentPhotos, get, set, watch } from "./store.js";

const VERDICTS = {
  plausible: ["yes", "Plausible"],
  implausible: ["no", "Not plausible"],
  not_sure: ["unsure", "Cannot tell"],
  outside_database: ["outside", "Outside the database"],
};

/** @param {import("./draw.js").Drawing} drawing */
export function startClaim(drawing) {
  byId("claim-pick").disabled = !drawing.view.works;
  byId("claim-pick").addEventListener("click", () => {
    if (get().tool === "claim") return drawing.stop();
    drawing.start("claim", ([place]) => check(place), () => set({ tool: null }));
    return set({ tool: "claim" });
  });
  byId("claim-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const place = parsePlace(byId("claim-text").value);
    note(place ? "" : "Type latitude and longitude in degrees, such as 52.02, 3.116.");
    if (place) check(place);
  });
  byId("claim-clear").addEventListener("click", () => {
    byId("claim-text").value = "";
    set({ claim: null, verification: null });
    byId("claim-text").focus();
  });
  watch(["tool"], ({ tool }) => byId("claim-pick").setAttribute("aria-pressed", String(tool === "claim")));
  watch(["claim"], ({ claim }) => {
    byId("claim-clear").hidden = claim === null;
    if (claim) byId("claim-text").value = coordinates(claim);
  });
  watch(["verification"], ({ verification }) => byId("claim-result").replaceChildren(...(verification ? result(verification) : [])));
}

async function check(place) {
  set({ claim: place, verification: null });
  const [photo] = currentPhotos();
  if (!photo) return note("Give a photo first; then its place can be checked.");
  note("Checking…");
  const { region } = get();
  const body = form({ photo: photo.file, lat: place.lat, lon: place.lon, region: region?.text });
  try {
    const verification = await json("/v1/verify", { method: "POST", body });
    if (get().claim !== place) return undefined; // another place was claimed meanwhile
    note("");
    set({ verification });
    announce(`${VERDICTS[verification.verdict][1]}. ${verification.reason}`);
  } catch (error) {
    note("");
    byId("claim-result").replaceChildren(problemBox(problemOf(error)));
  }
  return undefined;
}

function result(verification) {
  const { verdict, reason, claim, aerial } = verification;
  const { database } = get();
  const [sign, title] = VERDICTS[verdict];
  const [photo] = currentPhotos();
  const rows = [
    ["Scores higher than", claim.percentile === null ? null : `${Number(claim.percentile.toFixed(1))} % of all cells`],
    ["Rank among all cells", claim.rank === null ? null : claim.rank.toLocaleString("en")],
    ["Probability of its cell", claim.probability === null ? null : percent(claim.probability)],
    ["Distance to the answer", distance(verification.distance_m)],
    ["Inside the circle of", verification.within === null ? "neither" : verification.within === "50" ? "one half" : "nine tenths"],
  ];
  return [
    el("div", { class: `verdict claim-${verdict}`, "data-verdict": verdict }, icon(sign), el("div", {}, el("h3", {}, title), el("p", {}, reason))),
    el("dl", {}, ...rows.filter(([, value]) => value !== null).flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)])),
    el(
      "div",
      { class: "comparison three" },
      photo ? photoFigure(photo.url, photo.file.name) : null,
      aerialFigure(aerial.claim, "The claim", database.cell_edge_m),
      aerialFigure(aerial.answer, "The answer", database.cell_edge_m),
    ),
  ];
}

function note(text) {
  byId("claim-note").textContent = text;
}
