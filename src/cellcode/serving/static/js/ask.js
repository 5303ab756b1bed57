/** Asking: one question at a time; a new one replaces the one that is on its way, and the user can cancel it. */

import { ApiError, form, json } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { distance } from "./format.js";
import { currentAnswer, get, set, watch } from "./store.js";
import { kindOf, wording } from "./verdict.js";

/** @type {AbortController|null} */
let asked = null;

/** Show waiting, cancelling and problems. */
export function startAsking() {
  byId("cancel").addEventListener("click", () => {
    asked?.abort();
    set({ pending: false, answers: [] });
    announce("Cancelled.");
    byId("retry").focus();
  });
  byId("retry").addEventListener("click", () => {
    byId("add").focus(); // this button goes away
    ask();
  });
  watch(["pending", "photos", "answers"], ({ pending, photos, answers }) => {
    byId("wait").hidden = !pending;
    byId("retry").hidden = pending || photos.length === 0 || answers.length > 0;
    byId("content").setAttribute("aria-busy", String(pending));
  });
  watch(["problem"], ({ problem }) => byId("problem").replaceChildren(...(problem ? [problemBox(problem)] : [])));
}

/** Ask about the photos as they are now; without photos the page is empty again. */
export async function ask() {
  asked?.abort();
  set({ problem: null, verification: null });
  const { photos, fuse, heading, region } = get();
  if (!photos.length) {
    set({ answers: [], current: 0, selected: 0, pending: false });
    return;
  }
  const mine = new AbortController();
  asked = mine;
  set({ pending: true });
  byId("wait-text").textContent = photos.length > 1 ? `Looking at ${photos.length} photos…` : "Looking for the place…";
  const body = form({
    photo: photos.map(({ file }) => file),
    heat: true,
    fuse: fuse && photos.length > 1 ? true : null,
    heading_deg: heading,
    region: region?.text,
  });
  try {
    const { answers } = await json("/v1/locate", { method: "POST", body, signal: mine.signal });
    if (mine.signal.aborted) return;
    const current = Math.max(0, answers.findIndex((answer) => !answer.error));
    set({ answers, current, selected: 0, hovered: null, pending: false, showMetadata: false });
    say();
    const phone = matchMedia("(max-width: 759px)").matches;
    document.querySelector("#answer .verdict")?.scrollIntoView({ block: phone ? "start" : "nearest" });
  } catch (error) {
    if (error.name === "AbortError") return;
    set({ answers: [], pending: false, problem: problemOf(error) });
  }
}

/** @param {Error} error @returns {{message: string, action: string}} */
export function problemOf(error) {
  if (error instanceof ApiError) return { message: error.message, action: error.action };
  console.error(error);
  return { message: "Something went wrong on this page.", action: "Reload it and try again." };
}

/** @param {{message: string, action: string}} problem @returns {HTMLElement} */
export const problemBox = ({ message, action }) => el("div", { class: "problem" }, el("p", {}, el("strong", {}, message)), el("p", {}, action));

function say() {
  const answer = currentAnswer();
  if (!answer) return;
  const { database, region } = get();
  const { title } = wording(kindOf(answer, database, region), answer, database, region !== null);
  const within = answer.radius_50_m === null ? "" : `, within ${distance(answer.radius_50_m)} half of the time`;
  announce(`${title}. ${answer.candidates.length} places are listed, the best at ${answer.lat.toFixed(4)}, ${answer.lon.toFixed(4)}${within}.`);
}
