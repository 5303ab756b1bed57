/** The ranked list of places, linked with the map by pointer, focus and keys. */

import { aerialPath } from "./compare.js";
import { image } from "./api.js";
import { byId, el } from "./dom.js";
import { coordinates, distance, percent } from "./format.js";
import { distanceM } from "./geo.js";
import { currentAnswer, get, set, watch } from "./store.js";

/** Show the list. @param {(candidate: object) => void} go - show a candidate on the map */
export function startPlaces(go) {
  watch(["answers", "current"], () => {
    const answer = currentAnswer();
    byId("places").hidden = !answer;
    byId("place-list").replaceChildren(...(answer?.candidates ?? []).map((candidate, index) => row(answer, candidate, index, go)));
    mark();
  });
  watch(["selected", "hovered"], mark);
  byId("place-list").addEventListener("keydown", move);
}

function row(answer, candidate, index, go) {
  const { database } = get();
  const small = el("span", { class: "place-image" });
  if (database.imagery) image(aerialPath(candidate.cell)).then((src) => small.append(el("img", { src, alt: "" })), () => {});
  const away = index ? `${distance(distanceM(candidate, answer))} from the first` : "the answer";
  const button = el(
    "button",
    {
      type: "button",
      class: "place-button",
      "data-cell": candidate.cell,
      onclick: () => {
        set({ selected: index });
        go(candidate);
      },
      onmouseenter: () => set({ hovered: index }),
      onmouseleave: () => set({ hovered: null }),
      onfocus: () => set({ hovered: index }),
      onblur: () => set({ hovered: null }),
    },
    el("span", { class: "place-rank", "aria-hidden": "true" }, String(index + 1)),
    small,
    el("span", { class: "place-words" }, el("span", { class: "place-coordinates" }, coordinates(candidate)), el("span", { class: "muted small" }, away)),
    el("span", { class: "place-share" }, el("span", { class: "visually-hidden" }, "probability "), percent(candidate.probability)),
  );
  return el("li", {}, button);
}

function mark() {
  const { selected, hovered } = get();
  byId("place-list")
    .querySelectorAll(".place-button")
    .forEach((button, index) => {
      button.setAttribute("aria-pressed", String(index === selected));
      button.classList.toggle("active", index === hovered);
    });
}

/** Arrow keys, Home and End move through the list. */
function move(event) {
  const buttons = [...byId("place-list").querySelectorAll(".place-button")];
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (at < 0 || to === undefined || !buttons[to]) return;
  event.preventDefault();
  buttons[to].focus();
}
