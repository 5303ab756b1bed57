/** Starts the page: learns what the database is, then wires the parts together. */

import { startAbout } from "./about.js";
import { startAnswer } from "./answer.js";
import { json } from "./api.js";
import { startArea } from "./area.js";
import { ask, problemOf, startAsking } from "./ask.js";
import { startClaim } from "./claim.js";
import { byId } from "./dom.js";
import { Drawing } from "./draw.js";
import { startExports } from "./exports.js";
import { MapView } from "./map.js";
import { startOnMap } from "./onmap.js";
import { startPhotos } from "./photos.js";
import { startPlaces } from "./places.js";
import { startSheet } from "./sheet.js";
import { get, set } from "./store.js";
import { isDark, startTheme } from "./theme.js";

const CANDIDATE_ZOOM = 15; // a cell of a hundred metres is then about fifty pixels wide

async function start() {
  startAsking();
  startAbout();
  let database;
  try {
    database = await json("/v1/database");
  } catch (error) {
    byId("database-line").textContent = "Not connected";
    set({ problem: problemOf(error) });
    startTheme(() => {});
    return;
  }
  set({ database });
  showRows(database);
  const view = new MapView(database, isDark());
  const go = (candidate) => view.show(candidate, CANDIDATE_ZOOM);
  const drawing = new Drawing(view, database.limits.region_vertices);
  startTheme((dark) => view.setTheme(dark));
  startAnswer();
  startPlaces(go);
  startOnMap(view, go);
  startPhotos(ask);
  startClaim(drawing);
  startArea(drawing, ask);
  startHeading();
  startExports();
  startSheet();
  startLayers();
  // For tests and for those who look behind the page; nothing here is an interface.
  window.cellcode = { map: view.map, state: get };
  document.documentElement.dataset.ready = "";
}

function startHeading() {
  byId("heading-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("heading").value.trim();
    const valid = text === "" || (Number.isFinite(Number(text)) && Number(text) >= 0 && Number(text) <= 360);
    byId("heading-note").textContent = valid ? "" : "Type a number from 0 to 360.";
    if (!valid) return;
    set({ heading: text === "" ? null : Number(text) % 360 });
    ask();
  });
}

/** What can be shown on the map; before the map is made, which leaves room for it. */
function showRows({ imagery, basemap }) {
  byId("show-imagery-row").hidden = !imagery;
  byId("show-online-row").hidden = !basemap;
  if (basemap) {
    const host = new URL(basemap.url.replaceAll(/[{}]/g, "")).host;
    byId("online-note").textContent = `asks ${host}, which then sees your address and where you look`;
  }
  byId("map-box").open = matchMedia("(min-width: 760px)").matches;
}

function startLayers() {
  const box = (id, field) => byId(id).addEventListener("change", (event) => set({ [field]: event.target.checked }));
  box("show-heat", "showHeat");
  box("show-imagery", "showImagery");
  box("show-online", "showOnline");
}

start();
