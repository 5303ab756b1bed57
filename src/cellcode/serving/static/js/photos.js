/** How photos come in: dropped, pasted, chosen or taken; and the row of thumbnails. They are shown from memory, never stored. */

import { byId, el, icon, announce } from "./dom.js";
import { get, set, watch } from "./store.js";

/** Start everything that takes photos. @param {() => void} ask - called when there are other photos to ask about */
export function startPhotos(ask) {
  const take = (files, add = false) => takePhotos([...files], add) && ask();
  const file = byId("file");
  const camera = byId("camera");
  let adding = false;
  const choose = (add) => {
    adding = add;
    file.click();
  };
  byId("choose").addEventListener("click", () => choose(false));
  byId("add").addEventListener("click", () => choose(true));
  byId("take").addEventListener("click", () => camera.click());
  byId("again").addEventListener("click", () => {
    removeAll();
    ask();
    byId("choose").focus();
  });
  for (const input of [file, camera]) {
    input.addEventListener("change", () => {
      take(input.files, input === file && adding);
      input.value = ""; // the same file can be chosen again
    });
  }
  startDrop(take);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files);
  });
  watch(["photos", "fuse", "answers"], (state) => showThumbs(state, ask));
  watch(["current"], markThumbs);
  byId("fuse").addEventListener("change", (event) => {
    set({ fuse: event.target.checked });
    ask();
  });
}

/** Replace the photos, or add to them. @returns {boolean} whether there are other photos now */
function takePhotos(files, add) {
  const { database, photos } = get();
  const kept = add ? photos : [];
  const refused = whyNot(files, kept.length, database?.limits);
  if (refused) {
    set({ problem: refused });
    return false;
  }
  const focused = byId("drop").contains(document.activeElement); // it is hidden now
  if (!add) removeAll();
  set({ photos: [...kept, ...files.map((each) => ({ file: each, url: URL.createObjectURL(each) }))], answers: [] });
  if (focused) byId("add").focus({ preventScroll: true });
  return true;
}

/** What the service would refuse, said before anything is sent. */
function whyNot(files, already, limits) {
  if (!files.length) return { message: "There is no file in what you gave.", action: "Give a photo as a file." };
  if (!limits) return null;
  if (files.length + already > limits.photos) {
    const action = `At most ${limits.photos} photos can be asked about at once.`;
    return { message: `These are ${files.length + already} photos.`, action };
  }
  const large = files.find((file) => file.size > limits.photo_bytes);
  if (!large) return null;
  const most = Math.floor(limits.photo_bytes / 1e6);
  return { message: `${large.name} has ${Math.ceil(large.size / 1e6)} MB.`, action: `Give a photo of at most ${most} MB.` };
}

function removeAll() {
  for (const { url } of get().photos) URL.revokeObjectURL(url);
  set({ photos: [] });
}

function remove(index, ask) {
  const photos = [...get().photos];
  URL.revokeObjectURL(photos[index].url);
  photos.splice(index, 1);
  set({ photos, answers: [] });
  announce("Photo removed.");
  ask();
  byId(photos.length ? "add" : "choose").focus();
}

/** A file may be dropped anywhere on the page; the whole window shows that it can be. */
function startDrop(take) {
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false));
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(false);
    take(event.dataTransfer.files);
  });
}

function showThumbs({ photos, fuse, answers }, ask) {
  const apart = photos.length > 1 && !fuse && answers.length === photos.length;
  byId("drop").classList.toggle("compact", photos.length > 0);
  byId("given").hidden = photos.length === 0;
  byId("fuse-row").hidden = photos.length < 2;
  byId("thumbs").replaceChildren(
    ...photos.map(({ file, url }, index) => {
      const picture = el("img", { src: url, alt: file.name, onerror: (event) => event.target.classList.add("no-preview") });
      const shown = { type: "button", class: "thumb-show", "aria-label": `Show the answer for ${file.name}` };
      return el(
        "li",
        { class: "thumb" },
        apart ? el("button", { ...shown, onclick: () => set({ current: index, selected: 0, hovered: null }) }, picture) : picture,
        answers[index]?.error && apart ? el("span", { class: "thumb-failed" }, "not read") : null,
        el(
          "button",
          { type: "button", class: "thumb-remove", "aria-label": `Remove ${file.name}`, title: "Remove", onclick: () => remove(index, ask) },
          icon("close"),
        ),
      );
    }),
  );
  markThumbs(get());
}

function markThumbs({ current }) {
  const buttons = byId("thumbs").querySelectorAll(".thumb-show");
  buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === current)));
}
