/** Light and dark: as the system says, or as the user chose with the switch. */

import { byId } from "./dom.js";

const KEY = "cellcode-theme"; // in localStorage: "light" or "dark"; nothing follows the system
const system = matchMedia("(prefers-color-scheme: dark)");

/** @returns {boolean} */
export const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

/** Start the switch. @param {(dark: boolean) => void} changed - called at every change */
export function startTheme(changed) {
  const button = byId("theme");
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    changed(isDark());
  };
  const stored = localStorage.getItem(KEY);
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
  button.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    if ((chosen === "dark") === system.matches) localStorage.removeItem(KEY); // the same as the system: follow it again
    else localStorage.setItem(KEY, chosen);
    show();
  });
  system.addEventListener("change", show);
  show();
}
