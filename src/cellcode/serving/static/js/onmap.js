/** What the map shows of the state: region, heat, circles, candidates, claim, the file's position, direction of view. */

import { boundsOf, boxPolygon, circlePolygon } from "./geo.js";
import { byId } from "./dom.js";
import { headingOf } from "./answer.js";
import { classify, showLegend } from "./heat.js";
import { arrowMarker, flagMarker, rankMarker } from "./map.js";
import { polygon } from "./s2.js";
import { currentAnswer, get, set, watch } from "./store.js";
import { kindOf } from "./verdict.js";

const feature = (geometry, properties = {}) => ({ type: "Feature", geometry, properties });

/** Keep the map as the state is. @param {import("./map.js").MapView} view @param {(candidate: object) => void} go */
export function startOnMap(view, go) {
  view.setShape("bounds", [feature(boxPolygon(view.database.bounds))]);
  watch(["answers", "current"], () => showAnswer(view, go));
  watch(["answers", "current", "showHeat"], () => showHeat(view));
  watch(["answers", "current", "selected", "hovered"], () => showCells(view));
  watch(["region"], ({ region }) => showRegion(view, region));
  watch(["answers", "current", "claim", "showMetadata"], () => showOthers(view));
  watch(["showImagery"], ({ showImagery }) => view.setImagery(showImagery));
  watch(["showOnline"], ({ showOnline }) => view.setOnline(showOnline));
}

function showAnswer(view, go) {
  const answer = currentAnswer();
  view.clearMarkers("rank");
  view.setMarker("heading", null);
  view.setShape("circles", []);
  byId("circle-key").hidden = true;
  if (!answer) return;
  const { database, region } = get();
  const kind = kindOf(answer, database, region);
  // Outside, the circles would promise what they were not measured for.
  const circles = [[50, answer.radius_50_m], [90, answer.radius_90_m]].map(([share, radius]) => feature(circlePolygon(answer, radius), { share }));
  const measured = kind !== "outside" && answer.radius_90_m !== null;
  if (measured) view.setShape("circles", circles);
  byId("circle-key").hidden = !measured;
  answer.candidates.forEach((candidate, index) => {
    const listeners = {
      onclick: (event) => {
        event.stopPropagation();
        if (get().tool) return;
        set({ selected: index });
        go(candidate);
      },
      onmouseenter: () => set({ hovered: index }),
      onmouseleave: () => set({ hovered: null }),
    };
    view.setMarker(`rank${index}`, candidate, rankMarker(index + 1, listeners));
  });
  const heading = headingOf(answer);
  if (heading !== null) view.setMarker("heading", answer, arrowMarker(), { rotation: heading, rotationAlignment: "map" });
  if (kind === "found") view.fit(boundsOf(circles[1].geometry));
  else view.fit(region ? boundsOf(region.polygon) : database.bounds);
}

function showHeat(view) {
  const { database, showHeat: on } = get();
  const heat = currentAnswer()?.heat;
  if (!heat?.tokens.length || !on) {
    view.setShape("heat", []);
    showLegend(null, 0, 0);
    return;
  }
  const { features, breaks } = classify(heat, database.levels.cell);
  view.setShape("heat", features.features);
  showLegend(breaks, database.cell_edge_m, heat.rest);
}

function showCells(view) {
  const { selected, hovered } = get();
  const candidates = currentAnswer()?.candidates ?? [];
  const active = (index) => index === (hovered ?? selected);
  view.setShape("cells", candidates.map(({ cell }, index) => feature(polygon(cell), { active: active(index) })));
  candidates.forEach((_, index) => {
    const element = view.markers.get(`rank${index}`)?.getElement();
    element?.classList.toggle("active", active(index));
    element?.classList.toggle("best", index === 0);
  });
}

function showRegion(view, region) {
  view.setShape("region", region ? [feature(region.polygon)] : []);
  const world = [[-540, -85], [540, -85], [540, 85], [-540, 85], [-540, -85]];
  view.setShape("shade", region ? [feature({ type: "Polygon", coordinates: [world, ...region.polygon.coordinates] })] : []);
}

/** Places that others give, each with a line to the answer. */
function showOthers(view) {
  const answer = currentAnswer();
  const { claim, showMetadata } = get();
  const facts = showMetadata && answer?.metadata?.lat !== undefined ? answer.metadata : null;
  view.setMarker("claim", claim, flagMarker("claim", "The claimed place"));
  view.setMarker("file", facts, flagMarker("file", "The position in the file"));
  const lines = [["claim", claim], ["file", facts]]
    .filter(([, place]) => place && answer)
    .map(([kind, { lat, lon }]) => feature({ type: "LineString", coordinates: [[lon, lat], [answer.lon, answer.lat]] }, { kind }));
  view.setShape("lines", lines);
  const shown = [claim, facts].filter(Boolean);
  if (!shown.length || !answer) return;
  const all = [...shown, answer];
  view.fit([
    Math.min(...all.map(({ lon }) => lon)), Math.min(...all.map(({ lat }) => lat)),
    Math.max(...all.map(({ lon }) => lon)), Math.max(...all.map(({ lat }) => lat)),
  ]);
}
