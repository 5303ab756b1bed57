/** On a phone the panel is a sheet over the map's lower part: two heights, changed by a button or by dragging it. */

import { byId } from "./dom.js";
import { watch } from "./store.js";

/** Start the handle. */
export function startSheet() {
  const panel = byId("panel");
  const set = (tall) => {
    panel.classList.toggle("tall", tall);
    byId("handle").setAttribute("aria-expanded", String(tall));
    byId("handle-text").textContent = tall ? "Make this panel smaller" : "Make this panel taller";
  };
  let from = null;
  byId("handle").addEventListener("pointerdown", (event) => {
    from = event.clientY;
    byId("handle").setPointerCapture(event.pointerId); // so that the drag ends here, wherever the finger is
  });
  byId("handle").addEventListener("click", (event) => {
    const moved = event.detail && from !== null ? from - event.clientY : 0; // a key press has no detail
    set(Math.abs(moved) > 12 ? moved > 0 : !panel.classList.contains("tall"));
  });
  watch(["tool"], ({ tool }) => tool && set(false)); // the map must be seen to draw on it
}
